//! A history: the host, the daemon as far as it has a memory, and what must become of each VM.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use airlock_domain::VmId;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::session::SessionEvent;
use airlock_domain::step::{self, Step};
use airlock_domain::vmm::{ProcessId, VmPlan};
use airlock_effects::clock::monotonic_ms;
use airlock_effects::steps::FakeEffects;
use airlock_engine::Moment;
use airlock_engine::executor::Executor;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::{LEASE_MS, Store};
use airlock_protocol::MacAddr;
use proptest::sample::Index;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::ops::{Drift, Kind, Op};
use crate::support::faulty::{Death, FaultyEffects, Strike};
use crate::support::{begin, make_ready, move_session, plan_of};

/// How long sessions last, in milliseconds: longer than any run.
const LASTS_MS: i64 = 3_600_000;

/// How often what happened, over all histories.
#[derive(Debug, Default)]
pub struct Tally {
    deaths: AtomicUsize,
    lived_on: AtomicUsize,
    ended: AtomicUsize,
    adopted: AtomicUsize,
    seized: AtomicUsize,
    told: AtomicUsize,
    attention: AtomicUsize,
    foreign: AtomicUsize,
}

impl Tally {
    pub fn counts(&self) -> [(&'static str, &AtomicUsize); 8] {
        [
            ("deaths in the middle of something", &self.deaths),
            ("VMs that lived to the end", &self.lived_on),
            ("VMs that ended", &self.ended),
            ("adoptions", &self.adopted),
            ("leases taken from a task", &self.seized),
            ("tasks that were told", &self.told),
            ("VMs in need of attention", &self.attention),
            ("foreign things", &self.foreign),
        ]
    }
}

fn count(counter: &AtomicUsize, by: usize) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// What must become of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing ended it: it lives on.
    Lives,
    /// Something ended it: nothing of it may be left.
    Ends,
    /// A daemon died while it was about to end it: the next one says.
    Open,
}

struct Vm {
    session: SessionRecord,
    plan: VmPlan,
    fate: Fate,
    /// A person may act, and the session's deadline is far.
    awaiting: bool,
    /// Its task does not renew its lease.
    lapsed: bool,
}

impl Vm {
    fn id(&self) -> VmId {
        self.session.vm_id
    }

    fn end(&mut self) {
        self.fate = Fate::Ends;
    }
}

/// What somebody else put on the host.
#[derive(Default)]
struct Foreign {
    taps: BTreeMap<String, (String, bool)>,
    dirs: BTreeSet<String>,
    processes: BTreeMap<ProcessId, String>,
}

/// See the head of this file.
pub struct History<'a> {
    store: Store,
    state_dir: PathBuf,
    host: Arc<FakeEffects>,
    daemon: Daemon,
    up: bool,
    /// VMs that have a task.
    held: BTreeSet<VmId>,
    vms: Vec<Vm>,
    foreign: Foreign,
    tally: &'a Tally,
}

/// A daemon's memory, apart from its tasks.
#[derive(Clone)]
struct Daemon {
    executor: Executor,
    faults: Arc<FaultyEffects<FakeEffects>>,
}

impl<'a> History<'a> {
    pub fn new(store: Store, state_dir: &std::path::Path, tally: &'a Tally) -> Self {
        let host = Arc::new(FakeEffects::new());
        let daemon = Daemon::new(&store, &host, state_dir);
        let (held, vms, foreign) = Default::default();
        Self { store, state_dir: state_dir.to_owned(), host, daemon, up: true, held, vms, foreign, tally }
    }

    /// Does one thing. If the daemon dies in it, everything in its memory is gone.
    pub async fn perform(&mut self, op: &Op) {
        let faults = match op {
            Op::Create { faults, .. } | Op::Destroy { faults, .. } | Op::Pass { faults } | Op::Restart { faults } => {
                faults
            }
            Op::Crash => return self.die(),
            Op::Drift { which, drift } => return self.drift(*which, *drift).await,
        };
        if !self.up && !matches!(op, Op::Restart { .. }) {
            self.live(&[], &Op::Restart { faults: Vec::new() }).await;
        }
        self.live(faults, op).await;
    }

