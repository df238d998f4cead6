//! The level in memory: the database, the vault's key, the fake host and the guest outlive a daemon's death, nothing else does.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use airlock_domain::boot::Failure;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::session::{SessionEvent, SessionState};
use airlock_domain::vault::VaultConfig;
use airlock_domain::{Cause, SessionId, VmId};
use airlock_effects::clock::monotonic_ms;
use airlock_effects::steps::FakeEffects;
use airlock_engine::Moment;
use airlock_engine::capture;
use airlock_engine::executor::Executor;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::{LEASE_MS, Store};
use airlock_engine::vault::Vault;
use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::Matrix;
use crate::outcome::{files_of, judge, judge_log};
use crate::support::{begin, make_ready, move_session, open_store, plan_of, scratch};

/// Where something happens beside the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    BeforeSent,
    Sent,
    Capturing,
    Committed,
    Acknowledged,
    Undone,
}

const MOMENTS: [Place; 6] =
    [Place::BeforeSent, Place::Sent, Place::Capturing, Place::Committed, Place::Acknowledged, Place::Undone];

/// Who dies beside the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nobody,
    /// The agent: what is on its way to it is lost, and it connects again.
    Agent(Place),
    /// The VMM, and the guest with it.
    Vmm(Place),
    /// The VMM, while no daemon is there.
    VmmBetween,
}

/// The guest's side. It outlives daemons.
#[derive(Debug, Default)]
struct Guest {
    /// The agent was told that the credential is safe.
    acknowledged: bool,
    /// The agent's process was replaced: the connection that the daemon knows leads nowhere.
    agent_died: bool,
    died: bool,
}

struct Site {
    state: tempfile::TempDir,
    host: Arc<FakeEffects>,
    store: Store,
    vault: Vault,
    executor: Executor,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "daemon",
            Self::Agent(_) => "daemon and agent",
            Self::Vmm(_) => "daemon and VMM",
            Self::VmmBetween => "daemon, then VMM",
        }
    }
}

impl Site {
    async fn new() -> Self {
        let (state, host) = (scratch(), Arc::new(FakeEffects::new()));
        let (store, vault, executor) = daemon(&state, &host).await;
        Self { state, host, store, vault, executor }
    }

    /// The next daemon.
    async fn restart(&mut self) {
        // What was sent to the database when the daemon died is done or not, but not later.
        self.store.close().await;
        (self.store, self.vault, self.executor) = daemon(&self.state, &self.host).await;
    }

    fn kill_vmm(&self, vm_id: VmId) {
        self.host.world().processes.retain(|_, dir| *dir != vm_id.dir_name());
    }
}

async fn daemon(state: &tempfile::TempDir, host: &Arc<FakeEffects>) -> (Store, Vault, Executor) {
    let store = open_store(state.path()).await;
    let vault = Vault::open(&VaultConfig::default(), state.path(), true).unwrap();
    let executor = Executor::new(store.clone(), host.clone(), state.path(), EvidenceLimits::default());
    (store, vault, executor)
}

/// What the owner of a VM does from its guest's word on, in the order of `vm::login` and `vm::finish`. The guest sends what it has
/// to every daemon that connects.
async fn capture(site: &Site, id: SessionId, guest: &mut Guest, victim: Victim) {
    let Site { store, vault, executor, .. } = site;
    let session = store.session(id).await.unwrap().unwrap();
    let reached = async |guest: &mut Guest, moment: Place| {
        match victim {
            Victim::Vmm(at) if at == moment => {
                site.kill_vmm(session.vm_id);
                guest.died = true;
            }
            Victim::Agent(at) if at == moment => guest.agent_died = true,
            _ => {}
        }
        // Somebody else may run now.
        tokio::task::yield_now().await;
    };
    reached(guest, Place::BeforeSent).await;
    if !session.state.is_terminal() {
        if guest.died {
            fail(store, &session).await;
        } else {
            // An agent that died before it sent anything is started again and finds the files.
            guest.agent_died &= victim != Victim::Agent(Place::BeforeSent);
            let files = files_of(id);
            reached(guest, Place::Sent).await;
            move_session(store, id, SessionEvent::MachineReady).await;
            move_session(store, id, SessionEvent::CredentialWritten).await;
            reached(guest, Place::Capturing).await;
            let session = store.session(id).await.unwrap().unwrap();
            if capture::commit(store, vault, &session, &files).await.unwrap().is_some() {
                reached(guest, Place::Committed).await;
                guest.acknowledged |= !guest.agent_died && !guest.died;
                reached(guest, Place::Acknowledged).await;
            }
        }
    }
    let now = Moment::now().wall_ms;
    store.set_vm_state(session.vm_id, VmState::Destroying, None, now).await.unwrap();
    executor.destroy(session.vm_id).await.unwrap();
    reached(guest, Place::Undone).await;
}

