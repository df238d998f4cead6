//! Whether a start may begin now, waits, or is refused. Pure: `(wanted, load, limits) -> decision`.
//!
//! A user's own limit refuses at once: waiting would not help as long as that user's other sessions live. Everything that other
//! sessions will free (VMs, memory, addresses) makes a start wait in order of arrival, as long as the queue has room.

use serde::{Deserialize, Serialize};

/// What an operator allows, `[limits]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// VMs at once; 0: as many as memory and addresses allow.
    pub vms: u32,
    /// Sessions of one user at once, waiting ones included; 0: no limit.
    pub sessions_per_user: u32,
    /// Sessions that may wait.
    pub queue: u32,
    /// Memory of the host that guests never get, in MiB.
    pub reserve_mib: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { vms: 0, sessions_per_user: 10, queue: 32, reserve_mib: 512 }
    }
}

/// What is there and what is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// VMs that something is left of.
    pub vms: u32,
    /// Sessions of the same user that have not ended.
    pub sessions_of_user: u32,
    /// Sessions that wait before this one.
    pub waiting: u32,
    /// Memory of the host, in MiB.
    pub memory_mib: u64,
    /// Memory of the host that could be given away now, in MiB (`MemAvailable`).
    pub available_mib: u64,
    /// Memory promised to the VMs that live, in MiB.
    pub promised_mib: u64,
    /// Addresses in the pool.
    pub addresses: u32,
    /// Addresses that are leased.
    pub leased: u32,
}

/// Why a start cannot begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Shortage {
    /// The user has too many sessions.
    #[error("the user has {limit} sessions already, which is the limit")]
    SessionsOfUser {
        /// The limit.
        limit: u32,
    },
    /// The host has too many VMs.
    #[error("{limit} VMs live already, which is the limit")]
    Vms {
        /// The limit.
        limit: u32,
    },
    /// The pool is empty.
    #[error("all {size} addresses of the pool are leased")]
    Addresses {
        /// Addresses in the pool.
        size: u32,
    },
    /// The host has not enough memory.
    #[error("the VM needs {needed_mib} MiB of memory, {free_mib} MiB are free for VMs")]
    Memory {
        /// What the VM and its VMM need.
        needed_mib: u64,
        /// What is left after the reserve and the promises to other VMs.
        free_mib: u64,
    },
    /// Others wait already, and this one has to wait behind them.
    #[error("{waiting} sessions wait already")]
    Queue {
        /// How many.
        waiting: u32,
    },
}

impl Shortage {
    /// Stable code of the API.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SessionsOfUser { .. } => "too_many_sessions",
            Self::Vms { .. } => "too_many_vms",
            Self::Addresses { .. } => "address_pool_exhausted",
            Self::Memory { .. } => "memory_insufficient",
            Self::Queue { .. } => "queue_full",
        }
    }

    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::SessionsOfUser { .. } => "end one of the user's sessions, or raise limits.sessions_per_user",
            Self::Vms { .. } => "try again when a session has ended, or raise limits.vms",
            Self::Addresses { .. } => "try again when a session has ended, or choose a larger network.subnet",
            Self::Memory { .. } => "try again when a session has ended, add memory, or lower limits.reserve_mib",
            Self::Queue { .. } => "try again later, or raise limits.queue",
        }
    }
}

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It begins.
    Admit,
    /// It waits.
    Wait {
        /// Its place, from 1.
        position: u32,
        /// What it waits for.
        shortage: Shortage,
    },
    /// It is refused.
    Refuse(Shortage),
}

/// What QEMU or Firecracker needs beside the guest's memory, in MiB.
pub const VMM_OVERHEAD_MIB: u64 = 64;

/// Decides a start of a VM with `guest_mib` of memory. A session that waited already asks again with the load as it was when it
/// came first in the queue: `waiting` 0.
pub fn admit(guest_mib: u32, load: &Load, limits: &Limits) -> Admission {
    if limits.sessions_per_user > 0 && load.sessions_of_user >= limits.sessions_per_user {
        return Admission::Refuse(Shortage::SessionsOfUser { limit: limits.sessions_per_user });
    }
    match shortage(guest_mib, load, limits) {
        None => Admission::Admit,
        Some(shortage) if load.waiting < limits.queue => Admission::Wait { position: load.waiting + 1, shortage },
        Some(Shortage::Queue { waiting }) => Admission::Refuse(Shortage::Queue { waiting }),
        Some(shortage) => Admission::Refuse(shortage),
    }
}

