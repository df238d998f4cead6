//! One task owns one VM, from its first step, or from its adoption, to the proof that nothing of it is left.
//!
//! ```text
//! steps applied ─┬─> boot followed to ready -> login followed -> ended (why) -> session moved -> steps undone
//! adopted ───────┘        \_______________________\____ failure: evidence saved first
//!                          \____ detached (the next daemon adopts) | lease lost (somebody else owns it): nothing is touched
//! ```
//!
//! The task is the only writer of its VM and of its session as long as it holds the VM's lease, which it renews. It ends by
//! itself: by success, failure, cancellation or deadline. Deadlines are kept on the monotonic clock.

mod follow;
mod guest;
mod login;
mod start;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use airlock_domain::Cause;
use airlock_domain::boot::{BootEvent, BootMachine, BootOutput, Contract, Failure, TimelineEntry, needed_services};
use airlock_domain::diagnosis::Expected;
use airlock_domain::provider::Provider;
use airlock_domain::session::login::Login;
use airlock_domain::session::{SessionEvent as Event, SessionState};
use airlock_domain::step::Step;
use airlock_effects::control::ControlSender;
use airlock_effects::vmm::VmmHandle;
use airlock_image::GoldenImage;
use airlock_protocol::guest_config::{Addressing, NetworkOwner};
use airlock_protocol::login::{CapturedFile, Flow};
use airlock_protocol::message::ReachTarget;
use airlock_protocol::stage::Reporter;
use airlock_protocol::{Sensitive, Stage, paths};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::clock::{Moment, monotonic_ms, now_ms};
use crate::context::Context;
use crate::engine_login::LoginError;
use crate::engine_probe::Facts;
use crate::error::chain;
use crate::records::{Reached, SessionEvent, SessionRecord, VmState};
use crate::secrets;
use crate::store::StoreError;

pub(crate) use self::follow::Input;
use self::follow::Probes;

/// What the task is asked.
#[derive(Debug)]
pub(crate) enum Order {
    /// End the session as cancelled.
    Cancel,
    /// Let go of the VM and leave it running, for the next daemon.
    Detach,
    /// Something happened to the VM behind the task's back.
    Tell(Cause),
    /// Show a page in the guest's browser.
    OpenUrl { url: Sensitive, answer: oneshot::Sender<Result<(), LoginError>> },
    /// Type a code at the tool's prompt.
    EnterCode { code: Sensitive, answer: oneshot::Sender<Result<(), LoginError>> },
    /// Try the login again.
    Retry { flow: Flow, answer: oneshot::Sender<Result<(), LoginError>> },
    /// The session lasts until then.
    Extend(Moment),
    /// Ask the guest what it reaches.
    Reach { target: ReachTarget, timeout: Duration, answer: oneshot::Sender<Reached> },
    /// Look at the VM from both sides.
    Look { answer: oneshot::Sender<Facts> },
}

/// What viewers wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The guest's RFB server, once its display is up.
    pub target: Option<SocketAddr>,
    /// What lets into it, once the agent said that it is set.
    pub password: Option<Sensitive>,
    /// Where the session stands.
    pub state: SessionState,
    /// How its login stands.
    pub login: Option<Login>,
}

/// Where a session is talked about; made before its VM when it waits.
#[derive(Debug)]
pub(crate) struct Channels {
    pub events: broadcast::Sender<SessionEvent>,
    pub view: watch::Sender<View>,
}

impl Channels {
    pub fn new(state: SessionState) -> Self {
        let view = View { target: None, password: None, state, login: None };
        Self { events: broadcast::channel(256).0, view: watch::channel(view).0 }
    }
}

/// The engine's end of a task.
#[derive(Debug, Clone)]
pub(crate) struct LiveVm {
    pub orders: mpsc::Sender<Order>,
    pub events: broadcast::Sender<SessionEvent>,
    pub view: watch::Receiver<View>,
}

/// Why a task ends.
#[derive(Debug)]
enum End {
    Completed,
    Cancelled,
    Expired,
    Failed(Failure),
    /// The VM lives on without this task: nothing is undone.
    LetGo,
}

