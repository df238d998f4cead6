//! What must hold whatever the fault was and however it was made: the error says what to do, its evidence was saved while the machine
//! was still there, and nothing of the machine is left.
//!
//! Leftovers are counted and not asked for: TAPs in the namespace, directories, processes that run in or with such a directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use airlock_api::ErrorDetail;
use airlock_api::evidence::EvidenceDetail;
use airlock_api::session::SessionView;
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail, ensure};

use super::site::Site;
use crate::run;

const LOOK_EVERY: Duration = Duration::from_millis(20);
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// Files of every bundle of a machine that had a directory: host/engine, `evidence`.
const ALWAYS: [&str; 4] = ["failure.json", "diagnosis.json", "timeline.json", "host.json"];
const CONSOLE: &str = "console.log";

/// What there is of machines on one daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    taps: BTreeSet<String>,
    dirs: BTreeSet<String>,
    processes: BTreeSet<i32>,
}

impl Leftovers {
    /// Counts.
    pub fn of(site: &Site) -> Result<Self> {
        let links = run::output(Command::new("ip").args(["-n", &site.daemon.at.namespace, "-o", "link"]))?;
        let names = links.lines().filter_map(|line| line.split(": ").nth(1));
        let taps = names.filter(|name| name.starts_with("fc-")).map(str::to_owned).collect();
        let vms = site.state().join("vms");
        let dirs = fs::read_dir(&vms).with_context(|| format!("list {}", vms.display()))?;
        let dirs = dirs.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        Ok(Self { taps, dirs, processes: processes_of(&vms)? })
    }

    /// Waits until there is no more than this; fails if there is after some seconds.
    pub fn await_no_more(&self, site: &Site) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = Self::of(site)?;
            let more = Self {
                taps: &now.taps - &self.taps,
                dirs: &now.dirs - &self.dirs,
                processes: &now.processes - &self.processes,
            };
            if more == Self::default() {
                return Ok(());
            }
            ensure!(start.elapsed() < GONE_WITHIN, "left behind: {more:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Waits until nothing of a daemon that ended is there any more; fails if a namespace or a process is after some seconds.
pub fn await_none_of_ended(namespace: &str, state: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        let processes = processes_of(state)?;
        let is_there = Path::new("/run/netns").join(namespace).exists();
        if !is_there && processes.is_empty() {
            return Ok(());
        }
        if start.elapsed() > GONE_WITHIN {
            let arguments = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let processes: Vec<String> = processes.iter().map(|pid| format!("{pid} {:?}", arguments(pid))).collect();
            bail!("left behind: network namespace {namespace}: {is_there}; processes {processes:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Processes that work in that directory, or have it among their arguments.
fn processes_of(dir: &Path) -> Result<BTreeSet<i32>> {
    let text = dir.to_string_lossy();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Whoever ended meanwhile is not there.
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if cwd.starts_with(dir) || String::from_utf8_lossy(&arguments).contains(&*text) {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// An error that somebody has to act on: it says what to do.
pub fn check_remedy(error: &ErrorDetail) -> Result<()> {
    ensure!(error.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {error:?}");
    Ok(())
}

/// The refusal of a start: it says what to do, and of a machine that was begun there is evidence.
pub fn check_refusal(site: &Site, error: &ErrorDetail) -> Result<()> {
    check_remedy(error)?;
    if error.stage.is_some_and(|stage| stage >= Stage::TapUp) && error.evidence_id.is_some() {
        check_evidence(site, error, "")?;
    }
    Ok(())
}

/// The error of a session that failed: it says what to do, and its evidence has what `console` had, and what was seen of the machine
/// before it was taken down.
pub fn check_failure(site: &Site, session: &SessionView, console: &str) -> Result<()> {
    let error = session.error.as_ref().with_context(|| format!("the session is {} without error", session.state))?;
    ensure!(session.state == "failed", "the session is {}", session.state);
    check_remedy(error)?;
    check_evidence(site, error, console)
}

fn check_evidence(site: &Site, error: &ErrorDetail, console: &str) -> Result<()> {
    let id = error.evidence_id.as_ref().with_context(|| format!("no evidence: {error:?}"))?;
    let bundle: EvidenceDetail = site.daemon.call("GET", &format!("/api/evidence/{id}"), None)?;
    ensure!(bundle.evidence.cause == error.cause, "the evidence says {:?}: {error:?}", bundle.evidence.cause);
    ensure!(bundle.evidence.stage == error.stage, "the evidence says {:?}: {error:?}", bundle.evidence.stage);
    ensure!(bundle.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "the evidence has no remedy");
    let has = |name: &str| bundle.files.iter().any(|file| file.name == name && file.size_bytes > 0);
    for name in ALWAYS {
        ensure!(has(name), "the evidence has no {name}: {:?}", bundle.files);
    }
    // What is saved was there: a machine that is gone has no console.
    if !console.trim().is_empty() && !has(CONSOLE) {
        bail!("the evidence has no {CONSOLE}, which had {} bytes: {:?}", console.len(), bundle.files);
    }
    Ok(())
}
