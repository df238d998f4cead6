//! What is known of a build while it runs and after it: record, stage times, log.
//!
//! ```text
//! cache/build-<name>.json    the latest build of <name>: state, stages with times and estimates, outcome
//! cache/build-<name>.times   how long each stage of the last published one took: the next one's estimates
//! cache/build-<name>.log     every line of it
//!
//! running ─┬─> published | failed | cancelled
//!          └─> interrupted (its process is gone; nobody could write that down, whoever reads the record sees it)
//! ```
//!
//! A build that still waits for another one writes nothing: the record and the log are the other one's. A record that cannot be
//! written fails no build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::progress::{BuildEvent, BuildStage};
use crate::registry::GoldenImage;

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    /// It runs, or waits for another one.
    Running,
    /// Its image is the current one of its name.
    Published,
    /// It ended with an error.
    Failed,
    /// It was asked to end.
    Cancelled,
    /// Its process died.
    Interrupted,
}

impl BuildState {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        self != Self::Running
    }
}

/// One stage of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Which.
    pub stage: BuildStage,
    /// When it began, milliseconds since the Unix epoch; none if it did not yet.
    pub started_ms: Option<i64>,
    /// How long it took, in milliseconds; none if it did not end yet.
    pub elapsed_ms: Option<u64>,
    /// How long it took in the last build, in milliseconds.
    pub expected_ms: Option<u64>,
    /// Its outcome was taken from the cache.
    pub reused: bool,
}

/// Why a build ended without an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailure {
    /// Stable code.
    pub code: String,
    /// What and why, from the outermost to the last cause.
    pub message: String,
    /// What to do next.
    pub remedy: String,
    /// The fault catalogue's cause, if there is one.
    pub cause: Option<String>,
    /// The stage that the machine of the boot test did not reach.
    pub boot_stage: Option<Stage>,
    /// Its evidence bundle.
    pub evidence_id: Option<String>,
}

impl From<&ImageError> for BuildFailure {
    fn from(error: &ImageError) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        if let ImageError::Preflight { problems, .. } = error {
            let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
            message = format!("{error}: {}", all.join("; "));
        }
        let booted = match error {
            ImageError::BootTestFailed { failure, .. } => Some(failure),
            _ => None,
        };
        Self {
            code: error.code().to_owned(),
            message,
            remedy: error.remedy(),
            cause: error.cause().map(|cause| cause.code().to_owned()),
            boot_stage: booted.and_then(|failure| failure.stage),
            evidence_id: booted.and_then(|failure| failure.evidence_id.clone()),
        }
    }
}

/// One build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// `<name>-<time>`.
    pub id: String,
    /// Name of the image.
    pub name: String,
    /// Where it stands.
    pub state: BuildState,
    /// The process that builds.
    pub pid: u32,
    /// When that process was started, in ticks since the host's boot: its number may be somebody else's later.
    pub start_ticks: u64,
    /// When it was asked for, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// Its stages, in order.
    pub stages: Vec<StageRecord>,
    /// What it published, `name@sha256:digest`.
    pub image: Option<String>,
    /// Why it published nothing.
    pub failure: Option<BuildFailure>,
}

impl BuildRecord {
    /// A build of `name` by this process that begins now; `times` are those of the last one.
    fn begin(name: &str, times: &BTreeMap<BuildStage, u64>) -> Self {
        let started_ms = now_ms();
        let pid = std::process::id();
        let stages = BuildStage::ALL.iter().map(|stage| StageRecord {
            stage: *stage,
            started_ms: None,
            elapsed_ms: None,
            expected_ms: times.get(stage).copied(),
            reused: false,
        });
        Self {
            id: format!("{name}-{started_ms}"),
            name: name.to_owned(),
            state: BuildState::Running,
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            started_ms,
            ended_ms: None,
            stages: stages.collect(),
            image: None,
            failure: None,
        }
    }

    /// The stage that runs.
    pub fn stage(&self) -> Option<BuildStage> {
        self.stages
            .iter()
            .find(|stage| stage.started_ms.is_some() && stage.elapsed_ms.is_none())
            .map(|stage| stage.stage)
    }

