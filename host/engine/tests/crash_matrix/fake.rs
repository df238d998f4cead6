//! The level in memory: the database and the fake host outlive a death, nothing else does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use airlock_domain::VmId;
use airlock_domain::vmm::{ProcessId, VmPlan};
use airlock_effects::steps::FakeEffects;
use airlock_engine::records::SessionRecord;
use airlock_protocol::MacAddr;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::cell::Cell;
use crate::life;
use crate::site::{Daemon, FOREIGN_DIR, FOREIGN_TAP, Site, Thing};
use crate::support::faulty::Death;
use crate::support::{begin, make_ready, plan_of, scratch};
use crate::sweep::forgotten_after;

pub struct FakeSite {
    state: tempfile::TempDir,
    host: Arc<FakeEffects>,
    daemon: Daemon<FakeEffects>,
    neighbour: VmPlan,
    /// Somebody's process in a VM's directory.
    planted: Option<(ProcessId, String)>,
}

impl FakeSite {
    pub async fn new() -> Self {
        let (state, host) = (scratch(), Arc::new(FakeEffects::new()));
        {
            let mut world = host.world();
            world.taps.insert(FOREIGN_TAP.0.into(), (FOREIGN_TAP.1.into(), true));
            world.dirs.insert(FOREIGN_DIR.into(), false);
        }
        let daemon = Daemon::new(host.clone(), state.path(), Death::Forget(Notify::new())).await;
        let session = begin(&daemon.store, VmId::from_uuid(Uuid::new_v4()), i64::from(i32::MAX)).await;
        let neighbour = plan_of(&session, state.path());
        daemon.executor.start(&neighbour).await.unwrap();
        make_ready(&daemon.store, &session).await;
        Self { state, host, daemon, neighbour, planted: None }
    }
}

impl FakeSite {
    /// Lives the first life of a cell and forgets it after so many waits; whether that was before its end.
    pub async fn forget_after(&self, waits: usize, cell: Cell, session: &SessionRecord) -> bool {
        forgotten_after(waits, life::live(&self.daemon, cell, session, self.state.path())).await
    }
}

impl Site for FakeSite {
    type Host = FakeEffects;

    fn state_dir(&self) -> &Path {
        self.state.path()
    }

    fn neighbour(&self) -> &VmPlan {
        &self.neighbour
    }

    fn daemon(&self) -> &Daemon<FakeEffects> {
        &self.daemon
    }

    async fn restart(&mut self) {
        // What was sent to the database when the daemon died is done or not, but not later.
        self.daemon.store.close().await;
        self.daemon = Daemon::new(self.host.clone(), self.state.path(), Death::Forget(Notify::new())).await;
    }

    async fn live(&self, cell: Cell, session: &SessionRecord) -> anyhow::Result<bool> {
        Ok(tokio::select! {
            biased;
            () = self.daemon.faults.died() => true,
            () = life::live(&self.daemon, cell, session, self.state.path()) => false,
        })
    }

    async fn plant(&mut self, vm_id: VmId) {
        let mut world = self.host.world();
        if let Some((former, _)) = self.planted.take() {
            world.processes.remove(&former);
        }
        let dir = vm_id.dir_name();
        self.planted = Some((world.start_process(&dir), dir));
    }

    async fn look(&self, plan: &VmPlan, recorded: Option<ProcessId>) -> BTreeSet<Thing> {
        let world = self.host.world();
        let (vm_id, dir) = (plan.vmm.vm_id, plan.vmm.vm_id.dir_name());
        let mut things = BTreeSet::new();
        for (alias, in_service) in world.taps.values().filter(|(alias, _)| *alias == vm_id.to_string()) {
            assert!(!alias.is_empty());
            things.insert(Thing::Tap);
            things.extend(in_service.then_some(Thing::InService));
        }
        if let Some(sender) = world.guards.get(&vm_id.tap_name()) {
            assert_eq!(*sender, (MacAddr::from_lease(plan.address), plan.address));
            things.insert(Thing::Guard);
        }
        if let Some(configured) = world.dirs.get(&dir) {
            things.insert(Thing::Directory);
            things.extend(configured.then_some(Thing::Config));
        }
        for (process, _) in world.processes.iter().filter(|(_, works_in)| **works_in == dir) {
            if self.planted.as_ref().is_none_or(|(planted, _)| planted != process) {
                things.insert(if recorded == Some(*process) { Thing::Vmm } else { Thing::Stranger });
            }
        }
        things
    }

    async fn disturbed(&self) -> Vec<String> {
        let world = self.host.world();
        let mut disturbed = Vec::new();
        if world.taps.get(FOREIGN_TAP.0) != Some(&(FOREIGN_TAP.1.to_owned(), true)) {
            disturbed.push(format!("TAP {}", FOREIGN_TAP.0));
        }
        if world.dirs.get(FOREIGN_DIR) != Some(&false) {
            disturbed.push(format!("directory {FOREIGN_DIR}"));
        }
        if let Some((process, dir)) = &self.planted
            && world.processes.get(process) != Some(dir)
        {
            disturbed.push(format!("process {} in {dir}", process.pid));
        }
        disturbed
    }

    async fn rest(&self) -> Vec<String> {
        let mut world = self.host.world().clone();
        world.taps.remove(FOREIGN_TAP.0);
        world.dirs.remove(FOREIGN_DIR);
        if let Some((process, _)) = &self.planted {
            world.processes.remove(process);
        }
        if world.is_empty() { Vec::new() } else { vec![format!("{world:?}")] }
    }
}
