//! The boot machine: pure, one per VM.
//!
//! ```text
//!   booting --(every stage of the readiness contract, then HTTP 200)--> ready
//!      |                                                                  |
//!      +--(stage failed, VMM exit, panic, OOM, deadline)--> failed <------+ (VMM exit, panic, OOM)
//! ```
//!
//! Inputs are what happened and when (`now_ms`: milliseconds since the start was asked for, by one monotonic clock of the
//! host). Outputs are what the owner of the VM does next. A failure names the first stage that failed and its cause; after it nothing
//! changes any more. Times in the timeline never decrease.
//!
//! The network's stages come from init, before the root is mounted; or, where the image's own manager owns the interface,
//! from the agent that watches it, after `agent_up` (`late_network`).

use airlock_protocol::stage::Reporter;
use airlock_protocol::{Stage, StageReport};
use serde::{Deserialize, Serialize};

use self::hopeless::Watch;
pub use self::needed::{NeededService, needed_services};
use crate::cause::Cause;
use crate::vmm::VmmExit;

/// One stage of one boot, on the host's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// The stage.
    pub stage: Stage,
    /// Whether it was reached.
    pub ok: bool,
    /// Milliseconds since the start was asked for.
    pub at_ms: f64,
    /// Microseconds of the guest's clock since its kernel started, for stages that the guest reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_us: Option<u64>,
    /// Symbolic errno of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a boot, or the VM after it, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Catalogue code.
    pub cause: Cause,
    /// First stage that failed or was not reached; none if the VM was ready.
    pub stage: Option<Stage>,
    /// What was seen.
    pub detail: String,
    /// Evidence bundle, once it is saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// The last lines of the console, without secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console_end: Vec<String>,
}

impl Failure {
    /// A failure without evidence bundle yet.
    pub fn new(cause: Cause, stage: Option<Stage>, detail: impl Into<String>) -> Self {
        Self { cause, stage, detail: detail.into(), evidence_id: None, console_end: Vec::new() }
    }

    /// Whether it says no more than that a stage was not reached in time.
    pub fn is_of_deadline(&self) -> bool {
        self.detail.contains(NOT_IN_TIME)
    }
}

/// The words of a failure that has no other reason than its deadline.
const NOT_IN_TIME: &str = "was not reached within";