    /// How long it will take from `now_ms` on if it is as fast as the last one; none without a last one, or when it is over.
    pub fn remaining(&self, now_ms: i64) -> Option<Duration> {
        if self.state.is_over() || self.stages.iter().all(|stage| stage.expected_ms.is_none()) {
            return None;
        }
        let left = self.stages.iter().filter(|stage| stage.elapsed_ms.is_none()).map(|stage| {
            let spent = stage.started_ms.map_or(0, |started| u64::try_from(now_ms - started).unwrap_or(0));
            stage.expected_ms.unwrap_or(0).saturating_sub(spent)
        });
        Some(Duration::from_millis(left.sum()))
    }

    /// Takes an event of the build; `true` if the record is another one now.
    fn on(&mut self, event: &BuildEvent, now_ms: i64) -> bool {
        let (wanted, elapsed) = match event {
            BuildEvent::Log { .. } => return false,
            BuildEvent::Started { stage } => (*stage, None),
            BuildEvent::Finished { stage, elapsed, reused } => (*stage, Some((*elapsed, *reused))),
        };
        let Some(found) = self.stages.iter_mut().find(|known| known.stage == wanted) else { return false };
        match elapsed {
            None => found.started_ms = Some(now_ms),
            Some((elapsed, reused)) => {
                found.elapsed_ms = Some(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                found.reused = reused;
            }
        }
        true
    }

    fn end(&mut self, outcome: &Result<GoldenImage, ImageError>, now_ms: i64) {
        self.ended_ms = Some(now_ms);
        match outcome {
            Ok(image) => {
                self.state = BuildState::Published;
                // What this build had no use for is not waited for any more.
                self.stages.retain(|stage| stage.elapsed_ms.is_some());
                self.image = Some(image.reference());
            }
            Err(error) => {
                let cancelled = matches!(error, ImageError::Cancelled);
                self.state = if cancelled { BuildState::Cancelled } else { BuildState::Failed };
                self.failure = Some(error.into());
            }
        }
    }

    fn holds_lock(&self) -> bool {
        self.stages.iter().any(|stage| stage.stage == BuildStage::Lock && stage.elapsed_ms.is_some())
    }

    fn times(&self) -> BTreeMap<BuildStage, u64> {
        let waited = |stage: &&StageRecord| stage.stage != BuildStage::Lock;
        self.stages.iter().filter(waited).filter_map(|stage| Some((stage.stage, stage.elapsed_ms?))).collect()
    }
}

/// Runs `build` for an image of `name` and keeps its record; `tell` gets each event with the record after it, first of all
/// with the record of a build that did nothing yet and no event.
pub fn recorded(
    state_dir: &Path,
    name: &str,
    tell: &mut dyn FnMut(&BuildRecord, Option<BuildEvent>),
    build: impl FnOnce(&mut dyn FnMut(BuildEvent)) -> Result<GoldenImage, ImageError>,
) -> Result<GoldenImage, ImageError> {
    let files = JobFiles::of(state_dir, name);
    let mut record = BuildRecord::begin(name, &files.times());
    tell(&record, None);
    let outcome = build(&mut |event| {
        if record.on(&event, now_ms()) && record.holds_lock() {
            files.keep(&record);
        }
        tell(&record, Some(event));
    });
    record.end(&outcome, now_ms());
    if record.holds_lock() {
        files.keep(&record);
        if outcome.is_ok() {
            files.keep_times(&record.times());
        }
    }
    tell(&record, None);
    outcome
}

/// The latest build of each name, the newest first. One whose process is gone is interrupted.
pub fn builds(state_dir: &Path) -> Result<Vec<BuildRecord>, ImageError> {
    let cache = state_dir.join("cache");
    let entries = match fs::read_dir(&cache) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::io("list", &cache)(error)),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<BuildRecord> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .map(as_seen)
        .collect();
    found.sort_by_key(|record| std::cmp::Reverse(record.started_ms));
    Ok(found)
}

/// The latest build of one name.
pub fn latest_build(state_dir: &Path, name: &str) -> Option<BuildRecord> {
    let bytes = fs::read(JobFiles::of(state_dir, name).record).ok()?;
    serde_json::from_slice(&bytes).ok().map(as_seen)
}

