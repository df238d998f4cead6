//! One task owns one VM, from its lease to the proof that nothing of it is left.
//!
//! ```text
//! steps applied -> boot followed to ready -> login followed -> ended (why) -> session moved -> steps undone
//!        \______________\_______________________\____ failure: evidence saved first
//! ```
//!
//! The task is the only writer of its VM and of its session. It ends by itself: by success, failure, cancellation or deadline.

mod follow;
mod guest;
mod login;
mod steps;

pub(crate) use steps::unwind;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use airlock_domain::boot::{BootEvent, BootMachine, BootOutput, Contract, Failure};
use airlock_domain::session::{SessionEvent as Event, SessionState};
use airlock_domain::step::Step;
use airlock_effects::control::ControlSender;
use airlock_effects::vmm::{VmmDriver, VmmHandle};
use airlock_image::GoldenImage;
use airlock_protocol::message::{CapturedFile, LoginSpec};
use airlock_protocol::stage::Reporter;
use airlock_protocol::{Stage, paths};
use tokio::sync::{broadcast, mpsc, watch};

use crate::clock::now_ms;
use crate::context::Context;
use crate::error::chain;
use crate::records::{SessionEvent, SessionRecord, VmState};
use crate::{evidence, store::StoreError};

/// What the task is asked.
pub(crate) enum Order {
    /// End the session as cancelled.
    Cancel,
}

/// What viewers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// The guest's RFB server, once its display is up.
    pub target: Option<SocketAddr>,
    /// Where the session stands.
    pub state: SessionState,
}

/// The engine's end of a task.
#[derive(Debug, Clone)]
pub(crate) struct LiveVm {
    pub orders: mpsc::Sender<Order>,
    pub events: broadcast::Sender<SessionEvent>,
    pub view: watch::Receiver<View>,
}

/// Why a VM ends.
#[derive(Debug)]
enum End {
    Completed,
    Cancelled,
    Expired,
    Failed(Failure),
}

pub(crate) struct VmTask {
    ctx: Arc<Context>,
    driver: Arc<dyn VmmDriver>,
    session: SessionRecord,
    image: GoldenImage,
    login: Option<LoginSpec>,
    planned: Instant,
    boot: BootMachine,
    ready: bool,
    handle: Option<VmmHandle>,
    control: Option<ControlSender>,
    /// Captured, but not committed yet.
    pending: Option<Vec<CapturedFile>>,
    events: broadcast::Sender<SessionEvent>,
    view: watch::Sender<View>,
}

impl VmTask {
    pub fn new(
        ctx: Arc<Context>,
        driver: Arc<dyn VmmDriver>,
        session: SessionRecord,
        image: GoldenImage,
        login: Option<LoginSpec>,
        planned: Instant,
    ) -> (Self, LiveVm, mpsc::Receiver<Order>) {
        let subnet = ctx.config.network.subnet;
        #[allow(clippy::cast_precision_loss, reason = "the configuration allows at most an hour")]
        let deadline_ms = (ctx.config.boot_deadline_s * 1000) as f64;
        let contract = Contract {
            agent_stages: image
                .manifest
                .readiness
                .iter()
                .copied()
                .filter(|s| s.reporter() == Reporter::Agent)
                .collect(),
            deadline_ms,
            address: format!("{}/{}", session.address, subnet.prefix()),
            build_id: image.manifest.build_id.clone(),
        };
        let (orders, orders_rx) = mpsc::channel(8);
        let (events, _) = broadcast::channel(256);
        let (view, view_rx) = watch::channel(View { target: None, state: session.state });
        let live = LiveVm { orders, events: events.clone(), view: view_rx };
        let task = Self {
            ctx,
            driver,
            session,
            image,
            login,
            planned,
            boot: BootMachine::new(contract),
            ready: false,
            handle: None,
            control: None,
            pending: None,
            events,
            view,
        };
        (task, live, orders_rx)
    }

    /// Runs the VM to its end. The view closes when nothing of it is left.
    pub async fn run(mut self, orders: mpsc::Receiver<Order>) {
        let end = match self.start().await {
            Ok(()) => self.follow(orders).await,
            Err(failure) => End::Failed(failure),
        };
        self.finish(end).await;
    }

    /// Applies the steps of a start. `LeaseAddress` was applied when the session was accepted.
    async fn start(&mut self) -> Result<(), Failure> {
        for stage in [Stage::Planned, Stage::Leased] {
            self.on_boot(BootEvent::Reached(stage)).await?;
        }
        for (step, stage) in [
            (Step::CreateTap, Some(Stage::TapUp)),
            (Step::PrepareDisk, Some(Stage::DiskReady)),
            (Step::WriteVmConfig, None),
            (Step::SpawnVmm, Some(Stage::VmmStarted)),
        ] {
            self.apply(step).await?;
            if let Some(stage) = stage {
                self.on_boot(BootEvent::Reached(stage)).await?;
            }
        }
        self.move_session(Event::BootBegan, None).await
    }

