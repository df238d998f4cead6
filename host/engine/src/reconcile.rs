//! A pass of the reconciler: observe, read the records, decide (`airlock_domain::reconcile`, pure), act.
//!
//! What only the owner of tasks can do, adopting a VM and telling a task, comes back to the caller; everything else is done here.
//! One VM's trouble never keeps a pass from the others.

use std::collections::{BTreeMap, BTreeSet};

use airlock_domain::boot::{self, Failure};
use airlock_domain::diagnosis::Expected;
use airlock_domain::reconcile::{Action, Observed, Reconciliation, Resource, VmRow, reconcile};
use airlock_domain::session::{SessionEvent, SessionState};
use airlock_domain::{Cause, VmId};
use airlock_effects::steps::EffectError;

use crate::clock::{Moment, monotonic_ms, now_ms};
use crate::engine_probe::Facts;
use crate::error::chain;
use crate::executor::Executor;
use crate::records::{SessionRecord, VmState};
use crate::store::{LEASE_MS, StoreError};

/// Why a pass could not look at all.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The host does not show what is there.
    #[error("observe the host")]
    Observe(#[from] EffectError),
    /// The records cannot be read.
    #[error("read the records")]
    Records(#[from] StoreError),
}

/// What a pass left for the owner of the tasks.
#[derive(Debug, Default)]
pub struct Handover {
    /// Live VMs that need a task.
    pub adopt: Vec<VmId>,
    /// Tasks that must hear what happened to their VM.
    pub tell: Vec<(VmId, Cause)>,
}

impl Executor {
    /// What a pass would do now. Nothing is changed.
    pub async fn plan(&self, held: &BTreeSet<VmId>) -> Result<Reconciliation, ReconcileError> {
        let (rows, seen) = self.look(held).await?;
        Ok(reconcile(&rows, &seen, monotonic_ms()))
    }

    /// What is there and nobody owns, by kind; every kind is in it. Seen twice: what a task is just removing does not count.
    pub async fn leaked(&self, held: &BTreeSet<VmId>) -> Result<BTreeMap<Resource, usize>, ReconcileError> {
        Ok(self.leftovers(held).await?.0)
    }

    /// [`Executor::leaked`], and how many things are not proved to be ours.
    pub async fn leftovers(&self, held: &BTreeSet<VmId>) -> Result<(BTreeMap<Resource, usize>, usize), ReconcileError> {
        let Reconciliation { mut leaked, foreign, .. } = self.plan(held).await?;
        if !leaked.is_empty() {
            let again = self.plan(held).await?.leaked;
            leaked =
                leaked.into_iter().map(|(kind, n)| (kind, n.min(again.get(&kind).copied().unwrap_or(0)))).collect();
        }
        let every = Resource::ALL.into_iter().map(|kind| (kind, leaked.get(&kind).copied().unwrap_or(0)));
        Ok((every.collect(), foreign.len()))
    }

    /// Observes before it reads the records: what is seen and not recorded as open then really is not.
    async fn look(&self, held: &BTreeSet<VmId>) -> Result<(Vec<VmRow>, Observed), ReconcileError> {
        let seen = self.effects.observe().await?;
        let rows = self.store.reconcile_rows(&ids_seen(&seen), held).await?;
        Ok((rows, seen))
    }

    /// One pass: decides and acts. `seize` stops the task of a VM whose lease was just taken from it, so that two never work on
    /// one VM.
    pub async fn reconcile(
        &self,
        held: &BTreeSet<VmId>,
        seize: &(dyn Fn(VmId) + Sync),
    ) -> Result<(Reconciliation, Handover), ReconcileError> {
        let decided = self.plan(held).await?;
        let mut handover = Handover::default();
        let mut lost = BTreeSet::new();
        for action in &decided.actions {
            match action {
                Action::Adopt { vm } => handover.adopt.push(*vm),
                Action::Tell { vm, cause } => handover.tell.push((*vm, *cause)),
                Action::Undo { vm, .. } if lost.contains(vm) => continue,
                _ => {}
            }
            tracing::info!(%action, "reconcile");
            match self.act(action, seize).await {
                Ok(true) => {}
                Ok(false) => lost.extend(subject(action)),
                Err(error) => {
                    tracing::error!(%action, error = chain(error.as_ref()), "not done, tried again at the next pass");
                    // What was not marked as failed is not undone under its session.
                    lost.extend(subject(action));
                }
            }
        }
        for foreign in &decided.foreign {
            tracing::debug!(%foreign, "not proved to be ours, left alone");
        }
        Ok((decided, handover))
    }

    /// `false` if the VM has another owner by now.
    async fn act(
        &self,
        action: &Action,
        seize: &(dyn Fn(VmId) + Sync),
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        match action {
            Action::Adopt { .. } | Action::Tell { .. } => {}
            Action::Repair { vm } => {
                if let Some(record) = self.store.vm(*vm).await? {
                    self.effects.repair(*vm, record.address).await?;
                }
            }
            Action::Fail { vm, cause, detail, generation } => {
                if let Some(generation) = generation {
                    let until = monotonic_ms() + LEASE_MS;
                    if self.store.take_lease(*vm, *generation, until).await?.is_none() {
                        return Ok(false);
                    }
                    seize(*vm);
                }
                self.fail(*vm, *cause, detail).await?;
            }
            Action::Undo { vm, steps } => match self.store.vm(*vm).await? {
                // Recorded as gone, but seen: the record stays as it is.
                Some(record) if record.ended_ms.is_some() => self.undo(*vm, steps).await?,
                _ => self.destroy_seen(*vm, steps).await?,
            },
            Action::RemoveGuard { tap } => self.effects.remove_guard(tap).await?,
        }
        Ok(true)
    }

    /// Ends a VM that nobody can own: its session fails, with evidence, and everything of it is undone.
    pub(crate) async fn give_up(&self, vm_id: VmId, cause: Cause, detail: &str) -> Result<(), StoreError> {
        self.fail(vm_id, cause, detail).await?;
        // It says itself what came of it, in the log and in the VM's record.
        let _ = self.destroy(vm_id).await;
        Ok(())
    }

    /// Ends the session of a VM as failed, with evidence.
    async fn fail(&self, vm_id: VmId, cause: Cause, detail: &str) -> Result<(), StoreError> {
        let Some(vm) = self.store.vm(vm_id).await? else { return Ok(()) };
        let timeline = self.store.timeline(vm_id).await?;
        let expected = Expected { address: Some(vm.address.to_string()), ..Expected::default() };
        let failure = Failure::new(cause, boot::first_missing(&timeline), detail);
        let failure = self.save_evidence(vm_id, vm.session_id, failure, timeline, expected, Facts::default()).await;
        if let Some(session) = self.store.session(vm.session_id).await?
            && let Some(to) = session.state.after(SessionEvent::Failed)
        {
            self.store.move_session(session.id, session.state, to, Some(&failure), now_ms()).await?;
        }
        self.store.set_vm_state(vm_id, VmState::Destroying, Some(&failure), now_ms()).await
    }

    /// Sessions that wait longer than they may expire.
    pub(crate) async fn expire_queue(&self, now: Moment) -> Result<Vec<SessionRecord>, StoreError> {
        let mut expired = Vec::new();
        for session in self.store.queue().await? {
            if session.clock.deadline_ms <= now.mono_ms
                && self
                    .store
                    .move_session(session.id, SessionState::Queued, SessionState::Expired, None, now.wall_ms)
                    .await?
            {
                expired.push(session);
            }
        }
        Ok(expired)
    }
}

/// The VM that an action is about.
fn subject(action: &Action) -> Option<VmId> {
    match action {
        Action::Adopt { vm }
        | Action::Repair { vm }
        | Action::Tell { vm, .. }
        | Action::Fail { vm, .. }
        | Action::Undo { vm, .. } => Some(*vm),
        Action::RemoveGuard { .. } => None,
    }
}

/// The VMs whose ids the kernel shows.
fn ids_seen(seen: &Observed) -> BTreeSet<VmId> {
    let aliases = seen.taps.iter().filter_map(|tap| tap.alias.parse().ok());
    let dirs = seen.dirs.iter().chain(seen.in_vm_dir.iter().map(|(_, dir)| dir));
    aliases.chain(dirs.filter_map(|dir| dir.strip_prefix("vm-")?.parse().ok())).collect()
}
