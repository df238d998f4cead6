//! Diagnosis as the engine does it: what is known of a VM is gathered and `airlock_domain::diagnosis` judges it. A VM that fails is
//! diagnosed before its evidence is saved, a live one when somebody asks.
//!
//! A log that cannot be read is one that says nothing: the verdict is then made of the rest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use airlock_domain::VmId;
use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::diagnosis::facts::{HostFacts, TapFacts};
use airlock_domain::diagnosis::{Case, Classifier, ConsoleFacts, Expected, Verdict, diagnose};
use airlock_domain::redaction::redact_text;
use airlock_protocol::Stage;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::engine_evidence::blocking;
use crate::engine_probe::Facts;
use crate::error::Error;
use crate::evidence;

/// Of a longer console the beginning and the end are read, in bytes: a verdict is due within a second.
const HEAD: u64 = 1 << 20;
const TAIL: u64 = 31 << 20;
/// Lines of the console's end that go with an error.
const LAST_LINES: usize = 10;

/// A VM as it is to be diagnosed.
#[derive(Debug, Clone)]
pub(crate) struct Patient {
    /// Its directory, or that of its evidence: `console.log`, `vmm.log`. None of them must exist.
    pub dir: PathBuf,
    /// Its boot.
    pub timeline: Vec<TimelineEntry>,
    /// Why it was given up.
    pub failure: Option<Failure>,
    /// What the host sees of it, as `Effects::describe` says it.
    pub host: Option<Value>,
    /// What probes found out.
    pub facts: Facts,
    /// Its address.
    pub expected: Expected,
    /// Whether nothing of it is left.
    pub ended: bool,
}

impl Patient {
    /// Everything that was seen of it, for its evidence.
    pub fn seen(&self) -> Option<Value> {
        let mut seen = self.host.clone()?;
        if self.facts != Facts::default() {
            seen["probes"] = json!(self.facts);
        }
        Some(seen)
    }

    /// The verdict, and the last lines of the console without secrets. Blocking.
    pub fn examine(&self) -> (Verdict, Vec<String>) {
        let console = classify(&self.dir.join("console.log"));
        let vmm_log = classify(&self.dir.join("vmm.log"));
        let described = self.host.as_ref().map(|seen| host_facts(seen, &self.timeline));
        let host = self.facts.host.clone().map(|facts| relevant(facts, &self.timeline)).or(described);
        let case = Case {
            timeline: &self.timeline,
            failure: self.failure.as_ref(),
            console: console.as_ref(),
            vmm_log: vmm_log.as_ref(),
            host: host.as_ref(),
            guest: self.facts.guest.as_ref(),
            expected: self.expected.clone(),
            ended: self.ended,
            ..Case::default()
        };
        let lines = console.iter().flat_map(ConsoleFacts::last_lines).map(|line| redact_text(&line.text));
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        (diagnose(&case), lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().to_vec())
    }
}

/// The failure in the words of its verdict, where that knows better.
pub(crate) fn refined(failure: Failure, verdict: &Verdict) -> Failure {
    match verdict.verdict.fault() {
        Some(cause) if cause != failure.cause => {
            Failure { cause, stage: verdict.stage.or(failure.stage), detail: verdict.summary.clone(), ..failure }
        }
        _ => failure,
    }
}

fn classify(path: &Path) -> Option<ConsoleFacts> {
    let read = || -> io::Result<ConsoleFacts> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut classifier = Classifier::new();
        let mut feed = |file: &mut File, most: u64| -> io::Result<()> {
            let (mut rest, mut buffer) = (file.take(most), vec![0; 64 * 1024]);
            loop {
                match rest.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => classifier.feed(buffer.get(..count).unwrap_or_default()),
                }
            }
        };
        if length > HEAD + TAIL {
            feed(&mut file, HEAD)?;
            file.seek(SeekFrom::Start(length - TAIL))?;
        }
        // A console that grows is read as far as it is now.
        feed(&mut file, length)?;
        Ok(classifier.finish())
    };
    match read() {
        Ok(facts) => Some(facts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "log not read for the diagnosis");
            None
        }
    }
}

/// What `Effects::describe` says, as facts. A TAP that was not made yet is not missing, and one of a dead VMM explains nothing.
fn host_facts(seen: &Value, timeline: &[TimelineEntry]) -> HostFacts {
    let made = timeline.iter().any(|entry| entry.stage == Stage::TapUp && entry.ok);
    let tap = match &seen["tap"] {
        Value::Null if seen.get("tap").is_some() => Some(None),
        tap if tap.get("alias").is_some() => Some(Some(TapFacts {
            alias: tap["alias"].as_str().map(str::to_owned),
            up: tap["up"].as_bool(),
            carrier: tap["carrier"].as_bool(),
            master: tap.get("master").map(|master| master.as_str().map(str::to_owned)),
            vnet_hdr: tap["vnet_hdr"].as_bool(),
            from_guest_packets: tap["from_guest_packets"].as_u64(),
            to_guest_packets: tap["to_guest_packets"].as_u64(),
            ..TapFacts::default()
        })),
        _ => None,
    };
    let vmm_alive = seen["vmm"]["alive"].as_bool();
    HostFacts { tap: tap.filter(|_| made && vmm_alive == Some(true)), vmm_alive, ..HostFacts::default() }
}

/// A TAP that was not made yet is not missing, and one of a dead VMM explains nothing.
fn relevant(facts: HostFacts, timeline: &[TimelineEntry]) -> HostFacts {
    let made = timeline.iter().any(|entry| entry.stage == Stage::TapUp && entry.ok);
    HostFacts { tap: facts.tap.filter(|_| made && facts.vmm_alive == Some(true)), ..facts }
}

impl Engine {
    /// What is wrong with a VM, or that nothing is. Of one that failed the verdict is that of the moment, kept with its evidence.
    pub async fn diagnosis(&self, id: VmId) -> Result<Verdict, Error> {
        let vm = self.vm(id).await?;
        let ctx = self.ctx();
        let ended = vm.ended_ms.is_some();
        if vm.failure.is_some()
            && let Some(kept) = self.kept_diagnosis(id).await
        {
            return Ok(kept);
        }
        let live = ctx.vm_dir(id);
        let dir = if live.exists() { live } else { evidence::dir_of(&ctx.config.state_dir, &evidence::id_of(id)) };
        let address = format!("{}/{}", vm.address, ctx.config.network.subnet.prefix());
        let patient = Patient {
            dir,
            timeline: self.timeline(id).await?,
            failure: vm.failure,
            host: if ended { None } else { Some(ctx.executor.effects.describe(id).await) },
            facts: if ended { Facts::default() } else { self.probe_vm(id).await? },
            expected: Expected { address: Some(address), ..Expected::default() },
            ended,
        };
        Ok(blocking(move || patient.examine().0).await)
    }
}
