//! What a console proves: rules that stand for themselves, and those that need more than one line.

use std::net::Ipv4Addr;

use airlock_protocol::{BootConfig, IpParam, Stage};

use super::console::{Boot, ConsoleFacts};
use super::reports::Reports;
use super::rules::Grade;
use super::script::{Marker, Refusal};
use super::{Evidence, Finding, Source};
use crate::cause::Cause;

/// Names of browsers, as the kernel shortens them.
pub(super) const BROWSERS: [&str; 6] = ["firefox", "chromium", "chrome", "GPU Process", "Web Content", "Isolated Web"];
/// Name of the reference script, as the journal has it.
const SCRIPT: &str = "network-setup";
/// Restarts of the agent that are a fault.
const RESTARTS: u64 = 3;
/// Questions for a lease that are too many.
const DISCOVERS: u64 = 3;

/// Something that may be wrong, which the log does not say.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    pub stage: Stage,
    pub evidence: Vec<Evidence>,
    /// What to say about it.
    pub text: String,
}

/// What a console proves and what it leaves open. `leased` is the address that the guest should have, if it is known.
pub(super) fn find(
    facts: &ConsoleFacts,
    reports: &Reports<'_>,
    leased: Option<Ipv4Addr>,
) -> (Vec<Finding>, Vec<Doubt>) {
    let boot = &facts.boot;
    let mut found = Vec::new();
    let mut doubts = Vec::new();
    let (ours, doubt) = reports.findings();
    found.extend(ours);
    doubts.extend(doubt.map(|(stage, said)| Doubt {
        stage,
        text: format!("{stage} failed, and reports before it are lost: the reason may be in them"),
        evidence: vec![said],
    }));
    of_rules(boot, reports, &mut found);
    of_script(boot, &mut found, &mut doubts);
    of_units(boot, &mut found);
    of_address(boot, reports, leased, &mut found);
    of_marks(boot, &mut found);
    if let Some((line, said)) = &boot.cmdline {
        found.extend(malformed_ip(line).map(|why| {
            let why = Evidence { text: why, ..said.clone() };
            Finding::new(Cause::CmdlineIpMalformed, Some(Stage::ConfigRead), Grade::Hard, vec![said.clone(), why])
        }));
    }
    if boot.spoke.is_none() && found.is_empty() {
        let text = if facts.lines == 0 {
            "the log is empty".to_owned()
        } else {
            format!("none of {} lines is the guest's", facts.lines)
        };
        found.push(Finding::new(
            Cause::NoConsoleOutput,
            Some(Stage::KernelStarted),
            Grade::Hard,
            vec![Evidence::seen(Source::Console, text)],
        ));
    }
    (found, doubts)
}

fn of_rules(boot: &Boot, reports: &Reports<'_>, found: &mut Vec<Finding>) {
    for hit in &boot.hits {
        let is_panic = hit.first.text.contains("Kernel panic");
        // A kernel that panicked lets nobody go on: somebody else wrote that line.
        if is_panic && boot.alive.is_some_and(|alive| alive > hit.last) {
            continue;
        }
        // Our init runs in the initramfs: the kernel looks for no root and for no other init.
        let of_boot =
            matches!(hit.rule.cause, Cause::RootDeviceMissing | Cause::RootFsUnsupported | Cause::InitMissing);
        if of_boot && !reports.is_empty() {
            continue;
        }
        let mut finding = Finding::new(hit.rule.cause, hit.rule.stage, hit.rule.grade, vec![hit.first.clone()]);
        finding.last = hit.last;
        match hit.rule.cause {
            Cause::LinkMissing => {
                if let Some(other) = &boot.other_link {
                    finding.cause = Cause::LinkRenamed;
                    finding.rank = 0;
                    finding.evidence.push(other.clone());
                } else {
                    finding.evidence.extend(boot.lo_only.clone());
                }
            }
            Cause::AddressSetFailed => {
                let after = boot.script.line(Marker::Up).and_then(|said| said.line).unwrap_or_default();
                if let Some(exists) = boot.script.refused(Refusal::Exists, after..hit.last) {
                    finding.cause = Cause::AddressExists;
                    finding.rank = 0;
                    finding.evidence.insert(0, exists.clone());
                }
            }
            Cause::RootFsCorrupt => {
                let panic = boot.hits.iter().find(|other| {
                    other.first.text.contains("Kernel panic") && other.last > hit.first.line.unwrap_or_default()
                });
                if let (Some(checksum), Some(panic)) = (&boot.checksum, panic) {
                    found.push(Finding::new(
                        Cause::CloneTorn,
                        Some(Stage::RootMounted),
                        Grade::Hard,
                        vec![checksum.clone(), panic.first.clone()],
                    ));
                }
            }
            _ => {}
        }
        found.push(finding);
    }
}

