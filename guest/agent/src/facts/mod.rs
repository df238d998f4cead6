//! What the host asks of this guest itself: interfaces, routes, listening sockets, failed units, memory, clock, the kernel's
//! last words. It works without a network, and changes nothing.
//!
//! * [`net`]: `/proc/net` and `/sys/class/net` (pure, but [`net::links`])
//! * [`processes`]: whose a socket is, and which of our services run
//! * [`kernel`]: `/dev/kmsg`, killed processes, memory
//! * [`units`]: failed units of systemd
//!
//! Every part has a thread of its own and brings what it found; what is not there when the time is over is absent from the
//! answer. Sizes are bounded, and nothing of anybody's arguments, environment or files is in it.

pub mod kernel;
pub mod net;
pub mod processes;
pub mod units;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use airlock_protocol::GuestConfig;
use airlock_protocol::facts::{GuestFacts, MAX_FACTS_MS};
use airlock_protocol::guest_config::Restart;
use airlock_protocol::message::{GuestMessage, MAX_EGRESS_TARGETS, ReachOutcome, ReachTarget};
use airlock_protocol::paths::GUEST_CONFIG;

use crate::addresses::addresses;
use crate::clock;
use crate::outbox::Outbox;
use crate::reach::{dns, probe};

/// Questions at once; one more is answered with nothing, so that a host cannot fill the guest with threads.
const MAX_QUESTIONS: usize = 2;
/// What is kept of the time for putting the answer together.
const MARGIN: Duration = Duration::from_millis(20);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Looks when it is asked to.
#[derive(Debug)]
pub struct Facts {
    running: Arc<AtomicUsize>,
    outbox: Arc<Outbox>,
}

impl Facts {
    /// Nothing is asked yet; answers go to `outbox`.
    pub fn new(outbox: Arc<Outbox>) -> Self {
        Self { running: Arc::default(), outbox }
    }

    /// Begins to look and returns at once. The answer goes to the host that is there now, and to no later one.
    pub fn start(&self, id: u64, now_ms: u64, egress: Vec<ReachTarget>, timeout_ms: u64) {
        let until = Instant::now() + Duration::from_millis(timeout_ms.min(MAX_FACTS_MS)).saturating_sub(MARGIN);
        // Before anything that takes time: it belongs to the moment of the question.
        let clock_skew_ms = skew(clock::wall_ms(), now_ms);
        let (outbox, host, running) = (self.outbox.clone(), self.outbox.host(), self.running.clone());
        let answer = move |facts| outbox.push_to(host, GuestMessage::Facts { id, facts: Box::new(facts) });
        let found = GuestFacts { clock_skew_ms, ..GuestFacts::default() };
        if self.running.fetch_add(1, Ordering::AcqRel) >= MAX_QUESTIONS {
            self.running.fetch_sub(1, Ordering::AcqRel);
            return answer(found);
        }
        let look = {
            let (answer, found) = (answer.clone(), found.clone());
            move || {
                let facts = gather(found, egress, until);
                running.fetch_sub(1, Ordering::AcqRel);
                answer(facts);
            }
        };
        if crate::spawn("facts", look).is_err() {
            self.running.fetch_sub(1, Ordering::AcqRel);
            answer(found);
        }
    }
}

fn skew(wall_ms: u64, host_ms: u64) -> Option<i64> {
    Some(i64::try_from(wall_ms).ok()?.saturating_sub(i64::try_from(host_ms).ok()?))
}

/// What one part found, as its change of the whole.
type Part = Box<dyn FnOnce(&mut GuestFacts) + Send>;

/// Asks every part at once and takes what comes until `until`.
pub fn gather(mut facts: GuestFacts, egress: Vec<ReachTarget>, until: Instant) -> GuestFacts {
    let (found, parts) = channel::<Part>();
    let routes = fs::read_to_string("/proc/net/route").ok().map(|text| net::routes(&text));
    facts.default_gateways = routes.as_deref().map(net::default_gateways);
    let gateway = facts.default_gateways.as_ref().and_then(|all| all.first().copied());
    facts.routes = routes;

    ask(&found, "facts-links", || {
        let links = net::links(Path::new("/sys/class/net"), &addresses());
        Box::new(|facts| facts.links = links)
    });
    ask(&found, "facts-processes", move || processes_of(until));
    ask(&found, "facts-units", move || {
        let failed = units::failed(until);
        Box::new(|facts| add_failed(facts, failed))
    });
    ask(&found, "facts-kernel", move || {
        let said = kernel::read(Path::new("/dev/kmsg"), until);
        let memory = kernel::memory();
        Box::new(move |facts| {
            (facts.total_mib, facts.available_mib, facts.memory_stall_percent) = memory;
            if let Some(said) = said {
                (facts.oom_killed, facts.kernel_tail) = (Some(said.oom_killed), Some(said.tail));
            }
        })
    });
    ask(&found, "facts-gateway", move || {
        let answers = gateway.and_then(|gateway| gateway_answers(gateway, until));
        let neighbours = fs::read_to_string("/proc/net/arp").ok().map(|text| net::neighbours(&text));
        Box::new(move |facts| (facts.gateway_answers, facts.neighbours) = (answers, neighbours))
    });
    for server in name_servers(&mut facts) {
        ask_reach(&found, ReachTarget::Udp { address: server }, until, |facts, outcome| {
            // Only an answer counts: somebody who refuses is no name server.
            let answers = outcome == ReachOutcome::Answered;
            facts.dns = Some(facts.dns == Some(true) || answers);
        });
    }
    for target in egress.into_iter().take(MAX_EGRESS_TARGETS) {
        ask_reach(&found, target, until, |facts, outcome| {
            let contact = outcome.is_reached() || outcome == ReachOutcome::Refused;
            facts.egress = Some(facts.egress == Some(true) || contact);
        });
    }

    drop(found);
    while let Ok(part) = parts.recv_timeout(until.saturating_duration_since(Instant::now())) {
        part(&mut facts);
    }
    facts
}