/// Everything that a task is made of.
pub(crate) struct Ingredients {
    pub ctx: Arc<Context>,
    pub session: SessionRecord,
    pub address: Ipv4Addr,
    pub image: GoldenImage,
    pub channels: Channels,
    /// What is known of its boot already.
    pub timeline: Vec<TimelineEntry>,
    /// The generation of the VM's lease that the task holds.
    pub generation: i64,
}

pub(crate) struct VmTask {
    pub(crate) ctx: Arc<Context>,
    pub(crate) session: SessionRecord,
    pub(crate) address: Ipv4Addr,
    generation: i64,
    pub(crate) image: GoldenImage,
    planned: Instant,
    deadline: Instant,
    boot: BootMachine,
    ready: bool,
    pub(crate) handle: Option<VmmHandle>,
    pub(crate) control: Option<ControlSender>,
    pub(crate) probes: Probes,
    /// Of the guest's RFB server. Drawn when the task begins and never written down: who takes the VM over draws another one.
    vnc_password: Option<Sensitive>,
    /// What was found out when it failed.
    pub(crate) facts: Facts,
    /// Captured, but not committed yet.
    pending: Option<Vec<CapturedFile>>,
    events: broadcast::Sender<SessionEvent>,
    view: watch::Sender<View>,
}

impl VmTask {
    pub fn new(made_of: Ingredients) -> (Self, LiveVm, mpsc::Receiver<Order>) {
        let Ingredients { ctx, mut session, address, image, channels, timeline, generation } = made_of;
        let Channels { events, view } = channels;
        let (orders, orders_rx) = mpsc::channel(8);
        let provider = ctx.providers.iter().find(|provider| provider.id == session.provider);
        session.login = provider.and_then(Provider::preferred_flow).map(Login::new);
        view.send_modify(|view| view.login.clone_from(&session.login));
        let live = LiveVm { orders, events: events.clone(), view: view.subscribe() };
        let task = Self {
            boot: BootMachine::resume(contract(&ctx, &image, address), timeline),
            planned: instant_of(session.clock.created_ms),
            deadline: instant_of(session.clock.deadline_ms),
            ctx,
            session,
            address,
            generation,
            image,
            ready: false,
            handle: None,
            control: None,
            probes: Probes::default(),
            vnc_password: draw_vnc_password(),
            facts: Facts::default(),
            pending: None,
            events,
            view,
        };
        (task, live, orders_rx)
    }

    /// Starts the VM and runs it to its end. The view closes when nothing of it is left.
    pub async fn run(mut self, orders: mpsc::Receiver<Order>) {
        let begun = self.start().await;
        self.live(begun, orders).await;
    }

    /// Takes over a VM that another daemon started.
    pub async fn run_adopted(mut self, orders: mpsc::Receiver<Order>) {
        let begun = self.adopt().await;
        self.live(begun, orders).await;
    }

    async fn live(mut self, begun: Result<(), Failure>, orders: mpsc::Receiver<Order>) {
        let end = match begun {
            Ok(()) => self.follow(orders).await,
            Err(failure) => End::Failed(failure),
        };
        self.finish(end).await;
    }

