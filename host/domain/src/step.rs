//! What a start does, and how it is taken back: steps, each beside its undo, and the plans made of them.
//!
//! | step | apply is idempotent by | undo | seen at restart |
//! |---|---|---|---|
//! | `LeaseAddress` | unique row | release the row | table |
//! | `CreateTap` | name from the VM id, alias = VM id | delete it, if the alias is ours | netlink |
//! | `GuardTap` | one transaction that replaces the port's rules | remove the port's rules | nftables |
//! | `PrepareDisk` | path from the VM id | remove the VM's directory | directory |
//! | `WriteVmConfig` | whole-file write | none: goes with the directory | directory |
//! | `SpawnVmm` | pid and start time are recorded before the VMM's first instruction | stop it, wait for its exit | /proc |
//! | `AwaitReady` | makes nothing | none: nothing was made | - |
//!
//! The executor (`airlock-engine`) journals the intent of a step, applies it, journals the outcome. A step whose intent stands
//! without outcome may have happened, so it is undone like one that did. A failed undo ends the plan there: what was made
//! earlier, the lease above all, stays until the later thing is proved gone.

use serde::{Deserialize, Serialize};

/// One step of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Take an address for the VM.
    LeaseAddress,
    /// Make its TAP, a bridge port that is still down.
    CreateTap,
    /// Put the port's rules in place, then set it up.
    GuardTap,
    /// Make its directory and check the image.
    PrepareDisk,
    /// Write what the VMM is started with.
    WriteVmConfig,
    /// Start the VMM.
    SpawnVmm,
    /// Follow the boot to `ready`.
    AwaitReady,
}

/// What takes a step back. Each is idempotent: a thing that is not there is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Release the lease.
    ReleaseAddress,
    /// Delete the TAP whose alias is the VM's id.
    DeleteTap,
    /// Remove the rules of the VM's port.
    RemoveGuard,
    /// Remove the VM's directory.
    RemoveDir,
    /// End the recorded process and wait until it is gone.
    StopVmm,
    /// There is nothing to take back, for this reason.
    Nothing(&'static str),
}

impl Step {
    /// Every step, in the order of a start.
    pub const ALL: [Step; 7] = [
        Step::LeaseAddress,
        Step::CreateTap,
        Step::GuardTap,
        Step::PrepareDisk,
        Step::WriteVmConfig,
        Step::SpawnVmm,
        Step::AwaitReady,
    ];

    /// The step's undo.
    pub const fn undo(self) -> Undo {
        match self {
            Step::LeaseAddress => Undo::ReleaseAddress,
            Step::CreateTap => Undo::DeleteTap,
            Step::GuardTap => Undo::RemoveGuard,
            Step::PrepareDisk => Undo::RemoveDir,
            Step::WriteVmConfig => Undo::Nothing("the file goes with the VM's directory"),
            Step::SpawnVmm => Undo::StopVmm,
            Step::AwaitReady => Undo::Nothing("nothing was made"),
        }
    }

    /// The name in the journal.
    pub const fn name(self) -> &'static str {
        match self {
            Step::LeaseAddress => "lease_address",
            Step::CreateTap => "create_tap",
            Step::GuardTap => "guard_tap",
            Step::PrepareDisk => "prepare_disk",
            Step::WriteVmConfig => "write_vm_config",
            Step::SpawnVmm => "spawn_vmm",
            Step::AwaitReady => "await_ready",
        }
    }

    /// The step of a journal name.
    pub fn by_name(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The plan of a start: every step, in order.
pub const fn start() -> [Step; 7] {
    Step::ALL
}

/// The plan of a stop: the VMM ends, everything else stays for whoever looks at it. `begun` are the steps with an intent in the
/// journal that were not undone.
pub fn stop(begun: &[Step]) -> Vec<Step> {
    destroy(begun).into_iter().take_while(|step| *step >= Step::SpawnVmm).collect()
}

/// The plan of a destruction: the undo of everything that was begun, in reverse.
pub fn destroy(begun: &[Step]) -> Vec<Step> {
    Step::ALL.into_iter().rev().filter(|step| begun.contains(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destroying_reverses_what_was_begun() {
        let begun = [Step::LeaseAddress, Step::CreateTap, Step::PrepareDisk];
        let order: Vec<_> = destroy(&begun).into_iter().map(Step::undo).collect();
        assert_eq!(order, [Undo::RemoveDir, Undo::DeleteTap, Undo::ReleaseAddress]);
        assert!(stop(&begun).is_empty());
    }

    #[test]
    fn the_lease_outlives_the_process_and_a_port_is_guarded_before_a_guest_is_on_it() {
        let order = destroy(&start());
        let place = |step| order.iter().position(|s| *s == step).unwrap();
        assert!(place(Step::SpawnVmm) < place(Step::GuardTap));
        assert!(place(Step::GuardTap) < place(Step::CreateTap));
        assert!(place(Step::CreateTap) < place(Step::LeaseAddress));
        assert!(Step::ALL.iter().all(|step| Step::by_name(step.name()) == Some(*step)));
    }

    #[test]
    fn a_stop_is_the_first_part_of_a_destruction() {
        let stopped = stop(&start());
        assert_eq!(stopped, [Step::AwaitReady, Step::SpawnVmm]);
        assert_eq!(destroy(&start())[..2], stopped);
    }
}
