//! Following a VM: console, control channel, process, health and deadlines, until it ends.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use airlock_domain::Cause;
use airlock_domain::boot::{BootEvent, Failure};
use airlock_domain::session::SessionState;
use airlock_domain::vmm::VmmExit;
use airlock_effects::control::ControlSender;
use airlock_effects::probes::LIMIT;
use airlock_protocol::facts::GuestFacts;
use airlock_protocol::health::Health;
use airlock_protocol::message::{GuestMessage, HostMessage};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{End, Order, VmTask, guest};
use crate::clock::monotonic_ms;
use crate::error::chain;
use crate::records::{Reached, SessionEvent};
use crate::store::LEASE_MS;

/// How often a commit that failed is tried again while the session lasts.
const COMMIT_RETRY: Duration = Duration::from_secs(2);
/// How often the lease is renewed; it lasts four times as long.
const RENEWAL: Duration = Duration::from_millis(LEASE_MS.unsigned_abs() / 4);

/// How long before the boot's deadline the agent says what its screen lacks.
const SCREEN_BEFORE_BOOT: Duration = Duration::from_secs(2);

/// What reaches the task from its VM.
pub(crate) enum Input {
    ConsoleLine(String),
    ControlUp(ControlSender),
    ControlDown,
    Control(Box<GuestMessage>),
    Exited(VmmExit),
    Healthy(Box<Health>),
}

/// Questions to the guest that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Reached>>,
    looking: HashMap<u64, oneshot::Sender<GuestFacts>>,
}

impl Probes {
    /// A question for what the agent sees: its name, and where its answer will come.
    pub(crate) fn ask_facts(&mut self) -> (u64, oneshot::Receiver<GuestFacts>) {
        let (answer, answered) = oneshot::channel();
        self.looking.retain(|_, answer| !answer.is_closed());
        self.next += 1;
        self.looking.insert(self.next, answer);
        (self.next, answered)
    }

    /// What the agent sees, to whoever asked.
    pub(crate) fn answer_facts(&mut self, id: u64, facts: GuestFacts) {
        if let Some(answer) = self.looking.remove(&id) {
            let _ = answer.send(facts);
        }
    }
}

impl VmTask {
    /// Follows the VM until its session ends, or somebody else has it.
    pub(super) async fn follow(&mut self, mut orders: mpsc::Receiver<Order>) -> End {
        let Some(handle) = self.handle.clone() else { return End::Cancelled };
        let (inputs, mut received) = mpsc::channel(256);
        // Dropping the set ends every reader.
        let mut readers = JoinSet::new();
        readers.spawn(guest::read_console(handle.paths.console.clone(), handle.process.clone(), inputs.clone()));
        readers.spawn(guest::hold_control(handle.paths.clone(), self.vnc_password.clone(), inputs.clone()));
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + RENEWAL, RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What an adopted machine still has to do is asked for by the first one.
        let mut wake = tokio::time::Instant::now();
        loop {
            let step = tokio::select! {
                input = received.recv() => match input {
                    Some(input) => self.on_input(input).await,
                    None => Ok(Next::Go),
                },
                order = orders.recv() => self.on_order(order).await,
                () = tokio::time::sleep_until(wake) => self.on_wake().await,
                _ = renewal.tick() => self.renew().await,
            };
            match step {
                Ok(Next::Go) => {}
                Ok(Next::ProbeHealth) => {
                    readers.spawn(guest::probe_health(self.ctx.clone(), self.address, inputs.clone()));
                }
                Ok(Next::End(end)) => return end,
                Err(failure) => {
                    self.look_at_failed(&failure, &mut received).await;
                    return End::Failed(failure);
                }
            }
            wake = tokio::time::Instant::from_std(self.next_wake());
        }
    }

    /// Says that the VM still has its owner. One who lost it must not touch it any more.
    async fn renew(&mut self) -> Result<Next, Failure> {
        let vm_id = self.session.vm_id;
        match self.ctx.store.renew_lease(vm_id, self.generation, monotonic_ms() + LEASE_MS).await {
            Ok(true) => Ok(Next::Go),
            Ok(false) => {
                tracing::error!(%vm_id, "the lease has another owner: the VM is let go");
                Ok(Next::End(End::LetGo))
            }
            Err(error) => {
                tracing::error!(%vm_id, error = chain(&error), "lease not renewed yet");
                Ok(Next::Go)
            }
        }
    }

