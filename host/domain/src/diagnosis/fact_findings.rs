//! What the boot machine, the VMM and the probes prove.

use airlock_protocol::Stage;
use airlock_protocol::paths::HEALTH_PORT;

use super::console::ConsoleFacts;
use super::facts::{GuestFacts, HostFacts, Probe};
use super::rules::Grade;
use super::{Case, Evidence, Finding, Source, order};
use crate::boot::Failure;
use crate::cause::Cause;

/// A clock that is further off than this, in milliseconds, is wrong.
const MAX_SKEW_MS: i64 = 60_000;

/// What the boot machine says. Causes that only say that something ended, or that time was over, have better names elsewhere.
pub(super) fn of_failure(failure: &Failure) -> Option<Finding> {
    let grade = match failure.cause {
        Cause::Inconclusive => return None,
        Cause::VmmExited | Cause::KernelPanic => Grade::Weak,
        // That it ended, and not why.
        Cause::AgentCrashed | Cause::DisplayFailed | Cause::BrowserCrashed | Cause::UnitFailed => Grade::Weak,
        _ if failure.is_of_deadline() => Grade::Weak,
        _ => Grade::Hard,
    };
    let evidence = vec![Evidence::seen(Source::Boot, failure.detail.as_str())];
    let stage = failure.stage.or_else(|| order::home(failure.cause));
    Some(Finding {
        rank: order::rank(failure.cause).min(1) + u8::from(grade == Grade::Weak) * 4,
        ..Finding::new(failure.cause, stage, grade, evidence)
    })
}

/// What the VMM's own log says.
pub(super) fn of_vmm_log(log: &ConsoleFacts) -> impl Iterator<Item = Finding> + '_ {
    log.boot.hits.iter().filter(|hit| hit.rule.cause != Cause::VmmExited).map(|hit| {
        let said = Evidence { source: Source::VmmLog, ..hit.first.clone() };
        Finding::new(hit.rule.cause, hit.rule.stage, hit.rule.grade, vec![said])
    })
}

/// What the host's probes prove.
pub(super) fn of_host(host: &HostFacts, found: &mut Vec<Finding>) {
    let mut add = |cause: Cause, stage: Stage, grade: Grade, text: String| {
        found.push(Finding::new(cause, Some(stage), grade, vec![Evidence::seen(Source::Host, text)]));
    };
    match &host.bridge {
        Some(None) => add(Cause::BridgeMissing, Stage::TapUp, Grade::Hard, "the bridge is gone".to_owned()),
        Some(Some(bridge)) if bridge.has_gateway == Some(false) => {
            let text = format!(
                "{} has {:?} and not the guests' gateway",
                bridge.name,
                bridge.addresses.as_deref().unwrap_or_default()
            );
            add(Cause::BridgeAddressMismatch, Stage::TapUp, Grade::Hard, text);
        }
        _ => {}
    }
    match &host.tap {
        Some(None) => add(Cause::TapMissing, Stage::TapUp, Grade::Hard, "the VM's TAP is gone".to_owned()),
        Some(Some(tap)) => {
            if tap.ours == Some(false) {
                add(
                    Cause::TapNameCollision,
                    Stage::TapUp,
                    Grade::Hard,
                    format!("the TAP's alias is {:?}", tap.alias.as_deref().unwrap_or_default()),
                );
            }
            if tap.up == Some(false) {
                add(Cause::TapDown, Stage::TapUp, Grade::Hard, "the VM's TAP is down".to_owned());
            }
            if tap.master == Some(None) {
                add(Cause::TapNotInBridge, Stage::TapUp, Grade::Hard, "the VM's TAP is in no bridge".to_owned());
            }
            if tap.vnet_hdr == Some(false) {
                add(Cause::TapNoVnetHdr, Stage::TapUp, Grade::Hard, "the VM's TAP has no virtio-net header".to_owned());
            }
        }
        None => {}
    }
    if let Some(route) = &host.overlap {
        add(Cause::SubnetOverlap, Stage::Leased, Grade::Hard, format!("the pool overlaps the host's route {route}"));
    }
    if let Some(neighbour) = host.neighbour.as_ref().filter(|neighbour| neighbour.ours == Some(false)) {
        let mac = neighbour.mac.map(|mac| mac.to_string()).unwrap_or_default();
        add(
            Cause::AddressConflict,
            Stage::AddressSet,
            Grade::Hard,
            format!("ARP for the guest's address is answered by {mac}"),
        );
    }
    if host.vmm_oom_killed == Some(true) {
        add(
            Cause::MemoryInsufficient,
            Stage::VmmStarted,
            Grade::Hard,
            "the host's kernel killed the VMM for want of memory".to_owned(),
        );
    }
    if host.free_bytes == Some(0) {
        add(Cause::DiskFull, Stage::DiskReady, Grade::Hard, "no byte is free where VMs are kept".to_owned());
    }
    let answered = host
        .neighbour
        .as_ref()
        .is_some_and(|neighbour| neighbour.answered == Some(true) && neighbour.ours != Some(false));
    let dead = |probe: &Option<Probe>| *probe == Some(Probe::TimedOut);
    if answered && dead(&host.ping) && dead(&host.tcp) {
        add(
            Cause::L2OkL3Dead,
            Stage::Reachable,
            Grade::Soft,
            "the guest answers ARP, and neither ICMP nor TCP".to_owned(),
        );
    }
}