    /// Saves evidence of a failure, moves the session to its end, undoes every step.
    async fn finish(&mut self, end: End) {
        let vm_id = self.session.vm_id;
        let mut failed = None;
        match end {
            End::LetGo => return,
            End::Failed(failure) => {
                self.on_boot(BootEvent::Failed(failure.clone())).await.ok();
                let failure = self.save_evidence(failure).await;
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
        // It says itself what came of it, in the log and in the VM's record.
        let _ = self.ctx.executor.destroy(vm_id).await;
    }

    async fn end_session(&mut self, event: Event, failure: Option<&Failure>) {
        if let Err(error) = self.move_session(event, failure).await {
            tracing::error!(session = %self.session.id, detail = error.detail, "session end not recorded");
        }
    }

    /// Diagnoses the failure and keeps what shows it.
    async fn save_evidence(&mut self, failure: Failure) -> Failure {
        let (vm_id, timeline) = (self.session.vm_id, self.boot.timeline().to_vec());
        let address = format!("{}/{}", self.address, self.ctx.config.network.subnet.prefix());
        let manifest = &self.image.manifest;
        let by_unit = manifest.network_owner == NetworkOwner::Script;
        let by_dhcp = manifest.network_addressing == Addressing::Dhcp;
        let expected = Expected { address: Some(address), by_unit, by_dhcp };
        let facts = std::mem::take(&mut self.facts);
        self.ctx.executor.save_evidence(vm_id, self.session.id, failure, timeline, expected, facts).await
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
                        self.show_display();
                    }
                    let _ = self.events.send(SessionEvent::Stage(entry));
                }
                BootOutput::ProbeHealth => probe = true,
                BootOutput::Ready => {
                    self.ready = true;
                    let written = self.ctx.store.set_vm_state(self.session.vm_id, VmState::Ready, None, now_ms()).await;
                    written.map_err(|error| store_failure(&error, Some(Stage::Ready)))?;
                    self.ctx.executor.apply(Step::AwaitReady, &self.plan()).await.map_err(|error| error.failure())?;
                    self.on_ready().await?;
                }
                BootOutput::Failed(failure) => return Err(failure),
            }
        }
        Ok(probe)
    }

    fn show_display(&self) {
        let target = SocketAddr::from((self.address, paths::RFB_PORT));
        self.view.send_modify(|view| view.target = Some(target));
    }

    /// The agent answered a greeting, and set the password before.
    fn password_is_set(&self) {
        self.view.send_modify(|view| view.password.clone_from(&self.vnc_password));
    }

    /// The password of the guest's RFB server, if it is set.
    pub(crate) fn screen_password(&self) -> Option<Sensitive> {
        self.view.borrow().password.clone()
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
        if let Some(login) = self.session.login.as_mut().filter(|_| to.is_terminal()) {
            login.forget_secrets();
        }
        self.view.send_modify(|view| {
            view.state = to;
            view.login.clone_from(&self.session.login);
        });
        let _ = self.events.send(SessionEvent::State(Box::new(self.session.clone())));
        tracing::info!(session = %self.session.id, state = %to, "session");
    }
}

/// A host without random numbers makes no VM ready in another way either; its screen stays closed.
fn draw_vnc_password() -> Option<Sensitive> {
    let drawn = secrets::draw_vnc_password();
    drawn.inspect_err(|error| tracing::error!(error = chain(error), "no password for the screen")).ok()
}

/// What the boot of an image must reach.
fn contract(ctx: &Context, image: &GoldenImage, address: Ipv4Addr) -> Contract {
    #[allow(clippy::cast_precision_loss, reason = "the configuration allows at most an hour")]
    let deadline_ms = (ctx.config.boot_deadline_s * 1000) as f64;
    let of_agent = image.manifest.readiness.iter().copied().filter(|stage| stage.reporter() == Reporter::Agent);
    let agent_stages: Vec<Stage> = of_agent.collect();
    let mut needed_services = needed_services(&image.manifest.services, image.manifest.display.as_ref());
    needed_services.retain(|service| agent_stages.contains(&service.stage));
    Contract {
        agent_stages,
        needed_services,
        late_network: image.manifest.network_owner != NetworkOwner::Airlock,
        deadline_ms,
        address: format!("{address}/{}", ctx.config.network.subnet.prefix()),
        build_id: image.manifest.build_id.clone(),
    }
}

/// A time of the host's monotonic clock as this process has it.
fn instant_of(mono_ms: i64) -> Instant {
    let (now, distance_ms) = (Instant::now(), mono_ms - monotonic_ms());
    let distance = Duration::from_millis(distance_ms.unsigned_abs());
    if distance_ms >= 0 { now + distance } else { now.checked_sub(distance).unwrap_or(now) }
}

fn store_failure(error: &StoreError, stage: Option<Stage>) -> Failure {
    let cause = if error.is_disk_full() { Cause::DiskFull } else { Cause::Inconclusive };
    Failure::new(cause, stage, chain(error))
}
