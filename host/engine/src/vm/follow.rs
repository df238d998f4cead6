//! Following a VM: console, control channel, process, health and deadlines, until it ends.

use std::time::{Duration, Instant};

use airlock_domain::boot::{BootEvent, Failure};
use airlock_domain::session::SessionState;
use airlock_domain::vmm::VmmExit;
use airlock_effects::control::ControlSender;
use airlock_protocol::health::Health;
use airlock_protocol::message::GuestMessage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{End, Order, VmTask, guest};
use crate::clock::now_ms;

/// How often a commit that failed is tried again while the session lasts.
const COMMIT_RETRY: Duration = Duration::from_secs(2);

/// What reaches the task from its VM.
pub(super) enum Input {
    ConsoleLine(String),
    ControlUp(ControlSender),
    ControlDown,
    Control(Box<GuestMessage>),
    Exited(VmmExit),
    Healthy(Box<Health>),
}

impl VmTask {
    /// Follows the VM until its session ends.
    pub(super) async fn follow(&mut self, mut orders: mpsc::Receiver<Order>) -> End {
        let Some(handle) = self.handle.clone() else { return End::Cancelled };
        let (inputs, mut received) = mpsc::channel(256);
        // Dropping the set ends every reader.
        let mut readers = JoinSet::new();
        readers.spawn(guest::read_console(handle.paths.console.clone(), handle.process.clone(), inputs.clone()));
        readers.spawn(guest::hold_control(handle.paths.control_socket.clone(), inputs.clone()));
        loop {
            let wake = tokio::time::Instant::from_std(self.next_wake());
            let step = tokio::select! {
                input = received.recv() => match input {
                    Some(input) => self.on_input(input).await,
                    None => Ok(Next::Go),
                },
                order = orders.recv() => match order {
                    Some(Order::Cancel) | None => return End::Cancelled,
                },
                () = tokio::time::sleep_until(wake) => self.on_wake().await,
            };
            match step {
                Ok(Next::Go) => {}
                Ok(Next::ProbeHealth) => {
                    let (ctx, address) = (self.ctx.clone(), self.session.address);
                    readers.spawn(guest::probe_health(ctx, address, inputs.clone()));
                }
                Ok(Next::End(end)) => return end,
                Err(failure) => return End::Failed(failure),
            }
        }
    }

    async fn on_input(&mut self, input: Input) -> Result<Next, Failure> {
        let probe = match input {
            Input::ConsoleLine(line) => self.on_boot(BootEvent::ConsoleLine(&line)).await?,
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
                for report in &timeline {
                    probe |= self.on_boot(BootEvent::GuestReport(report)).await?;
                }
            }
            GuestMessage::Stage(report) => probe = self.on_boot(BootEvent::GuestReport(&report)).await?,
            GuestMessage::Login { login_id, event } if login_id == self.session.id.to_string() => {
                return self.on_login(event).await;
            }
            GuestMessage::Login { .. } | GuestMessage::Pong { .. } => {}
        }
        Ok(if probe { Next::ProbeHealth } else { Next::Go })
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let left = Duration::from_millis(u64::try_from(self.session.deadline_ms - now_ms()).unwrap_or(0));
        let mut wake = now + left;
        if let Some(boot) = self.boot.next_deadline_ms() {
            wake = wake.min(self.planned + Duration::from_secs_f64(boot / 1000.0));
        }
        if self.pending.is_some() {
            wake = wake.min(now + COMMIT_RETRY);
        }
        wake
    }

    async fn on_wake(&mut self) -> Result<Next, Failure> {
        self.on_boot(BootEvent::Tick).await?;
        if self.pending.is_some() {
            return self.commit().await;
        }
        if now_ms() >= self.session.deadline_ms && self.session.state != SessionState::Capturing {
            return Ok(Next::End(End::Expired));
        }
        Ok(Next::Go)
    }
}

/// What follows an input.
pub(super) enum Next {
    Go,
    ProbeHealth,
    End(End),
}
