//! What comes through between host and guest, and from the guest to the outside.

use airlock_protocol::Stage;

use super::{Sight, seen_by_guest, seen_by_host};
use crate::cause::Cause;
use crate::diagnosis::console_findings::Doubt;
use crate::diagnosis::facts::{HostFacts, NeighbourFacts, Probe};
use crate::diagnosis::rules::Grade;
use crate::diagnosis::{Evidence, Finding, Source};

/// Drops of the guard that show another source address than the leased one.
const FOREIGN_SOURCES: [&str; 2] = ["foreign_address", "foreign_arp"];
/// The kernel's own count.
const RP_FILTER: &str = "rp_filter";
/// Counters that are quoted.
const MAX_QUOTED: usize = 6;

pub(super) fn find(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    of_neighbour(sight, found);
    of_layers(sight, found);
    of_way_out(sight, found);
}

fn of_neighbour(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let Some(neighbour) = &sight.host.neighbour else { return };
    if neighbour.ours == Some(false) {
        let mac = neighbour.mac.map_or_else(|| "another MAC".to_owned(), |mac| mac.to_string());
        let text = format!("ARP for the guest's address is answered by {mac}");
        found.push(seen_by_host(Cause::AddressConflict, Stage::AddressSet, Grade::Hard, text));
    }
    let foreign: u64 = FOREIGN_SOURCES.iter().map(|rule| dropped(sight.host, rule)).sum();
    let knows_better = sight.guest.links.is_some();
    if neighbour.answered == Some(false) && foreign > 0 && !knows_better {
        let text =
            format!("nobody answers ARP for the guest's address; {foreign} packets from other addresses were dropped");
        found.push(seen_by_host(Cause::AddressMismatch, Stage::AddressSet, Grade::Weak, text));
    }
}

/// ARP works and nothing above it does.
fn of_layers(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    if !is_cut_above_arp(sight, |probe| *probe == Probe::TimedOut) {
        return;
    }
    let text = "the guest answers ARP, and neither ICMP nor TCP";
    let mut finding = seen_by_host(Cause::L2OkL3Dead, Stage::Reachable, Grade::Soft, text);
    let counts = sight.host.drops.iter().flatten().filter(|(_, count)| **count > 0);
    let counts: Vec<String> = counts.map(|(rule, count)| format!("{rule} {count}")).take(MAX_QUOTED).collect();
    if !counts.is_empty() {
        finding.evidence.push(Evidence::seen(Source::Host, format!("dropped until now: {}", counts.join(", "))));
    }
    if let Some(chains) = chains_of_others(sight.host) {
        finding.evidence.push(Evidence::seen(Source::Host, format!("chains of others that drop: {chains}")));
    }
    found.push(finding);
}

fn is_cut_above_arp(sight: &Sight<'_>, is_dead: impl Fn(&Probe) -> bool) -> bool {
    let by_guest = |neighbour: &NeighbourFacts| neighbour.answered == Some(true) && neighbour.ours == Some(true);
    let HostFacts { neighbour, ping, tcp, .. } = sight.host;
    // A guest that sets its address now answers one before the other.
    sight.is_due(Stage::GatewayReachable)
        && neighbour.as_ref().is_some_and(by_guest)
        && [ping, tcp].into_iter().all(|probe| probe.as_ref().is_some_and(&is_dead))
}

/// What others forbid, and what the kernel drops, is a fault only for a guest that really does not get through.
fn of_way_out(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let out = sight.guest.egress.filter(|_| sight.is_due(Stage::GatewayReachable));
    let grade_of = |is_fault: bool| if is_fault { Grade::Weak } else { Grade::Note };
    let mut add = |cause, grade, text: String| found.push(seen_by_host(cause, Stage::Reachable, grade, text));
    if sight.host.nat == Some(false) {
        let text = "the rule that translates the guests' addresses is gone";
        add(Cause::NatMissing, grade_of(out != Some(true)), text.to_owned());
    }
    // Who may not get out is not hindered by anybody.
    let may_get_out = sight.host.nat.is_some() || sight.guest.egress.is_some();
    if let Some(chains) = chains_of_others(sight.host).filter(|_| may_get_out && out != Some(true)) {
        let text = format!("what is forwarded is dropped by {chains}");
        add(Cause::ForwardPolicyDrop, grade_of(out == Some(false)), text);
    }
    let filtered = dropped(sight.host, RP_FILTER);
    if filtered > 0 && sight.host.rp_filter != Some(0) {
        let is_closed = |probe: &Probe| matches!(probe, Probe::TimedOut | Probe::Unreachable { .. });
        let grade = match is_cut_above_arp(sight, is_closed) {
            true => Grade::Soft,
            false => grade_of(out == Some(false)),
        };
        let text = format!("the kernel dropped {filtered} packets that came from where their answer would not go");
        add(Cause::RpFilterDrop, grade, text);
    }
    let mut add = |cause, grade, text| found.push(seen_by_guest(cause, Stage::Reachable, grade, text));
    if out == Some(false) {
        // Of the VM's health that says nothing.
        add(Cause::EgressBlocked, Grade::Note, "the guest does not get out");
    } else if sight.guest.dns == Some(false) && sight.is_due(Stage::GatewayReachable) {
        // Who does not get out does not get to its name servers either.
        add(Cause::DnsFailed, Grade::Weak, "the guest's name servers do not answer");
    }
}

fn dropped(host: &HostFacts, rule: &str) -> u64 {
    host.drops.as_ref().and_then(|drops| drops.get(rule)).copied().unwrap_or_default()
}

fn chains_of_others(host: &HostFacts) -> Option<String> {
    host.forward_drops.as_ref().filter(|chains| !chains.is_empty()).map(|chains| chains.join(", "))
}

/// A guest that answers to nothing, which no finding explains: nobody may call it healthy.
pub(in crate::diagnosis) fn silence(host: &HostFacts) -> Option<Doubt> {
    let is_closed = |probe: &Option<Probe>| matches!(probe, Some(Probe::TimedOut | Probe::Unreachable { .. }));
    let HostFacts { neighbour, ping, tcp, http, .. } = host;
    let mute = neighbour.as_ref().is_some_and(|neighbour| neighbour.answered == Some(false));
    let is_silent = mute && is_closed(ping) && is_closed(tcp) && *http != Some(Probe::Ok);
    is_silent.then(|| {
        let text = "the guest was ready, and answers neither ARP nor ICMP nor TCP now";
        Doubt { stage: Stage::Reachable, evidence: vec![Evidence::seen(Source::Host, text)], text: text.to_owned() }
    })
}