fn shortage(guest_mib: u32, load: &Load, limits: &Limits) -> Option<Shortage> {
    if load.waiting > 0 {
        return Some(Shortage::Queue { waiting: load.waiting });
    }
    if limits.vms > 0 && load.vms >= limits.vms {
        return Some(Shortage::Vms { limit: limits.vms });
    }
    if load.leased >= load.addresses {
        return Some(Shortage::Addresses { size: load.addresses });
    }
    // A guest touches its memory little by little, so what is available now is promised already in part.
    let unpromised = load.memory_mib.saturating_sub(limits.reserve_mib).saturating_sub(load.promised_mib);
    let free_mib = unpromised.min(load.available_mib.saturating_sub(limits.reserve_mib));
    let needed_mib = u64::from(guest_mib) + VMM_OVERHEAD_MIB;
    (needed_mib > free_mib).then_some(Shortage::Memory { needed_mib, free_mib })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { vms: 10, sessions_per_user: 3, queue: 2, reserve_mib: 512 };
    const FREE: Load = Load {
        vms: 0,
        sessions_of_user: 0,
        waiting: 0,
        memory_mib: 8192,
        available_mib: 6000,
        promised_mib: 0,
        addresses: 253,
        leased: 0,
    };

    #[test]
    fn every_shortage_has_its_name() {
        let waits = |position, shortage| Admission::Wait { position, shortage };
        for (load, expected) in [
            (FREE, Admission::Admit),
            (Load { sessions_of_user: 3, ..FREE }, Admission::Refuse(Shortage::SessionsOfUser { limit: 3 })),
            (Load { vms: 10, ..FREE }, waits(1, Shortage::Vms { limit: 10 })),
            (Load { leased: 253, ..FREE }, waits(1, Shortage::Addresses { size: 253 })),
            (Load { promised_mib: 7000, ..FREE }, waits(1, Shortage::Memory { needed_mib: 1088, free_mib: 680 })),
            (Load { available_mib: 1000, ..FREE }, waits(1, Shortage::Memory { needed_mib: 1088, free_mib: 488 })),
            // Nobody overtakes, even when there is room.
            (Load { waiting: 1, ..FREE }, waits(2, Shortage::Queue { waiting: 1 })),
            (Load { waiting: 2, ..FREE }, Admission::Refuse(Shortage::Queue { waiting: 2 })),
        ] {
            assert_eq!(admit(1024, &load, &LIMITS), expected, "{load:?}");
        }
        let no_queue = Limits { queue: 0, ..LIMITS };
        assert_eq!(admit(1, &Load { vms: 10, ..FREE }, &no_queue), Admission::Refuse(Shortage::Vms { limit: 10 }));
        let unlimited = Limits { vms: 0, sessions_per_user: 0, ..LIMITS };
        assert_eq!(admit(1, &Load { vms: 200, sessions_of_user: 99, ..FREE }, &unlimited), Admission::Admit);
    }

    proptest! {
        #[test]
        fn what_is_admitted_fits(vms in 0u32..20, user in 0u32..5, waiting in 0u32..4, promised in 0u64..9000, available in 0u64..9000, leased in 0u32..300, guest in 1u32..4096) {
            let load = Load { vms, sessions_of_user: user, waiting, available_mib: available, promised_mib: promised, leased, ..FREE };
            if admit(guest, &load, &LIMITS) == Admission::Admit {
                prop_assert!(vms < 10 && user < 3 && waiting == 0 && leased < 253);
                prop_assert!(u64::from(guest) + VMM_OVERHEAD_MIB + 512 + promised <= 8192);
                prop_assert!(u64::from(guest) + VMM_OVERHEAD_MIB + 512 <= available);
            }
        }
    }
}
