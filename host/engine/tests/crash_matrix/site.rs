//! Where cells run: a host with a state directory, a live neighbour, and foreign things in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use airlock_domain::VmId;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::vmm::{ProcessId, VmPlan};
use airlock_effects::steps::Effects;
use airlock_engine::executor::Executor;
use airlock_engine::records::SessionRecord;
use airlock_engine::store::Store;

use crate::cell::Cell;
use crate::support::faulty::{Death, FaultyEffects};
use crate::support::open_store;

/// Name and alias of the foreign TAP that is on every site.
pub const FOREIGN_TAP: (&str, &str) = ("fc-0badcafe00", "somebody");
/// The foreign directory below `vms/`.
pub const FOREIGN_DIR: &str = "notes";

/// What may be there of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    Tap,
    /// Its TAP is up, a port of the bridge, isolated.
    InService,
    Guard,
    Directory,
    Config,
    /// The process that is recorded.
    Vmm,
    /// Another process in its directory that was not put there by the site.
    Stranger,
    Lease,
}

/// What is there of a VM in service.
pub fn everything() -> BTreeSet<Thing> {
    use Thing as T;
    BTreeSet::from([T::Tap, T::InService, T::Guard, T::Directory, T::Config, T::Vmm, T::Lease])
}

/// One daemon's memory.
#[derive(Debug)]
pub struct Daemon<E> {
    pub store: Store,
    pub executor: Executor,
    pub faults: Arc<FaultyEffects<E>>,
}

impl<E: Effects + 'static> Daemon<E> {
    pub async fn new(host: Arc<E>, state_dir: &Path, death: Death) -> Self {
        let (store, faults) = (open_store(state_dir).await, Arc::new(FaultyEffects::new(host, death)));
        let executor = Executor::new(store.clone(), faults.clone(), state_dir, EvidenceLimits::default());
        Self { store, executor, faults }
    }
}

/// See the head of this file. Dropped, everything on it is gone.
#[allow(async_fn_in_trait, reason = "used on the thread that it is made on")]
pub trait Site {
    type Host: Effects + 'static;

    fn state_dir(&self) -> &Path;

    /// The live VM that no cell may touch.
    fn neighbour(&self) -> &VmPlan;

    fn daemon(&self) -> &Daemon<Self::Host>;

    /// A new daemon on what is there; the former one's memory is gone.
    async fn restart(&mut self);

    /// Lives the first life of a cell; whether the daemon died in it.
    async fn live(&self, cell: Cell, session: &SessionRecord) -> anyhow::Result<bool>;

    /// Puts somebody's process into the directory of a VM, where it stays until the next call.
    async fn plant(&mut self, vm_id: VmId);

    /// What the host has of a VM, looked at without the code under test.
    async fn look(&self, plan: &VmPlan, recorded: Option<ProcessId>) -> BTreeSet<Thing>;

    /// Every foreign thing that is not as it was put there.
    async fn disturbed(&self) -> Vec<String>;

    /// What is on the site that is not foreign, of whatever VM.
    async fn rest(&self) -> Vec<String>;
}
