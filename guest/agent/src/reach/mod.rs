//! Probes that the host asks for: what can this guest reach?
//!
//! * [`probe`]: one probe, blocking, at most until its deadline
//! * [`dns`]: what is written on the wire and how an answer is recognized (pure); ICMP is `airlock_protocol::icmp`
//!
//! Every probe has a thread of its own, so the control channel's never waits. What goes wrong is the probe's outcome; a probe
//! whose thread cannot be started, or that is one too many, fails at once. Nothing in the guest is changed.

pub mod dns;
pub mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use airlock_protocol::message::{GuestMessage, MAX_REACH_MS, ReachOutcome, ReachTarget};

use crate::outbox::Outbox;

/// Probes at once; one more fails, so that a host cannot fill the guest with threads.
pub const MAX_PROBES: usize = 16;

/// The probes that run.
#[derive(Debug)]
pub struct Probes {
    running: Arc<AtomicUsize>,
    outbox: Arc<Outbox>,
}

impl Probes {
    /// None run yet; answers go to `outbox`.
    pub fn new(outbox: Arc<Outbox>) -> Self {
        Self { running: Arc::default(), outbox }
    }

    /// Starts a probe and returns at once. Its answer goes to the host that is there now, and to no later one.
    pub fn start(&self, id: u64, target: ReachTarget, timeout_ms: u64) {
        let (started, outbox, host) = (Instant::now(), self.outbox.clone(), self.outbox.host());
        let answer = move |outcome| {
            let ms = started.elapsed().as_secs_f64() * 1000.0;
            outbox.push_to(host, GuestMessage::Reached { id, outcome, ms });
        };
        let Some(place) = Place::take(&self.running) else {
            return answer(failed(format!("start a probe while {MAX_PROBES} others run")));
        };
        let deadline = started + wait(timeout_ms);
        let probe = {
            let answer = answer.clone();
            move || {
                let outcome = probe::reach(&target, deadline);
                // First, so that who has the answer may ask again.
                drop(place);
                answer(outcome);
            }
        };
        if let Err(error) = crate::spawn("reach", probe) {
            answer(failed(format!("start a thread: {error}")));
        }
    }
}

/// How long a probe may take.
fn wait(timeout_ms: u64) -> Duration {
    Duration::from_millis(timeout_ms.min(MAX_REACH_MS))
}

fn failed(detail: String) -> ReachOutcome {
    ReachOutcome::Failed { errno: None, detail }
}

/// One of the [`MAX_PROBES`], given back also when the probe panics.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |count: usize| (count < MAX_PROBES).then_some(count + 1);
        running.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(running.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