fn of_script(boot: &Boot, found: &mut Vec<Finding>, doubts: &mut Vec<Doubt>) {
    let script = &boot.script;
    let all = 0..u64::MAX;
    if let Some(said) = script.refused(Refusal::Unreachable, all.clone()) {
        found.push(Finding::new(Cause::RouteSetFailed, Some(Stage::RouteSet), Grade::Hard, vec![said.clone()]));
    }
    if !script.spoke() {
        // Of a script whose words are lost nobody can tell at which step it was.
        let lost = boot.units.knows_script();
        if let Some(said) =
            script.refused(Refusal::NotPermitted, all.clone()).filter(|said| !lost && !said.text.contains(SCRIPT))
        {
            found.push(Finding::new(Cause::LinkUpFailed, Some(Stage::LinkUp), Grade::Weak, vec![said.clone()]));
        }
        if let Some(said) = script.refused(Refusal::Exists, all) {
            found.push(Finding::new(Cause::AddressExists, Some(Stage::AddressSet), Grade::Note, vec![said.clone()]));
        }
        return;
    }
    if let Some((value, said)) = &script.parameter {
        found.extend(malformed_but_for_its_end(value).map(|why| {
            let why = Evidence { text: why, ..said.clone() };
            Finding::new(Cause::CmdlineIpMalformed, Some(Stage::ConfigRead), Grade::Hard, vec![said.clone(), why])
        }));
    }
    if let (Some(refused), None) = (script.line(Marker::RouteRefused), script.line(Marker::Route)) {
        let until = refused.line.unwrap_or_default();
        let after = script.line(Marker::Assigned).and_then(|said| said.line).unwrap_or_default();
        // A route that was there already is the one that was wanted, as far as the script can tell.
        if script.refused(Refusal::Exists, after..until).is_none() {
            doubts.push(Doubt {
                stage: Stage::RouteSet,
                evidence: vec![refused.clone()],
                text: "the default route was not added, and the log does not say why".to_owned(),
            });
        }
    } else if let Some(missing) = script.missing() {
        let last = script.last().unwrap_or(Marker::Started);
        let text = if boot.units.script_finished.is_some() {
            format!("the script's unit finished, and what the script said after {:?} is lost", last.words())
        } else {
            format!(
                "the script's last marker is {:?}; the first one that is missing is {:?}",
                last.words(),
                missing.words()
            )
        };
        doubts.push(Doubt { stage: missing.stage(), evidence: script.line(last).cloned().into_iter().collect(), text });
    }
    // The script blocks nowhere but in its loop: who waits for its unit waits for the device.
    if let (Some(Marker::Waiting), Some(job)) = (script.last(), &boot.units.script_job) {
        let waiting = script.line(Marker::Waiting).cloned();
        let (cause, other) = match &boot.other_link {
            Some(other) => (Cause::LinkRenamed, Some(other.clone())),
            None => (Cause::LinkMissing, None),
        };
        let evidence = waiting.into_iter().chain([job.clone()]).chain(other).collect();
        found.push(Finding::new(cause, Some(Stage::LinkFound), Grade::Soft, evidence));
    }
}