/// What happened.
#[derive(Debug, Clone)]
pub enum BootEvent<'a> {
    /// A stage of the host was reached.
    Reached(Stage),
    /// A stage of the host failed.
    Failed(Failure),
    /// A whole line of the console, cleaned of escapes.
    ConsoleLine(&'a str),
    /// A report that came over the control channel, possibly a repetition.
    GuestReport(&'a StageReport),
    /// The agent answered HTTP 200, with these addresses (`192.168.100.8/24`).
    HealthAnswered {
        /// Build id of the agent that answered.
        build_id: &'a str,
        /// Addresses that the guest really has.
        addresses: &'a [String],
    },
    /// The VMM process ended.
    VmmExited(VmmExit),
    /// Time passed.
    Tick,
}

/// What the owner does next.
#[derive(Debug, Clone, PartialEq)]
pub enum BootOutput {
    /// Record this entry and tell whoever watches.
    Stage(TimelineEntry),
    /// Ask `GET /health` until it answers; [`BootEvent::HealthAnswered`] brings the answer.
    ProbeHealth,
    /// The readiness contract is fulfilled.
    Ready,
    /// It failed.
    Failed(Failure),
}

/// What a boot must reach.
#[derive(Debug, Clone)]
pub struct Contract {
    /// Stages of the agent that must be reached; host and init stages always must.
    pub agent_stages: Vec<Stage>,
    /// Whether the network is configured behind init's back, when the agent runs already.
    pub late_network: bool,
    /// Milliseconds from the request to `ready`.
    pub deadline_ms: f64,
    /// Address with prefix length the guest must have.
    pub address: String,
    /// Build id the agent must have.
    pub build_id: String,
    /// Services besides the agent whose end, while their stage is not reached, ends the boot.
    pub needed_services: Vec<NeededService>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting,
    Ready,
    Failed,
}

/// See the head of this file.
#[derive(Debug)]
pub struct BootMachine {
    contract: Contract,
    phase: Phase,
    timeline: Vec<TimelineEntry>,
    probing: bool,
    watch: Watch,
}

impl BootMachine {
    /// A machine before its first stage.
    pub fn new(contract: Contract) -> Self {
        Self::resume(contract, Vec::new())
    }

    /// A machine that goes on where another one stopped, after `timeline`.
    pub fn resume(contract: Contract, mut timeline: Vec<TimelineEntry>) -> Self {
        timeline.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms).then(a.stage.cmp(&b.stage)));
        let reached = |stage| timeline.iter().any(|entry: &TimelineEntry| entry.stage == stage && entry.ok);
        let phase = if reached(Stage::Ready) { Phase::Ready } else { Phase::Booting };
        let watch = Watch::over(&contract.needed_services);
        Self { contract, phase, timeline, probing: false, watch }
    }

    /// Everything recorded so far, in stage order; in the order of time where the network comes late.
    pub fn timeline(&self) -> &[TimelineEntry] {
        &self.timeline
    }

    /// When [`BootEvent::Tick`] must be fed at the latest, in milliseconds since the start was asked for.
    pub fn next_deadline_ms(&self) -> Option<f64> {
        (self.phase == Phase::Booting).then_some(self.contract.deadline_ms)
    }

    /// Takes one event.
    pub fn on(&mut self, event: BootEvent<'_>, now_ms: f64) -> Vec<BootOutput> {
        let mut outputs = Vec::new();
        if self.phase == Phase::Failed {
            return outputs;
        }
        match event {
            BootEvent::Reached(stage) => self.record(entry(stage, now_ms), &mut outputs),
            BootEvent::Failed(failure) => self.fail(failure, now_ms, &mut outputs),
            BootEvent::ConsoleLine(line) => self.on_console_line(line, now_ms, &mut outputs),
            BootEvent::GuestReport(report) => self.on_report(report, now_ms, &mut outputs),
            BootEvent::HealthAnswered { build_id, addresses } => {
                self.on_health(build_id, addresses, now_ms, &mut outputs)
            }
            BootEvent::VmmExited(exit) => {
                let failure = Failure::new(Cause::VmmExited, self.first_missing(), format!("the VMM {exit}"));
                self.fail(failure, now_ms, &mut outputs);
            }
            BootEvent::Tick => self.on_tick(now_ms, &mut outputs),
        }
        outputs
    }

    fn on_console_line(&mut self, line: &str, now_ms: f64, outputs: &mut Vec<BootOutput>) {
        if let Some(report) = airlock_protocol::stage::parse_line(line) {
            return self.on_report(&report, now_ms, outputs);
        }
        if is_kernel_line(line) {
            self.record(entry(Stage::KernelStarted, now_ms), outputs);
        }
        let missing = self.first_missing();
        let (timeline, late) = (&self.timeline, self.contract.late_network);
        let reached = |stage| timeline.iter().any(|entry: &TimelineEntry| entry.stage == stage && entry.ok);
        if let Some(failure) = self.watch.look(line, late, missing, reached) {
            self.fail(failure, now_ms, outputs);
        }
    }

    fn on_report(&mut self, report: &StageReport, now_ms: f64, outputs: &mut Vec<BootOutput>) {
        if cause_named_by(report) == Some(Cause::AddressOwnerConflict) {
            return self.on_conflict(report, outputs);
        }
        if report.stage.reporter() == Reporter::Host || self.has(report.stage) {
            return;
        }
        // The first word of the guest also proves its kernel, whose own first byte a quiet console swallows.
        if !self.has(Stage::KernelStarted) {
            #[allow(clippy::cast_precision_loss, reason = "microseconds of a boot are far below 2^52")]
            let started = now_ms - report.t_us as f64 / 1000.0;
            let inferred = TimelineEntry {
                detail: Some("inferred from the guest's clock".into()),
                ..entry(Stage::KernelStarted, started)
            };
            self.record(inferred, outputs);
        }
        let recorded = TimelineEntry {
            guest_us: Some(report.t_us),
            ok: report.ok,
            errno: report.errno.clone(),
            detail: report.detail.clone(),
            ..entry(report.stage, self.host_time(report.t_us).map_or(now_ms, |at| at.min(now_ms)))
        };
        if report.ok {
            self.record(recorded, outputs);
        } else {
            let failure = Failure::new(cause_of_report(report), Some(report.stage), describe(report));
            self.insert(recorded.clone());
            outputs.push(BootOutput::Stage(recorded));
            self.end(failure, outputs);
        }
    }

    /// Somebody in the guest changed the address. What was put back is noted at its stage; what was not ends the VM.
    fn on_conflict(&mut self, report: &StageReport, outputs: &mut Vec<BootOutput>) {
        if !report.ok {
            return self
                .end(Failure::new(Cause::AddressOwnerConflict, self.first_missing(), describe(report)), outputs);
        }
        let noted = self.timeline.iter_mut().find(|entry| entry.stage == report.stage && entry.detail != report.detail);
        if let Some(entry) = noted {
            entry.detail.clone_from(&report.detail);
            outputs.push(BootOutput::Stage(entry.clone()));
        }
    }

    /// The guest's clock on the host's: anchored at the earliest stage of the guest that was seen live.
    fn host_time(&self, t_us: u64) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a boot are far below 2^52")]
        let offsets = self.timeline.iter().filter_map(|e| e.guest_us.map(|us| e.at_ms - us as f64 / 1000.0));
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a boot are far below 2^52")]
        offsets.reduce(f64::min).map(|offset| offset + t_us as f64 / 1000.0)
    }

    fn on_health(&mut self, build_id: &str, addresses: &[String], now_ms: f64, outputs: &mut Vec<BootOutput>) {
        if build_id != self.contract.build_id {
            let detail = format!("the agent is build {build_id}, the image has {}", self.contract.build_id);
            return self.fail(Failure::new(Cause::AgentBuildMismatch, Some(Stage::Reachable), detail), now_ms, outputs);
        }
        if !addresses.contains(&self.contract.address) {
            let detail = format!("the guest has {addresses:?}, its lease is {}", self.contract.address);
            return self.fail(Failure::new(Cause::AddressMismatch, Some(Stage::Reachable), detail), now_ms, outputs);
        }
        self.record(entry(Stage::Reachable, now_ms), outputs);
    }

    fn on_tick(&mut self, now_ms: f64, outputs: &mut Vec<BootOutput>) {
        // A machine that was resumed may have all but this behind it.
        self.probe_when_due(outputs);
        if self.phase == Phase::Booting && now_ms >= self.contract.deadline_ms {
            let stage = self.first_missing();
            let detail = format!(
                "{} {NOT_IN_TIME} {:.0} s",
                stage.map_or("ready", Stage::name),
                self.contract.deadline_ms / 1000.0
            );
            self.fail(Failure::new(self.stalled_cause(stage), stage, detail), now_ms, outputs);
        }
    }

    /// What silence before `stage` means. Only where one cause explains it; the diagnosis looks closer elsewhere.
    fn stalled_cause(&self, stage: Option<Stage>) -> Cause {
        match stage {
            Some(Stage::KernelStarted) => Cause::NoConsoleOutput,
            // Programs of the image bring it up, among others that come before them: a slow machine may not be there yet.
            Some(Stage::LinkUp) if self.contract.late_network => Cause::Inconclusive,
            Some(Stage::LinkUp) => Cause::LinkUpFailed,
            Some(Stage::AddressSet) => Cause::AddressSetFailed,
            Some(Stage::RouteSet) => Cause::RouteSetFailed,
            Some(Stage::GatewayReachable) => Cause::GatewayUnreachable,
            Some(Stage::DisplayUp) => Cause::DisplayFailed,
            Some(Stage::BrowserUp) => Cause::BrowserCrashed,
            Some(Stage::PagePainted) => Cause::ScreenBlack,
            _ => Cause::Inconclusive,
        }
    }

    /// Records a reached stage once and draws what follows from it.
    fn record(&mut self, entry: TimelineEntry, outputs: &mut Vec<BootOutput>) {
        if self.has(entry.stage) {
            return;
        }
        let recorded = self.insert(entry);
        let (stage, at_ms) = (recorded.stage, recorded.at_ms);
        outputs.push(BootOutput::Stage(recorded));
        if stage == Stage::Reachable && self.phase == Phase::Booting {
            self.phase = Phase::Ready;
            let recorded = self.insert(self::entry(Stage::Ready, at_ms));
            outputs.push(BootOutput::Stage(recorded));
            outputs.push(BootOutput::Ready);
        } else {
            self.probe_when_due(outputs);
        }
    }

    /// Last of all, so that `reachable` says what is true when the machine is handed over.
    fn probe_when_due(&mut self, outputs: &mut Vec<BootOutput>) {
        let late: &[Stage] = if self.contract.late_network { &OF_NETWORK } else { &[] };
        let mut awaited = self.contract.agent_stages.iter().chain(late);
        let due = self.phase == Phase::Booting && awaited.all(|wanted| self.has(*wanted));
        if due && !self.probing {
            self.probing = true;
            outputs.push(BootOutput::ProbeHealth);
        }
    }

    /// Puts an entry at its place; a late one takes a time between its neighbours'.
    fn insert(&mut self, mut entry: TimelineEntry) -> TimelineEntry {
        if self.contract.late_network {
            // Beside the network other stages are reached: only time orders them.
            let place = self.timeline.partition_point(|e| e.at_ms <= entry.at_ms);
            self.timeline.insert(place, entry.clone());
            return entry;
        }
        let place = self.timeline.partition_point(|e| e.stage < entry.stage);
        if let Some(next) = self.timeline.get(place) {
            entry.at_ms = entry.at_ms.min(next.at_ms);
        }
        if let Some(before) = place.checked_sub(1).and_then(|i| self.timeline.get(i)) {
            entry.at_ms = entry.at_ms.max(before.at_ms);
        }
        self.timeline.insert(place, entry.clone());
        entry
    }

    fn fail(&mut self, failure: Failure, now_ms: f64, outputs: &mut Vec<BootOutput>) {
        if let Some(stage) = failure.stage.filter(|stage| !self.has(*stage)) {
            let recorded =
                self.insert(TimelineEntry { ok: false, detail: Some(failure.detail.clone()), ..entry(stage, now_ms) });
            outputs.push(BootOutput::Stage(recorded));
        }
        self.end(failure, outputs);
    }

    fn end(&mut self, failure: Failure, outputs: &mut Vec<BootOutput>) {
        self.phase = Phase::Failed;
        outputs.push(BootOutput::Failed(failure));
    }

    fn has(&self, stage: Stage) -> bool {
        self.timeline.iter().any(|entry| entry.stage == stage)
    }

    /// The first stage that is still to come; `None` once ready.
    pub fn first_missing(&self) -> Option<Stage> {
        if self.phase == Phase::Ready {
            return None;
        }
        let is_late = |stage: &Stage| self.contract.late_network && OF_NETWORK.contains(stage);
        let (early, later) = Stage::ALL.split_at(Stage::ALL.partition_point(|stage| *stage <= Stage::AgentUp));
        let early = early.iter().filter(|stage| !is_late(stage));
        let late = OF_NETWORK.iter().filter(|stage| is_late(stage));
        early
            .chain(late)
            .chain(later)
            .copied()
            .filter(|stage| stage.reporter() != Reporter::Agent || self.contract.agent_stages.contains(stage))
            .find(|stage| !self.has(*stage))
    }
}