    /// Saves evidence of a failure, moves the session to its end, undoes every step.
    async fn finish(&mut self, end: End) {
        let vm_id = self.session.vm_id;
        let mut failed = None;
        match end {
            End::Failed(mut failure) => {
                self.on_boot(BootEvent::Failed(failure.clone())).await.ok();
                failure.evidence_id = self.save_evidence(&failure).await;
                tracing::warn!(%vm_id, cause = %failure.cause, stage = ?failure.stage, detail = failure.detail, "failed");
                self.end_session(Event::Failed, Some(&failure)).await;
                failed = Some(failure);
            }
            End::Cancelled => self.end_session(Event::CancelRequested, None).await,
            End::Expired => self.end_session(Event::DeadlinePassed, None).await,
            End::Completed => {}
        }
        let written = self.ctx.store.set_vm_state(vm_id, VmState::Destroying, failed.as_ref(), now_ms()).await;
        if let Err(error) = written {
            tracing::error!(%vm_id, error = chain(&error), "state not recorded");
        }
        steps::unwind(&self.ctx, self.driver.as_ref(), vm_id, self.handle.take()).await;
    }

    async fn end_session(&mut self, event: Event, failure: Option<&Failure>) {
        if let Err(error) = self.move_session(event, failure).await {
            tracing::error!(session = %self.session.id, detail = error.detail, "session end not recorded");
        }
    }

    async fn save_evidence(&self, failure: &Failure) -> Option<String> {
        let (state_dir, vm_id) = (self.ctx.config.state_dir.clone(), self.session.vm_id);
        let (vm_dir, failure, timeline) = (self.ctx.vm_dir(vm_id), failure.clone(), self.boot.timeline().to_vec());
        let saved =
            tokio::task::spawn_blocking(move || evidence::save(&state_dir, vm_id, &vm_dir, &failure, &timeline));
        saved
            .await
            .unwrap_or_else(|panicked| Err(panicked.into()))
            .inspect_err(|error| tracing::error!(%vm_id, %error, "evidence not saved"))
            .ok()
    }

    /// Feeds the boot machine; records and publishes its stages. A failure of the boot comes back as the error.
    async fn on_boot(&mut self, event: BootEvent<'_>) -> Result<bool, Failure> {
        let now = self.planned.elapsed().as_secs_f64() * 1000.0;
        let mut probe = false;
        for output in self.boot.on(event, now) {
            match output {
                BootOutput::Stage(entry) => {
                    if let Err(error) = self.ctx.store.add_stage(self.session.vm_id, &entry).await {
                        return Err(store_failure(&error, Some(entry.stage)));
                    }
                    if entry.stage == Stage::DisplayUp && entry.ok {
                        let target = SocketAddr::from((self.session.address, paths::RFB_PORT));
                        self.view.send_modify(|view| view.target = Some(target));
                    }
                    let _ = self.events.send(SessionEvent::Stage(entry));
                }
                BootOutput::ProbeHealth => probe = true,
                BootOutput::Ready => {
                    self.ready = true;
                    let written = self.ctx.store.set_vm_state(self.session.vm_id, VmState::Ready, None, now_ms()).await;
                    written.map_err(|error| store_failure(&error, Some(Stage::Ready)))?;
                    self.on_ready().await?;
                }
                BootOutput::Failed(failure) => return Err(failure),
            }
        }
        Ok(probe)
    }

    /// Moves the session as its machine says; nothing happens where the event does not apply.
    async fn move_session(&mut self, event: Event, failure: Option<&Failure>) -> Result<(), Failure> {
        let Some(to) = self.session.state.after(event) else { return Ok(()) };
        let now = now_ms();
        let moved = self.ctx.store.move_session(self.session.id, self.session.state, to, failure, now).await;
        if moved.map_err(|error| store_failure(&error, None))? {
            self.publish_state(to, failure.cloned(), now);
        }
        Ok(())
    }

    fn publish_state(&mut self, to: SessionState, failure: Option<Failure>, now: i64) {
        self.session.state = to;
        self.session.failure = failure;
        self.session.ended_ms = to.is_terminal().then_some(now);
        self.view.send_modify(|view| view.state = to);
        let _ = self.events.send(SessionEvent::State(self.session.clone()));
        tracing::info!(session = %self.session.id, state = %to, "session");
    }
}

fn store_failure(error: &StoreError, stage: Option<Stage>) -> Failure {
    use airlock_domain::Cause;
    let cause = if error.is_disk_full() { Cause::DiskFull } else { Cause::Inconclusive };
    Failure::new(cause, stage, chain(error))
}
