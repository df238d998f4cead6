//! Faults around any host. The executor under test does not know about them: they strike where it calls the host, which is
//! around every step and every undo.
//!
//! To die is either to be forgotten, where the caller drops everything that it had in memory, or a real SIGKILL of this process.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use airlock_domain::VmId;
use airlock_domain::reconcile::Observed;
use airlock_domain::step::Step;
use airlock_domain::vmm::{ProcessId, VmPlan, VmTraces};
use airlock_effects::steps::{EffectError, Effects, Record, Recording};
use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The step fails and did nothing.
    FailBefore,
    /// The step fails although it did everything.
    FailAfter,
    /// Death when the intent stands and nothing was done.
    DieBeforeApply,
    /// Death when everything was done and no outcome is written.
    DieBeforeOutcome,
    /// Death when the outcome is written and nothing else was begun.
    DieAfterOutcome,
    /// The step is applied twice.
    ApplyTwice,
    /// The undo is done twice.
    UndoTwice,
    /// The undo fails the first time.
    UndoFailsOnce,
    /// The undo fails until the fault is lifted.
    UndoFailsAlways,
    /// Death before anything was undone.
    DieBeforeUndo,
    /// Death when it was undone and that is not written.
    DieBeforeUndone,
    /// The undo says that it did it and does nothing, always. Nobody survives that: it shows that what is left is seen.
    UndoLies,
    /// Death between a VMM's process and its record; only where a VMM is started.
    DieBeforeRecord,
    /// Death between the record of a VMM's process and its first instruction; only where a VMM is started.
    DieAfterRecord,
}

impl Fault {
    /// Every fault that can strike at every step.
    pub const AT_EVERY_STEP: [Self; 11] = [
        Self::FailBefore,
        Self::FailAfter,
        Self::DieBeforeApply,
        Self::DieBeforeOutcome,
        Self::DieAfterOutcome,
        Self::ApplyTwice,
        Self::UndoTwice,
        Self::UndoFailsOnce,
        Self::UndoFailsAlways,
        Self::DieBeforeUndo,
        Self::DieBeforeUndone,
    ];
    /// Those that can only strike at the start of a VMM.
    pub const AT_SPAWN: [Self; 2] = [Self::DieBeforeRecord, Self::DieAfterRecord];

    /// Whether it strikes at an undo.
    pub fn is_of_undo(self) -> bool {
        matches!(
            self,
            Self::UndoTwice
                | Self::UndoFailsOnce
                | Self::UndoFailsAlways
                | Self::UndoLies
                | Self::DieBeforeUndo
                | Self::DieBeforeUndone
        )
    }

    /// Whether it ends the daemon.
    pub fn is_death(self) -> bool {
        matches!(
            self,
            Self::DieBeforeApply
                | Self::DieBeforeOutcome
                | Self::DieAfterOutcome
                | Self::DieBeforeUndo
                | Self::DieBeforeUndone
                | Self::DieBeforeRecord
                | Self::DieAfterRecord
        )
    }
}

/// A fault at a step of any VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    pub step: Step,
    pub fault: Fault,
}

/// How the daemon dies.
#[derive(Debug)]
pub enum Death {
    /// Nothing goes on; the holder of [`FaultyEffects::died`] forgets the rest.
    Forget(Notify),
    /// SIGKILL.
    Kill,
}

/// A host with faults.
#[derive(Debug)]
pub struct FaultyEffects<E> {
    inner: Arc<E>,
    death: Death,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    armed: Vec<Strike>,
    fired: Vec<Strike>,
    /// The outcome after which to die is about to be written.
    doomed: bool,
}

