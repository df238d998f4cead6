//! The executor: applies and undoes the steps of VMs, with the journal around each.
//!
//! ```text
//! intent (with the lease, one transaction) -> apply -> outcome -> ... -> undo, in reverse -> undone
//! ```
//!
//! It may die anywhere: what has an intent and is not undone is undone by whoever comes next, applied or not, and undoing what
//! is not there is fine. An undo that fails ends the unwinding there, so that an address is never given back before the process
//! that uses it is gone; the VM is then `needs_attention`, its failure names the thing, and the next pass tries again.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::diagnosis::Expected;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::step::{self, Step};
use airlock_domain::vmm::{VmPlan, VmTraces};
use airlock_domain::{Cause, SessionId, VmId};
use airlock_effects::steps::{EffectError, Effects};
use airlock_protocol::Stage;

use crate::clock::now_ms;
use crate::engine_diagnosis::{Patient, refined};
use crate::engine_evidence::blocking;
use crate::engine_probe::Facts;
use crate::error::chain;
use crate::evidence::{Bundles, Subject};
use crate::records::VmState;
use crate::store::{Store, StoreError};

/// A step that was not applied, or whose outcome could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The host refused.
    #[error("{step} of VM {vm_id}")]
    Apply {
        /// The step.
        step: Step,
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: EffectError,
    },
    /// The journal cannot be written.
    #[error("journal {step} of VM {vm_id}")]
    Journal {
        /// The step.
        step: Step,
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
}

impl StepError {
    /// As the failure of a boot: cause, stage, and everything down to the errno.
    pub fn failure(&self) -> Failure {
        let (step, cause, detail) = match self {
            Self::Apply { step, source, .. } => {
                let known = source.cause().and_then(|code| code.parse().ok());
                (*step, known.unwrap_or_else(|| usual_cause(*step)), chain(source))
            }
            Self::Journal { step, source, .. } if source.is_disk_full() => (*step, Cause::DiskFull, chain(self)),
            Self::Journal { step, .. } => (*step, Cause::Inconclusive, chain(self)),
        };
        Failure::new(cause, stage_of(step), detail)
    }
}

/// What a step fails of where its error has no name of its own in the catalogue.
fn usual_cause(step: Step) -> Cause {
    match step {
        Step::LeaseAddress => Cause::AddressPoolExhausted,
        Step::CreateTap => Cause::TapMissing,
        Step::GuardTap => Cause::TapDown,
        Step::PrepareDisk | Step::WriteVmConfig => Cause::DiskFull,
        Step::SpawnVmm => Cause::VmmConfigRejected,
        Step::AwaitReady => Cause::Inconclusive,
    }
}

/// The stage that a step leads to.
pub fn stage_of(step: Step) -> Option<Stage> {
    match step {
        Step::LeaseAddress => Some(Stage::Leased),
        Step::CreateTap | Step::GuardTap => Some(Stage::TapUp),
        Step::PrepareDisk | Step::WriteVmConfig => Some(Stage::DiskReady),
        Step::SpawnVmm => Some(Stage::VmmStarted),
        Step::AwaitReady => None,
    }
}

/// An undo that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The host refused.
    #[error("undo {step} of VM {vm_id}")]
    Undo {
        /// The step.
        step: Step,
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: EffectError,
    },
    /// The records cannot be read or written.
    #[error("undo VM {vm_id} by its records")]
    Store {
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
}

/// See the head of this file. Clones share host and store.
#[derive(Debug, Clone)]
pub struct Executor {
    pub(crate) store: Store,
    pub(crate) effects: Arc<dyn Effects>,
    bundles: Bundles,
    vms_dir: PathBuf,
    failed: Arc<Mutex<BTreeMap<Cause, u64>>>,
}

impl Executor {
    /// Works on `effects` by what `store` says; evidence goes below `state_dir`.
    pub fn new(store: Store, effects: Arc<dyn Effects>, state_dir: &Path, evidence: EvidenceLimits) -> Self {
        Self {
            store,
            effects,
            bundles: Bundles::new(state_dir, evidence),
            vms_dir: state_dir.join("vms"),
            failed: Arc::default(),
        }
    }

    /// Diagnoses a VM that failed and saves its evidence; the failure with its better name, its evidence and the console's last
    /// lines. To be called before anything of the VM is undone. Never fatal.
    pub(crate) async fn save_evidence(
        &self,
        vm_id: VmId,
        session_id: SessionId,
        failure: Failure,
        timeline: Vec<TimelineEntry>,
        expected: Expected,
        facts: Facts,
    ) -> Failure {
        let vm_dir = self.vms_dir.join(vm_id.dir_name());
        let host = Some(self.effects.describe(vm_id).await);
        let bundles = self.bundles.clone();
        let (failure, saved) = blocking(move || {
            let patient =
                Patient { dir: vm_dir, timeline, failure: Some(failure.clone()), host, facts, expected, ended: false };
            let (verdict, console_end) = patient.examine();
            let failure = Failure { console_end, ..refined(failure, &verdict) };
            let host = patient.seen();
            let Patient { dir: vm_dir, timeline, .. } = patient;
            let diagnosis = Some(verdict);
            let session_id = Some(session_id);
            let subject = Subject { vm_id, session_id, vm_dir, failure, timeline, host, diagnosis };
            let saved = bundles.save(&subject, now_ms());
            (subject.failure, saved)
        })
        .await;
        *self.failed().entry(failure.cause).or_default() += 1;
        self.retain_evidence().await;
        let saved = saved.inspect_err(|error| tracing::error!(%vm_id, error = chain(error), "evidence not saved"));
        Failure { evidence_id: saved.ok().map(|id| id.to_string()), ..failure }
    }

