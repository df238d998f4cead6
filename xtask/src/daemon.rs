//! What everything that runs an `airlock serve` of its own shares: asking it, and ending it with all it made.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::bench::http;
use crate::run;

/// How long an answer, and the end of a daemon, may take.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// One request with a token; its answer's JSON.
pub fn call<T: DeserializeOwned>(
    addr: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<T> {
    let answer = http::request(addr, method, path, Some(token), body, STOP_DEADLINE)?;
    if answer.status >= 300 {
        bail!("{method} {path}: {} {}", answer.status, answer.body);
    }
    serde_json::from_str(&answer.body).with_context(|| format!("read the answer of {method} {path}: {}", answer.body))
}

/// Ends a daemon and removes its namespace; for `drop`, so it says what goes wrong and goes on.
pub fn end(child: &mut Child, namespace: &str) {
    // SIGINT first: the daemon then takes its VMs down with it.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
    let start = Instant::now();
    while start.elapsed() < STOP_DEADLINE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(ASK_EVERY);
    }
    if matches!(child.try_wait(), Ok(None)) {
        eprintln!("the daemon did not end on SIGINT in {} s: killing it", STOP_DEADLINE.as_secs());
        let _ = child.kill().and_then(|()| child.wait());
    }
    if Path::new("/run/netns").join(namespace).exists()
        && let Err(error) = run::run(Command::new("ip").args(["netns", "del", namespace]))
    {
        eprintln!("left behind: network namespace {namespace}: {error:#}");
    }
}
