//! Precedence. The earliest broken stage wins; between findings of one stage the one that says more; the others are `also`.
//!
//! ```text
//! hard ─┐                                  what a better source says was reached cannot have failed: a note
//! soft ─┼─ the earliest of these ─> fault  (a soft one not if its stage is reached later)
//! weak ─┴─ else the earliest of these      (generic names; what is wrong with a machine that is up)
//! note ─── only where nothing proves a good boot
//! nothing: healthy, if a good boot is proved and nothing is in doubt; else inconclusive
//! ```

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use airlock_protocol::Stage;

use super::console_findings::{self, Doubt};
use super::fact_findings;
use super::order::{cleared_by, home, place, stages};
use super::reports::Reports;
use super::rules::Grade;
use super::script::Marker;
use super::{Case, Evidence, Finding, Judgement, Note, Source, Verdict};
use crate::boot::Failure;
use crate::cause::Cause;

/// Evidence of a verdict, and notes, are no more than this.
const MAX_SHOWN: usize = 8;

/// What is wrong with a VM, or that nothing is.
pub fn diagnose(case: &Case<'_>) -> Verdict {
    let none = Vec::new();
    let reports = Reports::of(case.console.map_or(&none, |console| &console.boot.reports));
    let mut view = View::of(case, &reports);
    let (mut found, mut doubts) = match case.console {
        Some(console) => console_findings::find(console, &reports, view.leased),
        None => (Vec::new(), Vec::new()),
    };
    found.extend(view.unit_not_enabled(case));
    found.extend(lease_not_given(case));
    view.promote(&mut found, case);
    view.demote(&mut found, case);
    // Of a machine of ours the boot machine knows when silence is a fault.
    found.retain(|finding| finding.cause != Cause::NoConsoleOutput || case.timeline.is_empty());
    found.extend(case.cmdline.and_then(console_findings::of_cmdline).filter(|finding| !view.is_past(finding)));
    found.extend(case.failure.and_then(fact_findings::of_failure));
    found.extend(fact_findings::of_exit(case).filter(|_| case.failure.is_none()));
    found.extend(case.vmm_log.into_iter().flat_map(fact_findings::of_vmm_log).filter(|_| !view.ready));
    found.extend(fact_findings::of_probes(case, &view.timed, view.is_waiting(case)));
    let next = view.next_stage();
    found.sort_by_key(|f| {
        let at = f.stage.or(next).map_or(usize::MAX, |stage| place(stage, view.late));
        (f.grade == Grade::Note, f.grade == Grade::Weak, at, f.rank, f.evidence.first().and_then(|e| e.line))
    });
    let silence = case.host.filter(|_| view.ready && case.failure.is_none()).and_then(fact_findings::silence);
    let good = view.is_good(case) && silence.is_none();
    doubts.extend(silence);
    let (winner, rest) = match found.split_first() {
        Some((first, rest)) if first.grade < Grade::Note => (Some(first), rest),
        Some((first, rest)) if !good && !view.is_waiting(case) && stands_alone(first) => (Some(first), rest),
        _ => (None, found.as_slice()),
    };
    let verdict = match winner {
        Some(winner) => view.fault(winner, case, next),
        // Whoever sees every stage is not in doubt about what a script left unsaid.
        None if good && (doubts.is_empty() || view.ready || !reports.is_empty()) => view.healthy(case, rest),
        None if view.is_waiting(case) => view.waiting(next),
        None => view.inconclusive(case, &doubts, next),
    };
    finish(verdict, rest)
}

/// Notes that name a cause by themselves when nothing else does.
fn stands_alone(finding: &Finding) -> bool {
    matches!(finding.cause, Cause::UnitOutputNotOnConsole | Cause::UnitFailed | Cause::SystemdEmergency)
}

/// Where the VM stands, by the best source for each stage.
struct View<'a> {
    late: bool,
    /// The timeline is the host's own.
    timed: BTreeSet<Stage>,
    /// Stages that the log shows, with the last line that does.
    shown: Vec<(Stage, u64)>,
    ready: bool,
    leased: Option<Ipv4Addr>,
    reports: &'a Reports<'a>,
}

