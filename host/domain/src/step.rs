//! What a start does: each step beside its undo. The engine journals the intent, applies, journals the outcome.
//!
//! | step | undo | seen at restart |
//! |---|---|---|
//! | `LeaseAddress` | release the row | table |
//! | `CreateTap` | delete it, if the alias is ours | netlink |
//! | `PrepareDisk` | remove the VM's directory | directory |
//! | `WriteVmConfig` | none: goes with the directory | directory |
//! | `SpawnVmm` | stop the process and wait for its exit | /proc: pid and start time |
//! | `AwaitReady` | none: nothing was made | - |

use serde::{Deserialize, Serialize};

/// One step of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Take an address for the VM.
    LeaseAddress,
    /// Make its TAP.
    CreateTap,
    /// Make its directory and check the image.
    PrepareDisk,
    /// Write what the VMM is started with.
    WriteVmConfig,
    /// Start the VMM.
    SpawnVmm,
    /// Follow the boot to `ready`.
    AwaitReady,
}

/// What takes a step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Release the lease.
    ReleaseAddress,
    /// Delete the TAP whose alias is the VM's id.
    DeleteTap,
    /// Remove the VM's directory.
    RemoveDir,
    /// End the recorded process and wait until it is gone.
    StopVmm,
    /// There is nothing to take back, for this reason.
    Nothing(&'static str),
}

impl Step {
    /// The plan of a start, in order.
    pub const START: [Step; 6] =
        [Step::LeaseAddress, Step::CreateTap, Step::PrepareDisk, Step::WriteVmConfig, Step::SpawnVmm, Step::AwaitReady];

    /// The step's undo.
    pub const fn undo(self) -> Undo {
        match self {
            Step::LeaseAddress => Undo::ReleaseAddress,
            Step::CreateTap => Undo::DeleteTap,
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
            Step::PrepareDisk => "prepare_disk",
            Step::WriteVmConfig => "write_vm_config",
            Step::SpawnVmm => "spawn_vmm",
            Step::AwaitReady => "await_ready",
        }
    }

    /// The step of a journal name.
    pub fn by_name(name: &str) -> Option<Step> {
        Step::START.into_iter().find(|step| step.name() == name)
    }
}

/// The undos of a VM whose steps `begun` have at least an intent in the journal: in reverse order, because intent without
/// outcome may exist as well.
pub fn unwind(begun: &[Step]) -> impl Iterator<Item = (Step, Undo)> + '_ {
    Step::START.into_iter().rev().filter(|step| begun.contains(step)).map(|step| (step, step.undo()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwinding_reverses_what_was_begun() {
        let begun = [Step::LeaseAddress, Step::CreateTap, Step::PrepareDisk];
        let order: Vec<_> = unwind(&begun).map(|(_, undo)| undo).collect();
        assert_eq!(order, [Undo::RemoveDir, Undo::DeleteTap, Undo::ReleaseAddress]);
    }

    #[test]
    fn the_lease_outlives_the_process() {
        let order: Vec<_> = unwind(&Step::START).map(|(step, _)| step).collect();
        let place = |step| order.iter().position(|s| *s == step).unwrap();
        assert!(place(Step::SpawnVmm) < place(Step::LeaseAddress));
        assert!(Step::START.iter().all(|step| Step::by_name(step.name()) == Some(*step)));
    }
}
