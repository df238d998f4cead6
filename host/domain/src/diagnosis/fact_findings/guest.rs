//! The guest's side, as its agent sees it.

use std::net::IpAddr;

use airlock_protocol::Stage;
use airlock_protocol::paths::HEALTH_PORT;

use super::{Sight, seen_by_guest};
use crate::cause::Cause;
use crate::diagnosis::console_findings::BROWSERS;
use crate::diagnosis::facts::{GuestLink, Listening, Probe};
use crate::diagnosis::rules::Grade;
use crate::diagnosis::{Evidence, Failure, Finding, Source};

/// A clock that is further off than this, in milliseconds, is wrong.
const MAX_SKEW_MS: u64 = 60_000;
/// Memory is scarce when processes wait for it for this share of the time, in percent.
const SCARCE_STALL: u8 = 30;
/// Or when less than one part in so many is available.
const SCARCE_PART: u64 = 20;
/// How the kernel's own names of interfaces begin.
const KERNELS_NAME: &str = "eth";
/// Name of the agent's program, as the kernel has it.
const AGENT: &str = "airlock-agent";

pub(super) fn find(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    of_links(sight, found);
    if sight.guest.gateway_answers == Some(false) {
        let mut text = "the guest's gateway does not answer ARP".to_owned();
        if sight.host.guarded == Some(false) {
            text += ", and the rules of its port are not whole";
        }
        found.push(seen_by_guest(Cause::GatewayUnreachable, Stage::GatewayReachable, Grade::Hard, text));
    }
    of_agent_port(sight, found);
    of_memory(sight, found);
    if let Some(skew) = sight.guest.clock_skew_ms.filter(|skew| skew.unsigned_abs() > MAX_SKEW_MS)
        && sight.is_due(Stage::AgentUp)
    {
        let text = format!("the guest's clock is {} s off", skew / 1000);
        found.push(seen_by_guest(Cause::ClockWrong, Stage::Reachable, Grade::Weak, text));
    }
    for unit in sight.guest.failed_units.iter().flatten() {
        found.push(seen_by_guest(Cause::UnitFailed, Stage::HandedOver, Grade::Note, format!("{unit} failed")));
    }
}

fn of_links(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let Some(links) = &sight.guest.links else { return };
    if links.is_empty() {
        if sight.is_due(Stage::LinkFound) {
            let text = "the guest has no interface but lo";
            found.push(seen_by_guest(Cause::LinkMissing, Stage::LinkFound, Grade::Hard, text));
        }
        return;
    }
    let own = sight.own_link();
    let missed = sight.failure.filter(|failure| failure.cause == Cause::LinkMissing);
    if let Some(link) = own.filter(|link| missed.is_some() && !link.name.starts_with(KERNELS_NAME)) {
        let text = format!("the guest's interface is there, and is called {}", link.name);
        found.push(seen_by_guest(Cause::LinkRenamed, Stage::LinkFound, Grade::Hard, text));
    }
    // Bridges and tunnels have addresses and troubles of their own, and no carrier.
    let devices = || links.iter().filter(|link| link.carrier.is_some()).collect();
    let judged: Vec<&GuestLink> = own.map_or_else(devices, |own| vec![own]);
    let no_carrier = judged.iter().find(|link| link.up == Some(true) && link.carrier == Some(false));
    if let Some(link) = no_carrier.filter(|_| sight.is_due(Stage::LinkUp)) {
        let text = format!("{} has no carrier", link.name);
        found.push(seen_by_guest(Cause::LinkNoCarrier, Stage::LinkUp, Grade::Hard, text));
    }
    if let Some(link) = own.filter(|link| link.up == Some(false) && sight.is_due(Stage::LinkUp)) {
        // Somebody took it down again, or nobody got it up.
        let was_up = sight.has_reached(Stage::LinkUp);
        let cause = if was_up { Cause::AddressOwnerConflict } else { Cause::LinkUpFailed };
        // Where the image's programs get it up, among others that come before, a boot may only have been too slow for them.
        let maybe_slow = sight.has_reached(Stage::HandedOver) && sight.failure.is_some_and(Failure::is_of_deadline);
        let grade = if maybe_slow && !was_up { Grade::Note } else { Grade::Weak };
        found.push(seen_by_guest(cause, Stage::LinkUp, grade, format!("{} is down", link.name)));
    }
    of_addresses(sight, &judged, own.is_some(), found);
}