impl<'a> View<'a> {
    fn of(case: &Case<'_>, reports: &'a Reports<'a>) -> Self {
        let timed: BTreeSet<Stage> = case.timeline.iter().filter(|entry| entry.ok).map(|entry| entry.stage).collect();
        let mut shown = Vec::new();
        if let Some(console) = case.console {
            let boot = &console.boot;
            shown.extend(Stage::ALL.iter().filter_map(|stage| Some((*stage, reports.reached(*stage)?))));
            shown.extend(boot.reached.iter().map(|(stage, said)| (*stage, said.line.unwrap_or_default())));
            let markers = [
                (Marker::Found, Stage::LinkFound),
                (Marker::Up, Stage::LinkUp),
                (Marker::Assigned, Stage::AddressSet),
                (Marker::Route, Stage::RouteSet),
                (Marker::Complete, Stage::AddressSet),
            ];
            shown.extend(markers.iter().filter_map(|(marker, stage)| Some((*stage, boot.script.line(*marker)?.line?))));
            shown.extend(boot.spoke.map(|line| (Stage::KernelStarted, line)));
            if let Some(carrier) = boot.carrier {
                shown.push((Stage::LinkUp, carrier));
            }
        }
        let late = if timed.is_empty() { reports.is_empty() || reports.is_late() } else { is_late(case) };
        let leased = case.expected.address.as_deref().and_then(|address| address.split('/').next()?.parse().ok());
        Self { late, ready: timed.contains(&Stage::Ready), timed, shown, leased, reports }
    }

    fn place(&self, stage: Stage) -> usize {
        place(stage, self.late)
    }

    /// Makes notes of what a better source, or a later line, contradicts.
    fn demote(&mut self, found: &mut [Finding], case: &Case<'_>) {
        let carrier = case.console.and_then(|console| console.boot.carrier);
        for finding in found {
            let past = self.is_past(finding)
                || (finding.cause == Cause::LinkNoCarrier && carrier.is_some_and(|line| line > finding.last))
                || (self.ready && (case.failure.is_none() || !may_end_a_ready_vm(finding.cause)));
            if past {
                finding.grade = Grade::Note;
            }
        }
    }

    /// Whether the stage that a finding says is broken was reached.
    fn is_past(&self, finding: &Finding) -> bool {
        let Some(stage) = finding.stage else { return false };
        if finding.grade == Grade::Weak && stage == Stage::Reachable {
            return false;
        }
        let stage = cleared_by(finding.cause, stage);
        // Init's own look at the interface is over when the network's owner begins: what that one says of it is another matter.
        let of_owner = self.late && matches!(stage, Stage::ConfigRead | Stage::LinkFound);
        if of_owner && self.reports.reached(Stage::HandedOver).is_some_and(|handed| handed < finding.last) {
            return self.timed.contains(&Stage::LinkUp);
        }
        if self.timed.contains(&stage) && finding.cause != Cause::AddressOwnerConflict {
            return true;
        }
        let at = self.place(stage);
        let soft = finding.grade == Grade::Soft;
        self.shown.iter().any(|(reached, line)| {
            *line > finding.last
                && if soft {
                    self.place(*reached) >= at
                } else {
                    *reached == stage && self.reports.reached(stage) == Some(*line)
                }
        })
    }

    /// The first stage that nothing shows.
    fn next_stage(&self) -> Option<Stage> {
        if self.ready {
            return None;
        }
        let known = |stage: Stage| self.timed.contains(&stage) || self.shown.iter().any(|(shown, _)| *shown == stage);
        let order = stages(self.late);
        if !self.timed.is_empty() || !self.reports.is_empty() {
            let last = order.iter().rposition(|stage| known(*stage)).unwrap_or_default();
            // A stage that is not in the contract is not waited for.
            let asked = |stage: &Stage| *stage <= Stage::AgentUp || *stage >= Stage::Reachable;
            let first = order.iter().skip_while(|stage| !known(**stage)).find(|stage| asked(stage) && !known(**stage));
            return first.or(order.get(last + 1)).copied();
        }
        let last = self.shown.iter().map(|(stage, _)| self.place(*stage)).max();
        order.get(last.map_or(self.place(Stage::KernelStarted), |last| last + 1)).copied()
    }

    /// Of a boot that ran out of time, a unit whose words nobody saw says more than the stage that is missing.
    fn promote(&self, found: &mut [Finding], case: &Case<'_>) {
        let by_deadline = case.failure.is_some_and(Failure::is_of_deadline) && !self.timed.contains(&Stage::LinkUp);
        for finding in found.iter_mut().filter(|f| by_deadline && f.cause == Cause::UnitOutputNotOnConsole) {
            finding.grade = Grade::Weak;
        }
    }

    /// The unit that was to bring up the network was never heard of, and the guest's start is over.
    fn unit_not_enabled(&self, case: &Case<'_>) -> Option<Finding> {
        let boot = &case.console.filter(|_| case.expected.by_unit)?.boot;
        let silent = !boot.units.knows_script() && !boot.script.spoke() && !self.timed.contains(&Stage::LinkUp);
        let over = boot.started.clone().filter(|_| silent)?;
        Some(Finding::new(Cause::UnitNotEnabled, Some(Stage::ConfigRead), Grade::Soft, vec![over]))
    }