/// The log of the latest build of `name`.
pub fn build_log(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("cache").join(format!("build-{name}.log"))
}

fn as_seen(mut record: BuildRecord) -> BuildRecord {
    if record.state == BuildState::Running && start_ticks(record.pid) != Some(record.start_ticks) {
        record.state = BuildState::Interrupted;
    }
    record
}

struct JobFiles {
    record: PathBuf,
    times: PathBuf,
}

impl JobFiles {
    fn of(state_dir: &Path, name: &str) -> Self {
        let cache = state_dir.join("cache");
        Self { record: cache.join(format!("build-{name}.json")), times: cache.join(format!("build-{name}.times")) }
    }

    fn times(&self) -> BTreeMap<BuildStage, u64> {
        fs::read(&self.times).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn keep(&self, record: &BuildRecord) {
        write_whole(&self.record, record);
    }

    fn keep_times(&self, times: &BTreeMap<BuildStage, u64>) {
        write_whole(&self.times, times);
    }
}

/// A reader sees the old or the new one. Nothing is synced: after a power cut no build runs.
fn write_whole(path: &Path, value: &impl Serialize) {
    let unfinished = path.with_extension("unfinished");
    if let Ok(bytes) = serde_json::to_vec_pretty(value)
        && fs::write(&unfinished, bytes).is_ok()
    {
        let _ = fs::rename(&unfinished, path);
    }
}

/// Field 22 of proc(5)'s `stat`, counted behind the name, which may hold anything.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(stage: BuildStage, ms: u64) -> BuildEvent {
        BuildEvent::Finished { stage, elapsed: Duration::from_millis(ms), reused: false }
    }

    #[test]
    fn the_last_builds_times_are_the_next_ones_estimate() {
        let times = BTreeMap::from([(BuildStage::Kernel, 5000), (BuildStage::Packages, 30_000)]);
        let mut record = BuildRecord::begin("base", &times);
        let now = record.started_ms;
        assert_eq!(record.remaining(now), Some(Duration::from_secs(35)));
        record.on(&BuildEvent::Started { stage: BuildStage::Kernel }, now);
        assert_eq!(record.stage(), Some(BuildStage::Kernel));
        assert_eq!(record.remaining(now + 2000), Some(Duration::from_secs(33)));
        assert_eq!(record.remaining(now + 9000), Some(Duration::from_secs(30)), "late, but not negative");
        record.on(&finished(BuildStage::Kernel, 9000), now + 9000);
        assert_eq!((record.stage(), record.remaining(now + 9000)), (None, Some(Duration::from_secs(30))));
        assert_eq!(BuildRecord::begin("base", &BTreeMap::new()).remaining(now), None);
    }

    #[test]
    fn a_record_outlives_its_build_and_one_that_waits_writes_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        let fail = |events: &[BuildEvent]| {
            recorded(dir.path(), "base", &mut |_, _| {}, |observe| {
                events.iter().cloned().for_each(observe);
                Err(ImageError::Cancelled)
            })
        };
        fail(&[BuildEvent::Started { stage: BuildStage::Lock }]).unwrap_err();
        assert_eq!(latest_build(dir.path(), "base"), None);
        fail(&[finished(BuildStage::Lock, 1), BuildEvent::Started { stage: BuildStage::Kernel }]).unwrap_err();
        let [record] = builds(dir.path()).unwrap().try_into().unwrap();
        assert_eq!(
            (record.state, record.failure.as_ref().unwrap().code.as_str()),
            (BuildState::Cancelled, "build_cancelled")
        );
        assert_eq!(latest_build(dir.path(), "base"), Some(record));
    }

    #[test]
    fn a_build_whose_process_is_gone_is_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        let mut record = BuildRecord::begin("base", &BTreeMap::new());
        let files = JobFiles::of(dir.path(), "base");
        files.keep(&record);
        assert_eq!(latest_build(dir.path(), "base").unwrap().state, BuildState::Running);
        record.start_ticks += 1;
        files.keep(&record);
        assert_eq!(latest_build(dir.path(), "base").unwrap().state, BuildState::Interrupted);
    }
}