    async fn on_order(&mut self, order: Option<Order>) -> Result<Next, Failure> {
        match order {
            Some(Order::Cancel) | None => return Ok(Next::End(End::Cancelled)),
            Some(Order::Detach) => return Ok(Next::End(End::LetGo)),
            Some(Order::Tell(cause)) => {
                return Err(Failure::new(cause, None, "found by the reconciler: something outside Airlock did it"));
            }
            Some(Order::Extend(deadline)) => {
                self.deadline = super::instant_of(deadline.mono_ms);
                self.session.deadline_ms = deadline.wall_ms;
                self.session.clock.deadline_ms = deadline.mono_ms;
                let _ = self.events.send(SessionEvent::State(Box::new(self.session.clone())));
            }
            Some(Order::OpenUrl { url, answer }) => drop(answer.send(self.open_url(url).await)),
            Some(Order::EnterCode { code, answer }) => drop(answer.send(self.enter_code(code).await)),
            Some(Order::Retry { flow, answer }) => drop(answer.send(self.retry_login(flow).await)),
            Some(Order::Look { answer }) => {
                let looking = self.look(LIMIT);
                tokio::spawn(async move { drop(answer.send(looking.await)) });
            }
            Some(Order::Reach { target, timeout, answer }) => {
                let probes = &mut self.probes;
                probes.waiting.retain(|_, answer| !answer.is_closed());
                probes.next += 1;
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                let question = HostMessage::Reach { id: probes.next, target, timeout_ms };
                // Without a channel the answer is dropped, which is what whoever asked is told.
                if let Some(control) = &self.control
                    && control.send(&question).await.is_ok()
                {
                    probes.waiting.insert(probes.next, answer);
                }
            }
        }
        Ok(Next::Go)
    }

    async fn on_input(&mut self, input: Input) -> Result<Next, Failure> {
        let probe = match input {
            Input::ConsoleLine(line) => self.on_boot(BootEvent::ConsoleLine(&line)).await?,
            // What the guest gave before it died is not thrown away with it.
            Input::Exited(_) if self.pending.is_some() => return self.commit().await,
            Input::Exited(exit) => self.on_boot(BootEvent::VmmExited(exit)).await?,
            Input::Healthy(health) => {
                let addresses: Vec<_> = health.addresses.iter().map(|address| address.addr.clone()).collect();
                self.on_boot(BootEvent::HealthAnswered { build_id: &health.build_id, addresses: &addresses }).await?
            }
            Input::ControlUp(sender) => {
                self.control = Some(sender);
                self.start_login().await;
                false
            }
            Input::ControlDown => {
                self.control = None;
                false
            }
            Input::Control(message) => return self.on_message(*message).await,
        };
        Ok(if probe { Next::ProbeHealth } else { Next::Go })
    }

    async fn on_message(&mut self, message: GuestMessage) -> Result<Next, Failure> {
        let mut probe = false;
        match message {
            GuestMessage::Hello { timeline, .. } => {
                self.password_is_set();
                self.say_when_the_screen_is_due().await;
                for report in &timeline {
                    probe |= self.on_boot(BootEvent::GuestReport(report)).await?;
                }
            }
            GuestMessage::Stage(report) => probe = self.on_boot(BootEvent::GuestReport(&report)).await?,
            GuestMessage::Login { login_id, attempt, event } if login_id == self.session.id.to_string() => {
                return self.on_login(attempt, event).await;
            }
            GuestMessage::Reached { id, outcome, ms } => {
                if let Some(answer) = self.probes.waiting.remove(&id) {
                    let _ = answer.send(Reached { outcome, ms });
                }
            }
            GuestMessage::Facts { id, facts } => self.probes.answer_facts(id, *facts),
            GuestMessage::Login { .. } | GuestMessage::Pong { .. } => {}
        }
        Ok(if probe { Next::ProbeHealth } else { Next::Go })
    }

    /// The agent knows better than our deadline what a screen is waiting for: it speaks a moment before.
    async fn say_when_the_screen_is_due(&self) {
        let (Some(boot), Some(control)) = (self.boot.next_deadline_ms(), &self.control) else { return };
        let due = self.planned + Duration::from_secs_f64(boot / 1000.0);
        let left = due.saturating_duration_since(Instant::now()).saturating_sub(SCREEN_BEFORE_BOOT);
        let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = control.send(&HostMessage::ScreenDue { within_ms }).await {
            tracing::debug!(error = chain(&error), "the agent does not know when the screen is due");
        }
    }

    fn next_wake(&self) -> Instant {
        let mut wake = self.deadline;
        if let Some(boot) = self.boot.next_deadline_ms() {
            wake = wake.min(self.planned + Duration::from_secs_f64(boot / 1000.0));
        }
        if let Some(give_up_ms) = self.session.login.as_ref().and_then(|login| login.give_up_ms) {
            wake = wake.min(super::instant_of(give_up_ms));
        }
        if self.pending.is_some() {
            wake = wake.min(Instant::now() + COMMIT_RETRY);
        }
        wake
    }

    async fn on_wake(&mut self) -> Result<Next, Failure> {
        let probe = self.on_boot(BootEvent::Tick).await?;
        if self.pending.is_some() {
            return self.commit().await;
        }
        self.judge_login()?;
        if Instant::now() >= self.deadline {
            return match self.session.state {
                // What an earlier daemon began to capture, and the guest never sent to this one.
                SessionState::Capturing => Err(never_sent()),
                _ => Ok(Next::End(End::Expired)),
            };
        }
        Ok(if probe { Next::ProbeHealth } else { Next::Go })
    }
}

fn never_sent() -> Failure {
    let detail =
        "the daemon ended during the capture, and the guest did not send the credential again before the deadline";
    Failure::new(Cause::DaemonInterrupted, None, detail)
}

/// What follows an input.
pub(super) enum Next {
    Go,
    ProbeHealth,
    End(End),
}
