//! The readers of one VM: each turns something outside into inputs of its task, and ends when the task drops it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use airlock_effects::console::{self, ConsoleError};
use airlock_effects::control::ControlChannel;
use airlock_effects::http;
use airlock_effects::process::ProcessHandle;
use airlock_effects::vmm::VmmPaths;
use airlock_protocol::Sensitive;
use airlock_protocol::message::{HostMessage, VERSION};
use airlock_protocol::paths::HEALTH_PORT;
use airlock_protocol::stage::ConsoleParser;
use tokio::sync::mpsc::Sender;

use super::follow::Input;
use crate::clock::now_ms;
use crate::context::Context;
use crate::error::chain;

/// How long one health request may take, and the pause after one that failed.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
const HEALTH_PAUSE: Duration = Duration::from_millis(100);
/// How long the VMM may take to offer its control socket.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a lost control channel is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Reads the console as it grows, line by line, and reports the VMM's exit behind its last line: what a guest said before
/// it died explains the death.
pub(super) async fn read_console(path: PathBuf, process: ProcessHandle, inputs: Sender<Input>) {
    if let Err(error) = forward_lines(path, &process, &inputs).await {
        tracing::error!(error = chain(&error), "console not readable");
    }
    let _ = inputs.send(Input::Exited(process.exited().await)).await;
}

async fn forward_lines(path: PathBuf, process: &ProcessHandle, inputs: &Sender<Input>) -> Result<(), ConsoleError> {
    let mut parser = ConsoleParser::new();
    let mut tail = console::tail(&path, 0)?;
    let stop = tail.stop();
    let last_words = async {
        process.exited().await;
        stop.finish();
        std::future::pending::<()>().await;
    };
    tokio::pin!(last_words);
    loop {
        let chunk = tokio::select! {
            chunk = tail.next() => chunk?,
            () = &mut last_words => None,
        };
        let Some(bytes) = chunk else { return Ok(()) };
        let mut lines = Vec::new();
        parser.feed_lines(&bytes, |line| lines.push(line.to_owned()));
        for line in lines.into_iter().filter(|line| !line.is_empty()) {
            if inputs.send(Input::ConsoleLine(line)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Holds the control channel: connects, greets, reads; again after a loss. Every greeting sets the password of the screen.
pub(super) async fn hold_control(paths: VmmPaths, vnc_password: Option<Sensitive>, inputs: Sender<Input>) {
    loop {
        match ControlChannel::connect(&paths.control_socket, paths.control_port, CONNECT_DEADLINE).await {
            Ok(channel) => {
                let (sender, mut receiver) = channel.split();
                let now_ms = now_ms().unsigned_abs();
                let vnc_password = vnc_password.clone();
                let greeted = sender.send(&HostMessage::Hello { version: VERSION, now_ms, vnc_password }).await;
                if greeted.is_ok() && inputs.send(Input::ControlUp(sender)).await.is_err() {
                    return;
                }
                while let Some(received) = receiver.recv().await {
                    match received {
                        Ok(message) => {
                            if inputs.send(Input::Control(Box::new(message))).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::debug!(error = chain(&error), "control channel lost");
                            break;
                        }
                    }
                }
                if inputs.send(Input::ControlDown).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(error = chain(&error), "control channel not open"),
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Asks the agent's health over the guest's network until it answers. Pending is no failure: the boot's deadline decides.
pub(super) async fn probe_health(ctx: Arc<Context>, address: Ipv4Addr, inputs: Sender<Input>) {
    let target = SocketAddr::from((address, HEALTH_PORT));
    loop {
        match http::get_health(&ctx.network, target, HEALTH_DEADLINE).await {
            Ok(health) => {
                let _ = inputs.send(Input::Healthy(Box::new(health))).await;
                return;
            }
            Err(error) => tracing::debug!(%address, error = chain(&error), "health pending"),
        }
        tokio::time::sleep(HEALTH_PAUSE).await;
    }
}