/// The first stage that a boot did not reach of which only the timeline is known; none if it was ready. The display's stages
/// count where one of them was reached: not every image has one.
pub fn first_missing(timeline: &[TimelineEntry]) -> Option<Stage> {
    let reached = |stage: Stage| timeline.iter().any(|entry| entry.stage == stage && entry.ok);
    let of_display = |stage: Stage| (Stage::DisplayUp..=Stage::PagePainted).contains(&stage);
    let has_display = Stage::ALL.iter().any(|stage| of_display(*stage) && reached(*stage));
    if reached(Stage::Ready) {
        return None;
    }
    Stage::ALL.iter().copied().find(|stage| !reached(*stage) && (has_display || !of_display(*stage)))
}

/// The stages of whoever configures the interface.
const OF_NETWORK: [Stage; 4] = [Stage::LinkUp, Stage::AddressSet, Stage::RouteSet, Stage::GatewayReachable];

fn entry(stage: Stage, at_ms: f64) -> TimelineEntry {
    TimelineEntry { stage, ok: true, at_ms, guest_us: None, errno: None, detail: None }
}

/// `[    0.123456] text` or the banner: what only a running kernel prints.
fn is_kernel_line(line: &str) -> bool {
    let stamped =
        line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')).is_some_and(|(stamp, _)| {
            let stamp = stamp.trim();
            stamp.contains('.') && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        });
    stamped || line.contains("Linux version ")
}