impl<E: Effects> FaultyEffects<E> {
    pub fn new(inner: Arc<E>, death: Death) -> Self {
        Self { inner, death, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these faults strike, each once, or as long as its name says.
    pub fn arm(&self, strikes: &[Strike]) {
        *self.state() = State { armed: strikes.to_vec(), ..State::default() };
    }

    /// No fault strikes any more.
    pub fn lift(&self) {
        let mut state = self.state();
        state.armed.clear();
        state.doomed = false;
    }

    /// Whether a fault struck.
    pub fn has_fired(&self, strike: Strike) -> bool {
        self.state().fired.contains(&strike)
    }

    /// Resolves when the daemon died by being forgotten.
    pub async fn died(&self) {
        match &self.death {
            Death::Forget(died) => died.notified().await,
            Death::Kill => std::future::pending().await,
        }
    }

    /// To be called when a life is over that called the host to its end: dies if that was to happen after the last outcome.
    pub async fn end_of_life(&self) {
        if self.state().doomed {
            match self.die().await {}
        }
    }

    async fn die(&self) -> Infallible {
        match &self.death {
            Death::Forget(died) => died.notify_one(),
            Death::Kill => kill(Pid::this(), Signal::SIGKILL).expect("kill this process"),
        }
        std::future::pending().await
    }

    fn strike_at(&self, step: Step, undo: bool) -> Option<Fault> {
        let mut state = self.state();
        let at = state.armed.iter().position(|armed| armed.step == step && armed.fault.is_of_undo() == undo)?;
        let strike = state.armed[at];
        if !matches!(strike.fault, Fault::UndoFailsAlways | Fault::UndoLies) {
            state.armed.remove(at);
        }
        state.fired.push(strike);
        Some(strike.fault)
    }
}

fn injected() -> EffectError {
    EffectError::Look { path: "an injected fault".into(), source: io::Error::from(Errno::EIO) }
}

#[async_trait]
impl<E: Effects> Effects for FaultyEffects<E> {
    async fn apply(&self, step: Step, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError> {
        self.end_of_life().await;
        let fault = self.strike_at(step, false);
        match fault {
            Some(Fault::FailBefore) => return Err(injected()),
            Some(Fault::DieBeforeApply) => match self.die().await {},
            Some(Fault::ApplyTwice) => self.inner.apply(step, plan, record).await?,
            _ => {}
        }
        let recording = |process: ProcessId| -> Recording<'_> {
            Box::pin(async move {
                if fault == Some(Fault::DieBeforeRecord) {
                    match self.die().await {}
                }
                record(process).await?;
                if fault == Some(Fault::DieAfterRecord) {
                    match self.die().await {}
                }
                Ok(())
            })
        };
        self.inner.apply(step, plan, &recording).await?;
        match fault {
            Some(Fault::FailAfter) => return Err(injected()),
            Some(Fault::DieBeforeOutcome) => match self.die().await {},
            Some(Fault::DieAfterOutcome) => self.state().doomed = true,
            _ => {}
        }
        Ok(())
    }

    async fn undo(&self, step: Step, traces: &VmTraces) -> Result<(), EffectError> {
        self.end_of_life().await;
        let fault = self.strike_at(step, true);
        match fault {
            Some(Fault::UndoFailsOnce | Fault::UndoFailsAlways) => return Err(injected()),
            Some(Fault::UndoLies) => return Ok(()),
            Some(Fault::DieBeforeUndo) => match self.die().await {},
            Some(Fault::UndoTwice) => self.inner.undo(step, traces).await?,
            _ => {}
        }
        self.inner.undo(step, traces).await?;
        if fault == Some(Fault::DieBeforeUndone) {
            match self.die().await {}
        }
        Ok(())
    }

    async fn repair(&self, vm_id: VmId, address: Ipv4Addr) -> Result<(), EffectError> {
        self.end_of_life().await;
        self.inner.repair(vm_id, address).await
    }

    async fn remove_guard(&self, tap: &str) -> Result<(), EffectError> {
        self.end_of_life().await;
        self.inner.remove_guard(tap).await
    }

    async fn describe(&self, vm_id: VmId) -> Value {
        self.end_of_life().await;
        self.inner.describe(vm_id).await
    }

    async fn observe(&self) -> Result<Observed, EffectError> {
        self.end_of_life().await;
        self.inner.observe().await
    }
}