    async fn live(&mut self, faults: &[Strike], op: &Op) {
        let struck = self.daemon.faults.clone();
        struck.arm(faults);
        let died = tokio::select! {
            biased;
            () = struck.died() => true,
            () = async {
                match op {
                    Op::Create { kind, .. } => self.create(*kind).await,
                    Op::Destroy { which, .. } => self.destroy(*which).await,
                    Op::Pass { .. } => self.pass().await,
                    _ => self.restart().await,
                }
                struck.end_of_life().await;
            } => false,
        };
        struck.lift();
        if died {
            count(&self.tally.deaths, 1);
            self.die();
        }
    }

    fn die(&mut self) {
        self.up = false;
        self.held.clear();
        self.daemon = Daemon::new(&self.store, &self.host, &self.state_dir);
    }

    async fn create(&mut self, kind: Kind) {
        let lasts_ms = if kind == Kind::Overdue { -1000 } else { LASTS_MS };
        let vm_id = VmId::from_uuid(Uuid::new_v4());
        let session = begin(&self.store, vm_id, lasts_ms).await;
        let plan = plan_of(&session, &self.state_dir);
        if kind == Kind::NameTaken {
            self.add_foreign_tap(vm_id.tap_name(), "somebody".into());
        }
        self.vms.push(Vm {
            session: session.clone(),
            plan: plan.clone(),
            fate: Fate::Ends,
            awaiting: false,
            lapsed: false,
        });
        self.held.insert(vm_id);
        let at = self.vms.len() - 1;
        for step in step::start() {
            if self.daemon.executor.apply(step, &plan).await.is_err() {
                return self.end_task(at).await;
            }
            if step == Step::SpawnVmm {
                // From its outcome on the next daemon can take it over.
                self.vms[at].fate = Fate::Lives;
            }
        }
        match kind {
            Kind::Booting => move_session(&self.store, session.id, SessionEvent::BootBegan).await,
            _ => make_ready(&self.store, &session).await,
        }
        self.vms[at].awaiting = kind == Kind::Awaiting;
    }

    /// The end of a VM by its task.
    async fn end_task(&mut self, at: usize) {
        self.vms[at].end();
        let session = &self.vms[at].session;
        move_session(&self.store, session.id, SessionEvent::CancelRequested).await;
        let now = Moment::now().wall_ms;
        self.store.set_vm_state(session.vm_id, VmState::Destroying, None, now).await.unwrap();
        let destroyed = self.daemon.executor.destroy(session.vm_id).await;
        count(&self.tally.attention, usize::from(destroyed.is_err()));
        self.held.remove(&self.vms[at].id());
    }

    async fn destroy(&mut self, which: Index) {
        let Some(at) = self.choose(which) else { return };
        if self.held.contains(&self.vms[at].id()) { self.end_task(at).await } else { self.pass().await }
    }

    async fn pass(&mut self) {
        // Tasks see the end of their VMM by themselves.
        for at in 0..self.vms.len() {
            let vm = &self.vms[at];
            if self.held.contains(&vm.id()) && self.vmm_of(vm).is_none() {
                self.end_task(at).await;
            }
        }
        let taken = |vm: &Vm, held: &BTreeSet<VmId>| {
            held.contains(&vm.id()) && vm.lapsed && !vm.awaiting && vm.fate == Fate::Lives
        };
        let doomed: Vec<usize> = (0..self.vms.len()).filter(|at| taken(&self.vms[*at], &self.held)).collect();
        for at in &doomed {
            self.vms[*at].fate = Fate::Open;
        }
        let seized = Mutex::new(Vec::new());
        let seize = |vm_id| seized.lock().unwrap().push(vm_id);
        let (_, handover) = self.daemon.executor.reconcile(&self.held, &seize).await.unwrap();
        for at in doomed {
            self.vms[at].end();
        }
        for vm_id in seized.into_inner().unwrap() {
            count(&self.tally.seized, 1);
            self.held.remove(&vm_id);
        }
        for (vm_id, _) in handover.tell {
            count(&self.tally.told, 1);
            let at = self.vms.iter().position(|vm| vm.id() == vm_id).unwrap();
            if self.held.contains(&vm_id) {
                self.end_task(at).await;
            }
        }
        self.adopt(&handover.adopt).await;
    }