fn of_units(boot: &Boot, found: &mut Vec<Finding>) {
    let (units, script) = (&boot.units, &boot.script);
    if let (Some(finished), false) = (&units.script_finished, script.spoke()) {
        found.push(Finding::new(
            Cause::UnitOutputNotOnConsole,
            Some(Stage::LinkUp),
            Grade::Note,
            vec![finished.clone()],
        ));
    }
    if let Some(failed) = &units.script_failed {
        let stage = script.missing().map_or(Stage::ConfigRead, Marker::stage);
        let last = script.last().and_then(|last| script.line(last)).cloned();
        found.push(Finding::new(
            Cause::UnitFailed,
            Some(stage),
            Grade::Weak,
            [failed.clone()].into_iter().chain(last).collect(),
        ));
    }
    for unit in &units.not_executed {
        let (stage, grade) = match unit.name.as_str() {
            name if name.starts_with("network-setup") => (Stage::ConfigRead, Grade::Hard),
            name if is_agent(name) => (Stage::AgentUp, Grade::Soft),
            _ => (Stage::HandedOver, Grade::Note),
        };
        found.push(Finding::new(Cause::UnitFailed, Some(stage), grade, vec![unit.said.clone()]));
    }
    for unit in &units.failed {
        let (stage, grade) =
            if is_agent(&unit.name) { (Stage::AgentUp, Grade::Soft) } else { (Stage::HandedOver, Grade::Note) };
        found.push(Finding::new(Cause::UnitFailed, Some(stage), grade, vec![unit.said.clone()]));
    }
    for (name, count, said) in units.restarts.iter().filter(|(_, count, _)| *count >= RESTARTS) {
        let (cause, stage, grade) = match is_agent(name) {
            true => (Cause::AgentRestarting, Stage::AgentUp, Grade::Soft),
            false => (Cause::UnitFailed, Stage::HandedOver, Grade::Note),
        };
        let _ = count;
        found.push(Finding::new(cause, Some(stage), grade, vec![said.clone()]));
    }
    for said in &units.dependencies {
        found.push(Finding::new(Cause::SystemdEmergency, Some(Stage::HandedOver), Grade::Note, vec![said.clone()]));
    }
}

fn is_agent(name: &str) -> bool {
    name.to_lowercase().contains("agent")
}

/// Who has which address.
fn of_address(boot: &Boot, reports: &Reports<'_>, leased: Option<Ipv4Addr>, found: &mut Vec<Finding>) {
    let Some(leased) = leased.or_else(|| client_of(boot, reports)) else { return };
    let set = boot.script.line(Marker::Assigned).cloned().or_else(|| {
        let line = reports.reached(Stage::AddressSet)?;
        Some(Evidence { text: format!("address_set {leased}"), ..Evidence::of_line(line, b"") })
    });
    let has_it = set.is_some() || boot.addresses.iter().any(|seen| seen.address == leased);
    for other in boot.addresses.iter().filter(|seen| seen.address != leased) {
        let (cause, grade) = match (other.by_dhcp, has_it) {
            (true, true) => (Cause::AddressOwnerConflict, Grade::Hard),
            // Of several addresses one is the leased one: the others are of other interfaces, or harmless.
            (false, true) => continue,
            (_, false) => (Cause::AddressMismatch, Grade::Hard),
        };
        let evidence = [other.said.clone()].into_iter().chain(set.clone()).collect();
        found.push(Finding::new(cause, Some(Stage::AddressSet), grade, evidence));
    }
}

/// The address that the guest was told to take, as the log has it.
fn client_of(boot: &Boot, reports: &Reports<'_>) -> Option<Ipv4Addr> {
    let of_cmdline = || boot.cmdline.as_ref().and_then(|(line, _)| ip_value(line)).map(str::to_owned);
    let of_script = || boot.script.parameter.as_ref().map(|(value, _)| value.clone());
    let value = reports.leased().map(str::to_owned).or_else(of_cmdline).or_else(of_script)?;
    value.split(':').next()?.parse().ok()
}

