//! Diagnosis: what is known of a VM, turned into the first broken stage, its cause, the evidence and the remedy.
//!
//! ```text
//! serial log ──> Classifier ──> ConsoleFacts ─┐
//! timeline, failure (boot machine) ───────────┼─> findings ──> the earliest broken stage wins ──> Verdict
//! host probes, guest probes, VMM's log ───────┘                the others are `also`
//! ```
//! Pure: what `now` is, is an argument. A wrong verdict is worse than none: what a log does not prove is `inconclusive`, with what
//! to try next. What a console says is the guest's word: it is believed only where nothing better contradicts it (see `reports`).
//!
//! * [`Classifier`]: any serial log, streaming, in constant memory
//! * `rules`: the patterns as data, each with a real example; `marks`: texts that show where a guest stands
//! * `script`, `units`, `reports`: the reference script's markers, service managers' status lines, our own lines
//! * [`facts`]: what probes found out
//! * `console_findings`, `fact_findings`: what each source proves; `judge`: precedence

mod console;
mod console_findings;
mod fact_findings;
pub mod facts;
mod judge;
mod lines;
mod marks;
mod order;
mod reports;
mod rules;
mod script;
mod units;

use std::fmt;

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};

use crate::boot::{Failure, TimelineEntry};
use crate::cause::Cause;
use crate::redaction::redact_text;
use crate::vmm::VmmExit;

pub use console::{Classifier, ConsoleFacts, classify};
pub use facts::{GuestFacts, HostFacts};
pub use judge::diagnose;
pub use rules::{From as SaidBy, Grade, Rule};

/// A line of evidence is no longer than this, in bytes.
const MAX_TEXT: usize = 400;

/// Every pattern, for the documentation and for tests.
pub fn patterns() -> impl Iterator<Item = &'static Rule> {
    rules::all()
}

/// Everything that is known of one VM. Every part may be missing.
#[derive(Debug, Clone, Default)]
pub struct Case<'a> {
    /// Its stages, as the boot machine recorded them: from the control channel and the host, so better than any console.
    pub timeline: &'a [TimelineEntry],
    /// Why the boot machine gave it up.
    pub failure: Option<&'a Failure>,
    /// Its console.
    pub console: Option<&'a ConsoleFacts>,
    /// Its VMM's log.
    pub vmm_log: Option<&'a ConsoleFacts>,
    /// How its VMM ended.
    pub vmm_exit: Option<VmmExit>,
    /// What the host sees.
    pub host: Option<&'a HostFacts>,
    /// What its agent sees.
    pub guest: Option<&'a GuestFacts>,
    /// Its kernel's command line, where somebody knows it.
    pub cmdline: Option<&'a str>,
    /// What it should become.
    pub expected: Expected,
    /// Nothing of it is left, so it waits for nothing.
    pub ended: bool,
}

/// What a VM should become.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Its address, with or without prefix length.
    pub address: Option<String>,
    /// A unit of its image brings up its network, and says so on the console when it begins.
    pub by_unit: bool,
    /// Whoever configures its network asks for the address (DHCP).
    pub by_dhcp: bool,
}

/// Who saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The serial console.
    #[default]
    Console,
    /// The VMM's log.
    VmmLog,
    /// The boot machine: timeline, exit of the VMM, deadline.
    Boot,
    /// A probe of the host.
    Host,
    /// A probe of the agent.
    Guest,
    /// The command line that was given.
    Cmdline,
}

impl Source {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::VmmLog => "vmm_log",
            Self::Boot => "boot",
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Cmdline => "cmdline",
        }
    }

    fn is_console(&self) -> bool {
        *self == Self::Console
    }
}

/// One thing that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Number of its line in the log, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What was seen, cleaned of terminal sequences and cut.
    pub text: String,
    /// Who saw it.
    #[serde(default, skip_serializing_if = "Source::is_console")]
    pub source: Source,
}

impl Evidence {
    /// A line of a log.
    pub(crate) fn of_line(line: u64, text: &[u8]) -> Self {
        Self { line: Some(line), text: shown(text), source: Source::Console }
    }

    fn of_record(record: &lines::Record<'_>) -> Self {
        Self::of_line(record.line, record.whole)
    }

    fn seen(source: Source, text: impl Into<String>) -> Self {
        Self { line: None, text: text.into(), source }
    }

    fn redacted(mut self) -> Self {
        self.text = redact_text(&self.text);
        self
    }
}

/// Text of others, printable and short.
fn shown(text: &[u8]) -> String {
    let text = text.get(..text.len().min(MAX_TEXT)).unwrap_or_default();
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// What came of a diagnosis, as `airlock diagnose --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `healthy`, `inconclusive`, or a code of the catalogue.
    pub verdict: Judgement,
    /// The first stage that is not reached; none where all are, or where the VM failed later.
    pub stage: Option<Stage>,
    /// In one sentence.
    pub summary: String,
    /// What proves it, what is worth most first.
    pub evidence: Vec<Evidence>,
    /// What to do next.
    pub remedy: String,
    /// What else is wrong, or follows from it; of a healthy boot what is worth knowing.
    pub also: Vec<Cause>,
    /// The same of those that are no fault here, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// Something worth knowing that is no fault here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its code.
    pub cause: Cause,
    /// What was seen.
    pub evidence: Evidence,
    /// What to do about it.
    pub remedy: String,
}

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// A good boot.
    Healthy,
    /// It failed, or nobody can say why ([`Cause::Inconclusive`]), or it is not over ([`Cause::ReachableButPending`]).
    Cause(Cause),
}

impl Judgement {
    /// The code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Cause(cause) => cause.code(),
        }
    }

    /// The fault, if it is one that has a name.
    pub fn fault(self) -> Option<Cause> {
        match self {
            Self::Cause(cause) => {
                Some(cause).filter(|c| !matches!(c, Cause::Inconclusive | Cause::ReachableButPending))
            }
            Self::Healthy => None,
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Judgement {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Judgement {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        if code == "healthy" {
            return Ok(Self::Healthy);
        }
        code.parse().map(Self::Cause).map_err(serde::de::Error::custom)
    }
}

/// Something that one source proves.
#[derive(Debug, Clone)]
struct Finding {
    cause: Cause,
    /// The stage that is not reached because of it; none: whichever comes next.
    stage: Option<Stage>,
    grade: Grade,
    /// Between findings of one stage, the one that says more comes first.
    rank: u8,
    evidence: Vec<Evidence>,
    /// The last line that shows it.
    last: u64,
}

impl Finding {
    fn new(cause: Cause, stage: Option<Stage>, grade: Grade, evidence: Vec<Evidence>) -> Self {
        let last = evidence.iter().filter_map(|e| e.line).max().unwrap_or_default();
        Self { cause, stage, grade, rank: order::rank(cause), evidence, last }
    }
}