    async fn restart(&mut self) {
        self.held.clear();
        self.up = true;
        let (_, handover) = self.daemon.executor.reconcile(&self.held, &|_| {}).await.unwrap();
        for vm in self.vms.iter_mut().filter(|vm| vm.fate == Fate::Open) {
            vm.fate = if handover.adopt.contains(&vm.id()) { Fate::Lives } else { Fate::Ends };
        }
        self.adopt(&handover.adopt).await;
    }

    async fn adopt(&mut self, found: &[VmId]) {
        for vm_id in found {
            assert!(self.store.adopt_lease(*vm_id, monotonic_ms() + LEASE_MS).await.unwrap().is_some());
            count(&self.tally.adopted, 1);
            self.held.insert(*vm_id);
            self.vms.iter_mut().filter(|vm| vm.id() == *vm_id).for_each(|vm| vm.lapsed = false);
        }
    }

    fn choose(&self, which: Index) -> Option<usize> {
        (!self.vms.is_empty()).then(|| which.index(self.vms.len()))
    }

    /// The VM's own process, if it runs.
    fn vmm_of(&self, vm: &Vm) -> Option<ProcessId> {
        let (world, dir) = (self.host.world(), vm.id().dir_name());
        let mut inside = world
            .processes
            .iter()
            .filter(|(id, works_in)| **works_in == dir && !self.foreign.processes.contains_key(id));
        inside.next().map(|(id, _)| *id)
    }

    fn add_foreign_tap(&mut self, name: String, alias: String) {
        count(&self.tally.foreign, 1);
        self.host.world().taps.insert(name.clone(), (alias.clone(), true));
        self.foreign.taps.insert(name, (alias, true));
    }

    fn add_foreign_dir(&mut self, name: String) {
        count(&self.tally.foreign, 1);
        self.host.world().dirs.insert(name.clone(), false);
        self.foreign.dirs.insert(name);
    }

    async fn drift(&mut self, which: Index, drift: Drift) {
        let number = self.foreign.taps.len() + self.foreign.dirs.len();
        match drift {
            Drift::ForeignTap => {
                return self.add_foreign_tap(format!("fc-{number:010x}"), format!("somebody {number}"));
            }
            Drift::UnknownTap => return self.add_foreign_tap(format!("fc-{number:010x}"), Uuid::new_v4().to_string()),
            Drift::ForeignDirectory => return self.add_foreign_dir(format!("notes {number}")),
            Drift::UnknownDirectory => return self.add_foreign_dir(format!("vm-{}", Uuid::new_v4())),
            _ => {}
        }
        let Some(at) = self.choose(which) else { return };
        let vm = &self.vms[at];
        let (vm_id, tap) = (vm.id(), vm.id().tap_name());
        let has_tap = self.host.world().taps.get(&tap).is_some_and(|(alias, _)| *alias == vm_id.to_string());
        match drift {
            Drift::TapDeleted | Drift::TapReplaced if has_tap => {
                self.host.world().taps.remove(&tap);
                self.vms[at].end();
                if drift == Drift::TapReplaced {
                    self.add_foreign_tap(tap, "somebody".into());
                }
            }
            Drift::TapDown if has_tap => {
                self.host.world().taps.insert(tap, (vm_id.to_string(), false));
            }
            Drift::GuardRemoved => drop(self.host.world().guards.remove(&tap)),
            Drift::GuardChanged if has_tap => {
                let somebody = Ipv4Addr::new(192, 168, 100, 250);
                self.host.world().guards.insert(tap, (MacAddr::from_lease(somebody), somebody));
            }
            Drift::VmmStopped => {
                if let Some(vmm) = self.vmm_of(vm) {
                    self.host.world().processes.remove(&vmm);
                    self.vms[at].end();
                }
            }
            Drift::SessionEnded => {
                move_session(&self.store, vm.session.id, SessionEvent::CancelRequested).await;
                self.vms[at].end();
            }
            Drift::LeaseLapsed => {
                let rows = self.store.reconcile_rows(&BTreeSet::from([vm_id]), &BTreeSet::new()).await.unwrap();
                if let Some(lease) = rows.iter().find(|row| row.id == vm_id).and_then(|row| row.lease) {
                    assert!(self.store.renew_lease(vm_id, lease.generation, 0).await.unwrap());
                    self.vms[at].lapsed = true;
                }
            }
            Drift::ForeignProcess => {
                count(&self.tally.foreign, 1);
                let process = self.host.world().start_process(&vm_id.dir_name());
                self.foreign.processes.insert(process, vm_id.dir_name());
            }
            _ => {}
        }
    }