fn of_marks(boot: &Boot, found: &mut Vec<Finding>) {
    let mut add =
        |cause, stage, grade, evidence: Vec<Evidence>| found.push(Finding::new(cause, stage, grade, evidence));
    let mounted = boot.reached.iter().any(|(stage, _)| *stage >= Stage::RootMounted);
    if let Some(said) = boot.root_awaited.as_ref().filter(|said| !mounted && boot.spoke == said.line) {
        add(Cause::RootWaitForever, Some(Stage::RootMounted), Grade::Hard, vec![said.clone()]);
    }
    let leased = !boot.addresses.is_empty();
    if let Some((said, count, _)) = boot.discover.as_ref().filter(|(_, count, _)| !leased && *count >= DISCOVERS) {
        let times = Evidence { text: format!("asked {count} times, never answered"), ..said.clone() };
        add(Cause::DhcpTimeout, Some(Stage::AddressSet), Grade::Soft, vec![said.clone(), times]);
    }
    if let Some(said) = boot.dhcp_timed_out.as_ref().filter(|_| !leased) {
        let awaited = boot.carrier_awaited.as_ref().filter(|awaited| boot.carrier < awaited.line);
        match awaited {
            Some(awaited) => {
                add(Cause::LinkNoCarrier, Some(Stage::LinkUp), Grade::Soft, vec![awaited.clone(), said.clone()])
            }
            None => add(Cause::DhcpTimeout, Some(Stage::AddressSet), Grade::Soft, vec![said.clone()]),
        }
    }
    if let Some((name, said)) = boot.oom.as_ref().and_then(|said| Some((killed(&said.text)?, said))) {
        match BROWSERS.iter().any(|browser| name.starts_with(browser)) {
            true => add(Cause::BrowserOom, Some(Stage::BrowserUp), Grade::Soft, vec![said.clone()]),
            false => add(Cause::GuestOom, None, Grade::Soft, vec![said.clone()]),
        }
    }
    if let Some(said) = &boot.loopback_bind {
        add(Cause::Ipv6OnlyBind, Some(Stage::Reachable), Grade::Hard, vec![said.clone()]);
    }
    if let Some(said) = &boot.segfault {
        if BROWSERS.iter().any(|name| said.text.starts_with(name)) {
            add(Cause::BrowserCrashed, Some(Stage::BrowserUp), Grade::Soft, vec![said.clone()]);
        } else if said.text.starts_with("node[") || said.text.starts_with("airlock-agent[") {
            add(Cause::AgentCrashed, Some(Stage::AgentUp), Grade::Soft, vec![said.clone()]);
        }
    }
    if let Some(said) = &boot.crng_late {
        add(Cause::EntropyBlocked, Some(Stage::AgentUp), Grade::Weak, vec![said.clone()]);
    }
}

/// The name in `Killed process 412 (firefox-esr) total-vm:...`; none if the line was cut before its end.
fn killed(text: &str) -> Option<&str> {
    text.split_once(" process ")?.1.split_once('(')?.1.split_once(')').map(|(name, _)| name)
}

/// The value of `ip=` in a command line, if it cannot have been cut: something stands behind it.
fn ip_value(cmdline: &str) -> Option<&str> {
    let mut words = cmdline.split(' ').peekable();
    let mut value = None;
    while let Some(word) = words.next() {
        if words.peek().is_some() {
            value = word.strip_prefix("ip=").or(value);
        }
    }
    value
}

fn malformed_ip(cmdline: &str) -> Option<String> {
    let value = ip_value(cmdline)?;
    value.parse::<IpParam>().err().map(|error| error.to_string())
}

/// A value at the end of a line may have been cut: what is wrong must be wrong before its last field.
fn malformed_but_for_its_end(value: &str) -> Option<String> {
    let before = value.rsplit_once(':')?.0;
    before.parse::<IpParam>().err().map(|error| error.to_string())
}

/// What is wrong with a command line that somebody gave.
pub(super) fn of_cmdline(cmdline: &str) -> Option<Finding> {
    let error = BootConfig::parse(cmdline).err()?;
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text = format!("{text}: {source}");
    }
    let cause = error.cause().parse().unwrap_or(Cause::CmdlineIpMalformed);
    let grade = if cause == Cause::CmdlineIpMissing { Grade::Soft } else { Grade::Hard };
    let evidence =
        vec![Evidence::seen(Source::Cmdline, text), Evidence::seen(Source::Cmdline, super::shown(cmdline.as_bytes()))];
    Some(Finding::new(cause, Some(Stage::ConfigRead), grade, evidence))
}