    /// VMs that failed since this process started, by cause.
    pub(crate) fn failed(&self) -> MutexGuard<'_, BTreeMap<Cause, u64>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes evidence beyond the limits; bundles of VMs that are not destroyed stay.
    pub(crate) async fn retain_evidence(&self) {
        let held: HashSet<VmId> = match self.store.open_vms().await {
            Ok(vms) => vms.into_iter().map(|vm| vm.id).collect(),
            // Without knowing whose evidence is still needed nothing is removed.
            Err(error) => return tracing::warn!(error = chain(&error), "evidence not kept in bounds"),
        };
        let bundles = self.bundles.clone();
        if let Err(error) = blocking(move || bundles.retain(&held, now_ms())).await {
            tracing::warn!(error = chain(&error), "evidence not kept in bounds");
        }
    }

    /// Applies one step of a start whose intent stands in the journal. When it fails nothing is undone yet: evidence first.
    pub async fn apply(&self, step: Step, plan: &VmPlan) -> Result<(), StepError> {
        let vm_id = plan.vmm.vm_id;
        let record = |process| -> airlock_effects::steps::Recording<'_> {
            Box::pin(async move { Ok(self.store.set_vm_process(vm_id, process).await?) })
        };
        let began = Instant::now();
        let applied = self.effects.apply(step, plan, &record).await;
        let apply_us = began.elapsed().as_micros();
        let error = applied.as_ref().err().map(|error| chain(error));
        let journaled = self.store.journal_outcome(vm_id, step, error.as_deref(), now_ms()).await;
        let journal_us = began.elapsed().as_micros() - apply_us;
        tracing::debug!(%vm_id, %step, apply_us, journal_us, error, "applied");
        applied.map_err(|source| StepError::Apply { step, vm_id, source })?;
        journaled.map_err(|source| StepError::Journal { step, vm_id, source })
    }

    /// Applies the whole plan of a start.
    pub async fn start(&self, plan: &VmPlan) -> Result<(), StepError> {
        for step in step::start() {
            self.apply(step, plan).await?;
        }
        Ok(())
    }

    /// Ends the VMM and leaves the rest as it is.
    pub async fn stop(&self, vm_id: VmId) -> Result<(), UndoError> {
        let begun = self.store.begun_steps(vm_id).await.map_err(|source| UndoError::Store { vm_id, source })?;
        self.undo(vm_id, &step::stop(&begun)).await
    }

    /// Undoes everything that was begun for a VM and records that nothing is left, with a receipt, or that the VM needs attention.
    pub async fn destroy(&self, vm_id: VmId) -> Result<(), UndoError> {
        self.destroy_seen(vm_id, &[]).await
    }

    /// The same, for a VM of which something is seen, whether or not it was undone before.
    pub(crate) async fn destroy_seen(&self, vm_id: VmId, seen: &[Step]) -> Result<(), UndoError> {
        let undone = async {
            let store_error = |source| UndoError::Store { vm_id, source };
            let mut left = self.store.begun_steps(vm_id).await.map_err(store_error)?;
            left.extend_from_slice(seen);
            self.undo(vm_id, &step::destroy(&left)).await?;
            self.store.destroyed(vm_id, now_ms()).await.map_err(store_error)
        };
        match undone.await {
            Ok(()) => {
                tracing::info!(%vm_id, "nothing left");
                Ok(())
            }
            Err(error) => {
                let failure = Failure::new(Cause::Inconclusive, None, chain(&error));
                tracing::error!(%vm_id, detail = failure.detail, "needs attention");
                let written = self.store.set_vm_state(vm_id, VmState::NeedsAttention, Some(&failure), now_ms()).await;
                if let Err(error) = written {
                    tracing::error!(%vm_id, error = chain(&error), "state not recorded");
                }
                Err(error)
            }
        }
    }

    /// Undoes steps in the given order, up to the first undo that fails.
    pub(crate) async fn undo(&self, vm_id: VmId, steps: &[Step]) -> Result<(), UndoError> {
        let store_error = |source| UndoError::Store { vm_id, source };
        let Some(vm) = self.store.vm(vm_id).await.map_err(store_error)? else { return Ok(()) };
        let traces = VmTraces { vm_id, driver: vm.driver, process: vm.process };
        for step in steps {
            let undone = self.effects.undo(*step, &traces).await;
            // The lease is a row of the store, the one thing of a VM that the host does not hold.
            if *step == Step::LeaseAddress && undone.is_ok() {
                self.store.release_lease(vm_id).await.map_err(store_error)?;
            }
            let error = undone.as_ref().err().map(|error| chain(error));
            let journaled = self.store.journal_undo(vm_id, *step, error.as_deref(), now_ms()).await;
            undone.map_err(|source| UndoError::Undo { step: *step, vm_id, source })?;
            journaled.map_err(store_error)?;
        }
        Ok(())
    }
}