    /// The last restart, and what is there after it; then the VMs that live are ended too.
    pub async fn judge(mut self) -> Result<(), String> {
        self.die();
        self.restart().await;
        self.judge_world().await?;
        for at in 0..self.vms.len() {
            if self.vms[at].fate == Fate::Lives {
                count(&self.tally.lived_on, 1);
                self.end_task(at).await;
            } else {
                count(&self.tally.ended, 1);
            }
        }
        self.judge_world().await
    }

    /// What is seen must be what is wanted, to the last thing.
    async fn judge_world(&self) -> Result<(), String> {
        let live: Vec<&Vm> = self.vms.iter().filter(|vm| vm.fate == Fate::Lives).collect();
        for vm in &self.vms {
            let record = self.store.vm(vm.id()).await.unwrap().unwrap();
            let lives = vm.fate == Fate::Lives;
            if lives != record.ended_ms.is_none() || lives != self.held.contains(&vm.id()) {
                let (held, failure) = (self.held.contains(&vm.id()), record.failure);
                return Err(format!("{:?} {} is {}, held: {held}, {failure:?}", vm.fate, vm.id(), record.state));
            }
        }
        let (mut taps, mut guards) = (self.foreign.taps.clone(), BTreeMap::new());
        let mut dirs: BTreeMap<String, bool> = self.foreign.dirs.iter().map(|name| (name.clone(), false)).collect();
        let mut processes = self.foreign.processes.clone();
        for vm in &live {
            let (id, address) = (vm.id(), vm.plan.address);
            taps.insert(id.tap_name(), (id.to_string(), true));
            guards.insert(id.tap_name(), (MacAddr::from_lease(address), address));
            dirs.insert(id.dir_name(), true);
            let recorded = self.store.vm(id).await.unwrap().unwrap().process;
            processes.insert(recorded.ok_or_else(|| format!("{id} has no recorded VMM"))?, id.dir_name());
        }
        let mut seen = self.host.world().clone();
        // The rules of a port that somebody else took over are theirs.
        seen.guards.retain(|tap, _| !self.foreign.taps.contains_key(tap));
        let same = (&taps, &guards, &dirs, &processes) == (&seen.taps, &seen.guards, &seen.dirs, &seen.processes);
        if !same {
            return Err(format!("wanted {taps:?} {guards:?} {dirs:?} {processes:?}\nseen {seen:?}"));
        }
        let counts = self.store.counts().await.unwrap();
        if counts.leased != live.len() {
            return Err(format!("{} leases of {} VMs", counts.leased, live.len()));
        }
        let leaked = self.daemon.executor.leaked(&self.held).await.unwrap();
        if leaked.values().any(|count| *count > 0) {
            return Err(format!("the metric counts {leaked:?}"));
        }
        Ok(())
    }
}

impl Daemon {
    fn new(store: &Store, host: &Arc<FakeEffects>, state_dir: &std::path::Path) -> Self {
        let faults = Arc::new(FaultyEffects::new(host.clone(), Death::Forget(Notify::new())));
        let executor = Executor::new(store.clone(), faults.clone(), state_dir, EvidenceLimits::default());
        Self { executor, faults }
    }
}