async fn fail(store: &Store, session: &SessionRecord) {
    let failure = Failure::new(Cause::VmmExited, None, "the VMM ended");
    let now = Moment::now().wall_ms;
    store.move_session(session.id, session.state, SessionState::Failed, Some(&failure), now).await.unwrap();
}

/// Polls a life until it has waited so many times; whether it was forgotten before its end.
async fn forgotten_after(waits: usize, life: impl Future<Output = ()>) -> bool {
    let (mut life, mut left) = (pin!(life), waits);
    poll_fn(|context| match life.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending if left == 0 => Poll::Ready(true),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// One cell: the daemon is forgotten after so many waits. Whether it left the session completed; none if it was done before.
async fn cell(site: &mut Site, victim: Victim, waits: usize) -> Result<Option<bool>> {
    let session = begin(&site.store, VmId::from_uuid(Uuid::new_v4()), i64::from(i32::MAX)).await;
    let (id, vm_id) = (session.id, session.vm_id);
    site.executor.start(&plan_of(&session, site.state.path())).await?;
    make_ready(&site.store, &session).await;
    let mut guest = Guest::default();
    let forgotten = forgotten_after(waits, capture(site, id, &mut guest, victim)).await;
    site.restart().await;
    if victim == Victim::VmmBetween {
        site.kill_vmm(vm_id);
        guest.died = true;
    }
    // What the first daemon left, with the guest as it is now: an open session is open, and its guest has what it had.
    let between = site.store.session(id).await?.context("the session is recorded")?;
    ensure!(!guest.acknowledged || between.state == SessionState::Completed, "acknowledged before it was committed");
    ensure!(between.state != SessionState::Failed || guest.died, "failed under a guest that lives");
    let (_, handover) = site.executor.reconcile(&BTreeSet::new(), &|_| {}).await?;
    if handover.adopt.contains(&vm_id) {
        site.store.adopt_lease(vm_id, monotonic_ms() + LEASE_MS).await?.context("adopted")?;
        // The agent that died was started again meanwhile.
        guest.agent_died = false;
        capture(site, id, &mut guest, Victim::Nobody).await;
    }
    judge(&site.store, &site.vault, id, "u1", guest.died, guest.acknowledged).await?;
    ensure!(site.host.world().is_empty(), "left: {:?}", site.host.world());
    Ok(forgotten.then_some(between.state == SessionState::Completed))
}

/// Every cell.
pub async fn run() -> Matrix {
    let of_moments = MOMENTS.into_iter().flat_map(|at| [Victim::Agent(at), Victim::Vmm(at)]);
    let victims: Vec<_> = [Victim::Nobody, Victim::VmmBetween].into_iter().chain(of_moments).collect();
    let mut matrix = Matrix::default();
    let mut site = Site::new().await;
    for victim in victims {
        for waits in 0.. {
            let cell = cell(&mut site, victim, waits).await;
            let goes_on = match &cell {
                Ok(died) => died.is_some(),
                Err(_) => {
                    site = Site::new().await;
                    matrix.inconsistent.len() < 20
                }
            };
            matrix.add(victim.name(), cell, || format!("{victim:?}, daemon dead after {waits} waits"));
            if !goes_on {
                break;
            }
        }
    }
    if let Err(error) = judge_log(&site.store).await {
        matrix.inconsistent.push(format!("the log: {error:#}"));
    }
    matrix
}

/// The judge sees what it must not accept.
#[tokio::test]
async fn an_inconsistent_end_is_seen() {
    let site = Site::new().await;
    let session = begin(&site.store, VmId::from_uuid(Uuid::new_v4()), i64::from(i32::MAX)).await;
    site.executor.start(&plan_of(&session, site.state.path())).await.unwrap();
    make_ready(&site.store, &session).await;
    let mut guest = Guest::default();
    capture(&site, session.id, &mut guest, Victim::Nobody).await;
    let told = async |acknowledged| {
        judge(&site.store, &site.vault, session.id, "u1", false, acknowledged).await.map_err(|error| error.to_string())
    };
    assert!(guest.acknowledged);
    assert_eq!(told(true).await, Ok(()));
    assert!(site.store.delete_credential("u1", "shell", "t", 1).await.unwrap());
    assert!(told(true).await.unwrap_err().contains("the vault has it: false"));
}