/// Starts a part. One that cannot be started, or that panics, brings nothing.
fn ask(found: &Sender<Part>, name: &str, look: impl FnOnce() -> Part + Send + 'static) {
    let found = found.clone();
    // Whoever waited is gone when the time is over.
    let _ = crate::spawn(name, move || drop(found.send(look())));
}

/// Tries to reach something, a moment shorter than the whole may take, so that its silence is still said.
fn ask_reach(
    found: &Sender<Part>,
    target: ReachTarget,
    until: Instant,
    take: impl FnOnce(&mut GuestFacts, ReachOutcome) + Send + 'static,
) {
    ask(found, "facts-reach", move || {
        let outcome = probe::reach(&target, before(until));
        Box::new(move |facts| take(facts, outcome))
    });
}

fn before(until: Instant) -> Instant {
    until.checked_sub(MARGIN * 5).unwrap_or(until)
}

/// Our services that do not run are failed units too.
fn add_failed(facts: &mut GuestFacts, failed: Option<Vec<String>>) {
    if let Some(failed) = failed {
        facts.failed_units.get_or_insert_default().extend(failed);
    }
}

fn processes_of(until: Instant) -> Part {
    let descriptors = processes::scan(Path::new("/proc"), until);
    let mut listening = Vec::new();
    for (path, is_v6) in [("/proc/net/tcp", false), ("/proc/net/tcp6", true)] {
        // A guest without IPv6 has no second table.
        listening.extend(fs::read_to_string(path).map(|text| net::listeners(&text, is_v6)).unwrap_or_default());
    }
    listening.truncate(net::MAX_LISTED);
    let whose = |socket: net::Listener| socket.with_program(descriptors.owner(socket.inode));
    let listening = listening.into_iter().map(whose).collect();
    let wanted = wanted_services();
    // An incomplete look proves nobody's absence.
    let stopped = wanted.filter(|_| descriptors.complete).map(|wanted| descriptors.stopped(&wanted));
    Box::new(move |facts| {
        facts.listening = Some(listening);
        add_failed(facts, stopped);
    })
}

/// Names of the services that must run, as far as they were started: those that wait for something have no log yet.
fn wanted_services() -> Option<BTreeSet<String>> {
    let config: GuestConfig = serde_json::from_slice(&fs::read(GUEST_CONFIG).ok()?).ok()?;
    let must_run = config.services.into_iter().filter(|service| service.restart == Restart::Always);
    let was_started = |name: &String| Path::new(processes::LOGS).join(format!("{name}.log")).exists();
    Some(must_run.map(|service| service.name).filter(was_started).collect())
}

/// Asks by ICMP, which needs ARP first. A gateway whose firewall takes no echo still answers ARP, so what the neighbour table
/// has without an answer proves nothing, and only its lack of a MAC is a no.
fn gateway_answers(gateway: Ipv4Addr, until: Instant) -> Option<bool> {
    match probe::reach(&ReachTarget::Ping { address: gateway }, before(until)) {
        ReachOutcome::Answered => return Some(true),
        // Nothing was asked of anybody.
        ReachOutcome::Failed { .. } => return None,
        _ => {}
    }
    let table = net::neighbours(&fs::read_to_string("/proc/net/arp").ok()?);
    match table.iter().find(|neighbour| neighbour.address == gateway) {
        Some(neighbour) if neighbour.mac.is_some() => None,
        _ => Some(false),
    }
}

/// The name servers to ask. A link that leads nowhere is a resolver that does not work.
fn name_servers(facts: &mut GuestFacts) -> Vec<SocketAddr> {
    match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => dns::servers(&text),
        Err(error) => {
            let dangles = error.kind() == ErrorKind::NotFound && fs::symlink_metadata(RESOLV_CONF).is_ok();
            facts.dns = dangles.then_some(false);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;