/// Why the guest does not get out, where the host knows: it is healthy, and the way is closed. What others forbid, and what the
/// kernel drops, is a fault only for a guest that really does not get out.
pub(super) fn of_way_out(host: &HostFacts, guest: &GuestFacts, found: &mut Vec<Finding>) {
    let mut add = |cause: Cause, text: String| {
        let evidence = vec![Evidence::seen(Source::Host, text)];
        found.push(Finding::new(cause, Some(Stage::Reachable), Grade::Weak, evidence));
    };
    if host.nat == Some(false) {
        add(Cause::NatMissing, "the rule that translates the guests' addresses is gone".to_owned());
    }
    if guest.egress != Some(false) {
        return;
    }
    if let Some(chains) = host.forward_drops.as_ref().filter(|chains| !chains.is_empty()) {
        add(Cause::ForwardPolicyDrop, format!("what is forwarded is dropped by {}", chains.join(", ")));
    }
    let filtered = host.drops.as_ref().and_then(|drops| drops.get("rp_filter")).copied().unwrap_or_default();
    if filtered > 0 {
        let text = format!("the kernel dropped {filtered} packets that came from where their answer would not go");
        add(Cause::RpFilterDrop, text);
    }
}

/// What the agent's probes prove. `expected` is the leased address with prefix length.
pub(super) fn of_guest(guest: &GuestFacts, expected: Option<&str>, found: &mut Vec<Finding>) {
    let mut add = |cause: Cause, stage: Stage, grade: Grade, text: String| {
        found.push(Finding::new(cause, Some(stage), grade, vec![Evidence::seen(Source::Guest, text)]));
    };
    if let Some(links) = &guest.links {
        let has =
            |address: &str| links.iter().flat_map(|link| link.addresses.iter().flatten()).any(|known| known == address);
        if links.is_empty() {
            add(Cause::LinkMissing, Stage::LinkFound, Grade::Hard, "the guest has no interface but lo".to_owned());
        } else if let Some(link) = links.iter().find(|link| link.up == Some(true) && link.carrier == Some(false)) {
            add(Cause::LinkNoCarrier, Stage::LinkUp, Grade::Hard, format!("{} has no carrier", link.name));
        }
        let any = links.iter().any(|link| link.addresses.as_ref().is_some_and(|all| !all.is_empty()));
        if let Some(expected) = expected.filter(|expected| any && !has(expected)) {
            add(
                Cause::AddressMismatch,
                Stage::AddressSet,
                Grade::Hard,
                format!("the guest does not have {expected}: {links:?}"),
            );
        }
    }
    if guest.gateway_answers == Some(false) {
        add(
            Cause::GatewayUnreachable,
            Stage::GatewayReachable,
            Grade::Hard,
            "the guest's gateway does not answer ARP".to_owned(),
        );
    }
    if let Some(listening) = &guest.listening {
        let agent: Vec<_> = listening.iter().filter(|socket| socket.port == HEALTH_PORT).collect();
        if !agent.is_empty() && agent.iter().all(|socket| matches!(socket.address.as_str(), "127.0.0.1" | "::1")) {
            add(
                Cause::Ipv6OnlyBind,
                Stage::Reachable,
                Grade::Hard,
                format!("port {HEALTH_PORT} listens on {} only", agent.first().map_or("", |socket| &socket.address)),
            );
        }
    }
    if let Some(killed) = guest.oom_killed.as_ref().filter(|killed| !killed.is_empty()) {
        add(Cause::GuestOom, Stage::AgentUp, Grade::Soft, format!("the guest's kernel killed {}", killed.join(", ")));
    }
    if let Some(skew) = guest.clock_skew_ms.filter(|skew| skew.abs() > MAX_SKEW_MS) {
        add(Cause::ClockWrong, Stage::Reachable, Grade::Weak, format!("the guest's clock is {} s off", skew / 1000));
    }
    // Who does not get out does not get to its name servers either, and that is said already.
    if guest.dns == Some(false) && guest.egress != Some(false) {
        add(Cause::DnsFailed, Stage::Reachable, Grade::Weak, "the guest's name servers do not answer".to_owned());
    }
    for unit in guest.failed_units.iter().flatten() {
        add(Cause::UnitFailed, Stage::HandedOver, Grade::Note, format!("{unit} failed"));
    }
    if guest.egress == Some(false) {
        add(Cause::EgressBlocked, Stage::Reachable, Grade::Note, "the guest does not get out".to_owned());
    }
}

/// An end of the VMM that nobody asked for.
pub(super) fn of_exit(case: &Case<'_>) -> Option<Finding> {
    let exit = case.vmm_exit?;
    Some(Finding::new(
        Cause::VmmExited,
        None,
        Grade::Weak,
        vec![Evidence::seen(Source::Boot, format!("the VMM {exit}"))],
    ))
}