pub(crate) fn describe(report: &StageReport) -> String {
    match (&report.detail, &report.errno) {
        (Some(detail), Some(errno)) => format!("{detail}: {errno}"),
        (Some(text), None) | (None, Some(text)) => text.clone(),
        (None, None) => format!("{} failed", report.stage),
    }
}

/// The cause that a report names itself (fact `cause`).
fn cause_named_by(report: &StageReport) -> Option<Cause> {
    report.facts.get("cause").and_then(|value| value.as_str()).and_then(|code| code.parse().ok())
}

/// The cause that a failed report names itself, else the one that belongs to its stage and errno.
pub(crate) fn cause_of_report(report: &StageReport) -> Cause {
    if let Some(cause) = cause_named_by(report) {
        return cause;
    }
    let errno = report.errno.as_deref().unwrap_or_default();
    match (report.stage, errno) {
        (Stage::ConfigRead, _) => Cause::CmdlineIpMalformed,
        (Stage::ModulesLoaded, _) => Cause::ModulesMismatch,
        (Stage::LinkFound, _) => Cause::LinkMissing,
        (Stage::LinkUp, "ENETDOWN") => Cause::LinkNoCarrier,
        (Stage::LinkUp, _) => Cause::LinkUpFailed,
        (Stage::AddressSet, "EEXIST") => Cause::AddressExists,
        (Stage::AddressSet, _) => Cause::AddressSetFailed,
        (Stage::RouteSet, _) => Cause::RouteSetFailed,
        (Stage::GatewayReachable, _) => Cause::GatewayUnreachable,
        (Stage::RootMounted, "ENOENT" | "ENXIO" | "ETIMEDOUT") => Cause::RootDeviceMissing,
        (Stage::RootMounted, "ENODEV") => Cause::RootFsUnsupported,
        (Stage::RootMounted, _) => Cause::RootFsCorrupt,
        (Stage::HandedOver, _) => Cause::InitMissing,
        (Stage::AgentUp, "EADDRINUSE") => Cause::AgentPortConflict,
        (Stage::AgentUp, _) => Cause::AgentCrashed,
        (Stage::DisplayUp, _) => Cause::DisplayFailed,
        (Stage::BrowserUp, _) => Cause::BrowserCrashed,
        (Stage::PagePainted, _) => Cause::ScreenBlack,
        _ => Cause::Inconclusive,
    }
}

mod hopeless;
mod needed;

#[cfg(test)]
mod tests;
