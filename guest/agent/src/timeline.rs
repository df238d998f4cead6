//! Every stage of this boot: what init wrote before us, and what we report.
//!
//! A report goes to the serial console and to the control channel. A console that cannot be written loses the line there;
//! the timeline itself still has it, and the host gets it with the next `hello`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use airlock_protocol::message::GuestMessage;
use airlock_protocol::{Stage, StageReport};

use crate::outbox::Outbox;
use crate::{clock, lock};

/// The reports so far, shared by all threads.
#[derive(Debug)]
pub struct Timeline {
    reports: Mutex<Vec<StageReport>>,
    file: PathBuf,
    console: PathBuf,
    outbox: Arc<Outbox>,
}

impl Timeline {
    /// Continues the timeline that init keeps in `file`.
    pub fn open(file: &Path, console: &Path, outbox: Arc<Outbox>) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let reports = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { reports: Mutex::new(reports), file: file.to_owned(), console: console.to_owned(), outbox }
    }

    /// Everything reported so far.
    pub fn reports(&self) -> Vec<StageReport> {
        lock(&self.reports).clone()
    }

    /// Reports that `stage` was reached. A second report of a stage (the agent was restarted) says nothing new and is dropped.
    pub fn reached(&self, stage: Stage, facts: &[(&str, serde_json::Value)]) {
        self.add(stage, |seq| {
            let report = StageReport::reached(seq, clock::boottime_us(), stage);
            facts.iter().fold(report, |report, (key, value)| report.with(key, value.clone()))
        });
    }

    /// Reports that `stage` failed.
    pub fn failed(&self, stage: Stage, errno: Option<String>, detail: &str) {
        self.add(stage, |seq| StageReport::failed(seq, clock::boottime_us(), stage, errno, detail));
    }

    /// Whether `stage` was reached.
    pub fn has(&self, stage: Stage) -> bool {
        lock(&self.reports).iter().any(|report| report.stage == stage && report.ok)
    }

    /// Reports something about a stage that may have been reached long ago; number and time are filled in. What was said
    /// already in the same words is not said again.
    pub fn note(&self, report: StageReport) {
        let said = |other: &StageReport| (other.stage, &other.detail) == (report.stage, &report.detail);
        let is_new = |reports: &[StageReport]| !reports.iter().any(said);
        self.publish(is_new, |seq| StageReport { seq, t_us: clock::boottime_us(), ..report.clone() });
    }

    fn add(&self, stage: Stage, report: impl FnOnce(u32) -> StageReport) {
        let is_new = |reports: &[StageReport]| !reports.iter().any(|report| report.stage == stage && report.ok);
        self.publish(is_new, report);
    }

    fn publish(&self, is_new: impl FnOnce(&[StageReport]) -> bool, report: impl FnOnce(u32) -> StageReport) {
        let mut added = None;
        self.outbox.publish(|| {
            let mut reports = lock(&self.reports);
            if !is_new(&reports) {
                return None;
            }
            let report = report(reports.last().map_or(1, |last| last.seq + 1));
            reports.push(report.clone());
            added = Some(report.clone());
            Some(GuestMessage::Stage(report))
        });
        let Some(report) = added else { return };
        append(&self.console, &report.to_console());
        // Kept for an agent that is started again.
        append(&self.file, &format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    }
}

/// One write(2), so that nothing falls into the middle of the line.
fn append(path: &Path, line: &str) {
    if let Ok(mut file) = OpenOptions::new().append(true).open(path) {
        let _ = file.write(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_where_init_stopped() {
        let dir = std::env::temp_dir().join(format!("airlock-timeline-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, console) = (dir.join("timeline.jsonl"), dir.join("console"));
        let init = StageReport::reached(10, 5, Stage::HandedOver);
        std::fs::write(&file, format!("{}\ncut {{", serde_json::to_string(&init).unwrap()) + "\n").unwrap();
        std::fs::write(&console, "").unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        Timeline::open(&file, &console, outbox.clone()).reached(Stage::AgentUp, &[("port", 8080.into())]);
        let again = Timeline::open(&file, &console, outbox);
        again.reached(Stage::AgentUp, &[]);
        let (reports, printed) = (again.reports(), std::fs::read_to_string(&console).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            reports.iter().map(|r| (r.seq, r.stage)).collect::<Vec<_>>(),
            vec![(10, Stage::HandedOver), (11, Stage::AgentUp)]
        );
        assert_eq!(printed.matches("@airlock").count(), 1);
    }
}