    /// Whether a good boot is proved.
    fn is_good(&self, case: &Case<'_>) -> bool {
        if !case.timeline.is_empty() || case.failure.is_some() {
            return self.ready && case.failure.is_none();
        }
        let Some(console) = case.console else { return false };
        if !self.reports.is_empty() {
            let needed = Stage::ALL.iter().filter(|stage| (Stage::InitStarted..=Stage::AgentUp).contains(*stage));
            return needed.copied().all(|stage| self.reports.reached(stage).is_some());
        }
        let shown = |stage| self.shown.iter().any(|(known, _)| *known == stage);
        let boot = &console.boot;
        let over = boot.script.line(Marker::Complete).is_some() || boot.started.is_some();
        shown(Stage::AddressSet) && shown(Stage::RouteSet) && over
    }

    fn is_waiting(&self, case: &Case<'_>) -> bool {
        !case.timeline.is_empty() && case.failure.is_none() && case.vmm_exit.is_none() && !self.ready && !case.ended
    }

    fn fault(&self, winner: &Finding, case: &Case<'_>, next: Option<Stage>) -> Verdict {
        let stage = match (winner.stage, case.failure) {
            (Some(stage), _) => Some(stage),
            (None, Some(failure)) => failure.stage,
            (None, None) => home(winner.cause).or(next),
        };
        let first = winner.evidence.first().map(|evidence| evidence.text.as_str()).unwrap_or_default();
        let stage = stage.filter(|_| !(self.ready && case.failure.is_some_and(|failure| failure.stage.is_none())));
        let summary = match stage {
            Some(stage) => format!("{stage} was not reached ({}): {first}", winner.cause),
            None => format!("{}: {first}", winner.cause),
        };
        let mut evidence = winner.evidence.clone();
        if let Some(failure) = case.failure.filter(|failure| failure.cause != winner.cause) {
            evidence.push(Evidence::seen(Source::Boot, failure.detail.as_str()));
        }
        let remedy = winner.cause.remedy().to_owned();
        verdict(Judgement::Cause(winner.cause), stage, summary, evidence, remedy)
    }

    fn healthy(&self, case: &Case<'_>, notes: &[Finding]) -> Verdict {
        let mut evidence: Vec<Evidence> =
            notes.iter().filter_map(|note| note.evidence.first().cloned()).take(MAX_SHOWN / 2).collect();
        if self.ready {
            let at = case.timeline.iter().find(|entry| entry.stage == Stage::Ready).map_or(0.0, |entry| entry.at_ms);
            evidence.insert(0, Evidence::seen(Source::Boot, format!("ready after {at:.0} ms")));
        } else {
            evidence.splice(0..0, self.proof(case));
        }
        let summary = match notes.first() {
            None => "the boot is good".to_owned(),
            Some(note) => format!("the boot is good; worth knowing: {}", note.cause),
        };
        let remedy = notes.first().map_or_else(|| "nothing to do".to_owned(), |note| note.cause.remedy().to_owned());
        verdict(Judgement::Healthy, None, summary, evidence, remedy)
    }

    /// The lines that prove a good boot of a log alone.
    fn proof(&self, case: &Case<'_>) -> Vec<Evidence> {
        if let Some((line, stage)) = self.reports.last() {
            let line = self.reports.reached(Stage::AgentUp).unwrap_or(line).max(line);
            return vec![Evidence {
                text: format!("every stage up to the last one, {stage}, is reported"),
                ..Evidence::of_line(line, b"")
            }];
        }
        let Some(console) = case.console else { return Vec::new() };
        let boot = &console.boot;
        let of = |stage: Stage| boot.reached.iter().find(|(known, _)| *known == stage).map(|(_, said)| said.clone());
        let script =
            [Marker::Assigned, Marker::Route, Marker::Complete].map(|marker| boot.script.line(marker).cloned());
        script
            .into_iter()
            .chain([of(Stage::AddressSet), of(Stage::RouteSet), boot.started.clone()])
            .flatten()
            .take(4)
            .collect()
    }

    fn waiting(&self, next: Option<Stage>) -> Verdict {
        let name = next.map_or("ready", Stage::name);
        let (cause, summary) = (Cause::ReachableButPending, format!("the machine is booting: it waits for {name}"));
        verdict(Judgement::Cause(cause), next, summary, Vec::new(), cause.remedy().to_owned())
    }

    fn inconclusive(&self, case: &Case<'_>, doubts: &[Doubt], next: Option<Stage>) -> Verdict {
        let doubt = doubts.iter().min_by_key(|doubt| self.place(doubt.stage));
        let failure = case.failure;
        let stage = doubt.map(|doubt| doubt.stage).or_else(|| failure.and_then(|failure| failure.stage)).or(next);
        let summary = match (doubt, failure) {
            (Some(doubt), _) => doubt.text.clone(),
            (None, Some(failure)) => failure.detail.clone(),
            (None, None) => match stage {
                Some(stage) => format!("the log ends before {stage}, and does not say why"),
                None => "the log does not say".to_owned(),
            },
        };
        let mut evidence = doubt.map(|doubt| doubt.evidence.clone()).unwrap_or_default();
        evidence.extend(failure.map(|failure| Evidence::seen(Source::Boot, failure.detail.as_str())));
        evidence.extend(case.console.and_then(|console| console.last_lines().next_back()));
        let remedy = next_try(stage).to_owned();
        verdict(Judgement::Cause(Cause::Inconclusive), stage, summary, evidence, remedy)
    }
}