fn of_addresses(sight: &Sight<'_>, judged: &[&GuestLink], is_own: bool, found: &mut Vec<Finding>) {
    let Some(expected) = sight.expected else { return };
    // Who watched how it was changed says more than who sees what it is now.
    if sight.failure.is_some_and(|failure| failure.cause == Cause::AddressOwnerConflict) {
        return;
    }
    let is_expected = |known: &str| known == expected || known.split('/').next() == Some(expected);
    // An interface of which that is not known may have it.
    if judged.iter().any(|link| link.addresses.is_none()) {
        return;
    }
    let known = judged.iter().flat_map(|link| link.addresses.iter().flatten());
    let known: Vec<&str> = known.map(String::as_str).filter(|address| !address.starts_with("169.254.")).collect();
    if known.iter().any(|address| is_expected(address)) {
        return;
    }
    if known.is_empty() {
        if is_own && sight.has_reached(Stage::AddressSet) {
            let text = format!("the guest had {expected} and has no address now");
            found.push(seen_by_guest(Cause::AddressOwnerConflict, Stage::AddressSet, Grade::Weak, text));
        }
    } else if is_own || !sight.is_waiting {
        let text = format!("the guest has {} and not {expected}", known.join(", "));
        found.push(seen_by_guest(Cause::AddressMismatch, Stage::AddressSet, Grade::Hard, text));
    }
}

/// Whether a socket takes nothing from the host.
pub(super) fn is_on_loopback(socket: &Listening) -> bool {
    // The kernel's tables have IPv4 addresses of IPv6 sockets in the mapped form.
    socket.address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What listens on that port.
pub(super) fn listening_on<'a>(sight: &Sight<'a>, port: u16) -> Vec<&'a Listening> {
    sight.guest.listening.iter().flatten().filter(|socket| socket.port == port).collect()
}

fn addresses_of(sockets: &[&Listening]) -> String {
    sockets.iter().map(|socket| socket.address.as_str()).collect::<Vec<_>>().join(" and ")
}

fn of_agent_port(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let sockets = listening_on(sight, HEALTH_PORT);
    if sockets.is_empty() || sight.host.http == Some(Probe::Ok) {
        return;
    }
    let others: Vec<&str> = sockets.iter().filter_map(|socket| socket.program.as_deref()).collect();
    if others.len() == sockets.len() && others.iter().all(|program| !program.starts_with(AGENT)) {
        let text = format!("port {HEALTH_PORT} is held by {}", others.join(", "));
        found.push(seen_by_guest(Cause::AgentPortConflict, Stage::AgentUp, Grade::Hard, text));
        return;
    }
    if sight.host.tcp == Some(Probe::Ok) {
        return;
    }
    let bound = addresses_of(&sockets);
    if sockets.iter().all(|socket| is_on_loopback(socket)) {
        let text = format!("port {HEALTH_PORT} listens on {bound} only");
        found.push(seen_by_guest(Cause::Ipv6OnlyBind, Stage::Reachable, Grade::Hard, text));
    } else if sockets.iter().all(|socket| socket.address.contains(':'))
        && sight.host.tcp == Some(Probe::Refused)
        && !sight.is_waiting
    {
        let text = format!("port {HEALTH_PORT} listens on {bound} only, and IPv4 is refused");
        found.push(seen_by_guest(Cause::Ipv6OnlyBind, Stage::Reachable, Grade::Soft, text));
    }
}

fn of_memory(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let killed = sight.guest.oom_killed.iter().flatten();
    let (browsers, others): (Vec<&String>, Vec<&String>) =
        killed.partition(|name| BROWSERS.iter().any(|browser| name.starts_with(browser)));
    let mut add = |cause, stage: Option<Stage>, names: &[&String]| {
        let Some(first) = names.first() else { return };
        let text = match names.len() - 1 {
            0 => format!("the guest's kernel killed {first} for want of memory"),
            more => format!("the guest's kernel killed {first} and {more} more for want of memory"),
        };
        // One that is up all the same is better named by what it lacks now.
        let is_past = sight.is_ready() || stage.is_some_and(|stage| sight.has_reached(stage));
        let grade = if is_past { Grade::Weak } else { Grade::Soft };
        found.push(Finding::new(cause, stage, grade, vec![Evidence::seen(Source::Guest, text)]));
    };
    add(Cause::BrowserOom, Some(Stage::BrowserUp), &browsers);
    add(Cause::GuestOom, None, &others);
    if !browsers.is_empty() || !others.is_empty() || sight.is_waiting {
        return;
    }
    let stall = sight.guest.memory_stall_percent.filter(|percent| *percent >= SCARCE_STALL);
    let left = sight.guest.available_mib.zip(sight.guest.total_mib);
    let left = left.filter(|(available, total)| available.saturating_mul(SCARCE_PART) < *total);
    let text = match (stall, left) {
        (Some(percent), _) => format!("memory is scarce: processes wait for it {percent} % of the time"),
        (None, Some((available, total))) => format!("memory is scarce: {available} of {total} MiB are available"),
        (None, None) => return,
    };
    found.push(seen_by_guest(Cause::GuestOom, Stage::AgentUp, Grade::Note, text));
}
