//! The steps of a VM, applied to and undone on this host, and what the host shows of them.
//!
//! One seam, [`Effects`]: [`LinuxEffects`] works on the kernel, [`FakeEffects`] on a model of it that tracks what is alive. Both
//! keep one contract (`tests.rs`): applying twice is applying once, undoing what is not there is fine, another owner's thing
//! is never touched. The lease of an address is a row of the store: its step passes through here without an effect.

mod fake;
mod linux;
mod seed;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;

use airlock_domain::VmId;
use airlock_domain::reconcile::Observed;
use airlock_domain::step::Step;
use airlock_domain::vmm::{ProcessId, VmPlan, VmTraces};
use async_trait::async_trait;
use serde_json::Value;

use crate::files::FileError;
use crate::network::NetworkError;
use crate::process::ProcessError;
use crate::vmm::DriverError;

pub use fake::FakeEffects;
pub use linux::LinuxEffects;

/// What writes the id of a VMM down before the VMM runs. Its error keeps the VMM from running.
pub type Record<'a> = &'a (dyn Fn(ProcessId) -> Recording<'a> + Send + Sync);
/// See [`Record`].
pub type Recording<'a> = Pin<Box<dyn Future<Output = Result<(), RecordError>> + Send + 'a>>;
/// Why it was not written down.
pub type RecordError = Box<dyn std::error::Error + Send + Sync>;

/// The host that VMs are made on.
#[async_trait]
pub trait Effects: Send + Sync + std::fmt::Debug {
    /// Does what a step does. Idempotent. When it fails, a part of it may be done: the step's undo takes that back too.
    async fn apply(&self, step: Step, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError>;

    /// Takes a step back, whole or half done or not at all.
    async fn undo(&self, step: Step, traces: &VmTraces) -> Result<(), EffectError>;

    /// Puts the port of a live VM back in service: attached, isolated, guarded, up.
    async fn repair(&self, vm_id: VmId, address: Ipv4Addr) -> Result<(), EffectError>;

    /// Removes the rules of a port that no VM has.
    async fn remove_guard(&self, tap: &str) -> Result<(), EffectError>;

    /// What the host sees of one VM, for whoever looks at its evidence later; what cannot be seen is said.
    async fn describe(&self, vm_id: VmId) -> Value;

    /// Everything there is, whoever made it.
    async fn observe(&self) -> Result<Observed, EffectError>;
}

/// What went wrong with a step. Each source names its operands.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The private network refused.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A file or directory cannot be made or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the golden image is not there.
    #[error("open {} of the golden image", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The seed drive cannot be put together.
    #[error("make the seed drive of VM {vm_id}")]
    Seed {
        /// The VM.
        vm_id: VmId,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The VMM did not start, or did not end.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Processes cannot be watched.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The VMM's id was not written down, so it was not let run.
    #[error("record the VMM of VM {vm_id}")]
    Record {
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: RecordError,
    },
    /// `/proc` or the state directory cannot be read.
    #[error("look at {}", path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl EffectError {
    /// The catalogue's cause code, where the catalogue has one.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Network(error) => error.cause(),
            Self::File(error) => error.cause(),
            Self::Image { .. } => Some("image_missing"),
            Self::Driver(error) => error.cause(),
            Self::Seed { .. } | Self::Process(_) | Self::Record { .. } | Self::Look { .. } => None,
        }
    }
}