/// Time was over before whoever asks for the address had one, and its interface is there and up.
fn lease_not_given(case: &Case<'_>) -> Option<Finding> {
    let failure = case.failure.filter(|failure| case.expected.by_dhcp && failure.is_of_deadline())?;
    let asked_in_vain = failure.stage == Some(Stage::AddressSet);
    let seen = Evidence::seen(Source::Boot, format!("the guest asks for its address by DHCP; {}", failure.detail));
    asked_in_vain.then(|| Finding::new(Cause::DhcpTimeout, Some(Stage::AddressSet), Grade::Weak, vec![seen]))
}

/// Whether the network comes behind the hand-over, where init reports all of its stages before it.
fn is_late(case: &Case<'_>) -> bool {
    let at = |stage: Stage| case.timeline.iter().find(|entry| entry.stage == stage).map(|entry| entry.at_ms);
    at(Stage::HandedOver).is_some_and(|handed| at(Stage::LinkUp).is_none_or(|up| up > handed))
}

/// Causes that end a VM which had been ready; what is older in its console did not.
fn may_end_a_ready_vm(cause: Cause) -> bool {
    use Cause as C;
    matches!(
        cause,
        C::KernelPanic
            | C::GuestOom
            | C::RootFsCorrupt
            | C::CloneTorn
            | C::BrowserOom
            | C::BrowserCrashed
            | C::VmmExited
            | C::KvmUnusable
    )
}

/// What to try where the log does not say.
fn next_try(stage: Option<Stage>) -> &'static str {
    match stage {
        None | Some(Stage::Planned | Stage::Leased | Stage::TapUp | Stage::DiskReady) => {
            "ask the host: airlock doctor, airlock vm show, and the VMM's log in the evidence bundle"
        }
        Some(Stage::VmmStarted | Stage::KernelStarted | Stage::InitStarted) => {
            "boot without quiet (loglevel=7) and look at the last kernel line; check console=ttyS0 and the VMM's log"
        }
        Some(
            Stage::ConfigRead
            | Stage::ModulesLoaded
            | Stage::LinkFound
            | Stage::LinkUp
            | Stage::AddressSet
            | Stage::RouteSet,
        ) => {
            "let the unit that configures the network speak on the console (StandardOutput=journal+console), check that it is enabled, and boot again"
        }
        Some(Stage::GatewayReachable | Stage::Reachable) => {
            "ask the host: airlock vm show, airlock vm reach; compare the TAP's packet counters before and after a ping"
        }
        Some(Stage::RootMounted | Stage::HandedOver) => {
            "boot without quiet and look at the last lines before the hand-over; verify the image: airlock image verify NAME"
        }
        Some(Stage::AgentUp | Stage::DisplayUp | Stage::BrowserUp | Stage::PagePainted | Stage::Ready) => {
            "see the services' last lines in the console, or look inside with airlock vm console"
        }
    }
}

/// A verdict of the finding that won, before [`finish`] adds what else was found.
fn verdict(
    verdict: Judgement,
    stage: Option<Stage>,
    summary: String,
    evidence: Vec<Evidence>,
    remedy: String,
) -> Verdict {
    Verdict { verdict, stage, summary, evidence, remedy, also: Vec::new(), notes: Vec::new() }
}

fn finish(mut verdict: Verdict, rest: &[Finding]) -> Verdict {
    for finding in rest {
        if verdict.verdict != Judgement::Cause(finding.cause) && !verdict.also.contains(&finding.cause) {
            verdict.also.push(finding.cause);
            if let (Grade::Note, Some(evidence)) = (finding.grade, finding.evidence.first()) {
                let note = Note {
                    cause: finding.cause,
                    evidence: evidence.clone().redacted(),
                    remedy: finding.cause.remedy().to_owned(),
                };
                verdict.notes.push(note);
            }
        }
    }
    verdict.notes.truncate(MAX_SHOWN);
    let mut seen: Vec<Evidence> = Vec::new();
    for evidence in std::mem::take(&mut verdict.evidence) {
        let evidence = evidence.redacted();
        if !seen.contains(&evidence) && seen.len() < MAX_SHOWN {
            seen.push(evidence);
        }
    }
    verdict.evidence = seen;
    verdict.summary = crate::redaction::redact_text(&verdict.summary);
    verdict
}
