//! The end of waiting for the screen. The host says how long it still waits; when that is over, the first stage of the screen that is
//! missing is reported as failed, with what was seen of it and the last words of the programs.
//!
//! ```text
//! nothing is due -- due(time) --> due -- painted before its time --> nothing is due
//!                                  \---- time is over --> reported
//! ```
//! Without a word of the host nothing is ever reported: its own deadline speaks then, and knows less.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use airlock_protocol::Stage;
use airlock_protocol::redact::redact;

use crate::painted::SHARE;
use crate::timeline::Timeline;
use crate::{lock, spawn};

/// What is kept of a program's last words: bytes that are read, lines, and characters of a line.
const TAIL: u64 = 4096;
const LINES: usize = 3;
const LINE: usize = 160;
/// Programs whose last words are quoted: those that wrote last.
const PROGRAMS: usize = 3;
const UNKNOWN: u8 = u8::MAX;

/// See the head of this file.
#[derive(Debug)]
pub struct ScreenDue {
    timeline: Arc<Timeline>,
    logs: PathBuf,
    seen: Seen,
    at: Mutex<Option<Instant>>,
    changed: Condvar,
}

/// How much of the screen was the page when it was looked at last.
#[derive(Debug, Clone)]
pub struct Seen(Arc<AtomicU8>);

impl Default for Seen {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(UNKNOWN)))
    }
}

impl Seen {
    /// Notes a look at the screen.
    pub fn note(&self, percent: usize) {
        self.0.store(u8::try_from(percent).unwrap_or(100), Ordering::Relaxed);
    }
}

impl ScreenDue {
    /// Waits on a thread of its own; `logs` holds the programs' output, `NAME.log` each.
    pub fn start(timeline: Arc<Timeline>, logs: &Path, seen: Seen) -> io::Result<Arc<Self>> {
        let this =
            Arc::new(Self { timeline, logs: logs.to_owned(), seen, at: Mutex::default(), changed: Condvar::new() });
        let waiting = this.clone();
        spawn("screen-due", move || waiting.run())?;
        Ok(this)
    }

    /// From now on the screen is waited for so long, whatever was said before.
    pub fn due(&self, within: Duration) {
        *lock(&self.at) = Instant::now().checked_add(within);
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut at = lock(&self.at);
        loop {
            let left = at.map(|at| at.saturating_duration_since(Instant::now()));
            at = match left {
                None => self.changed.wait(at).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    *at = None;
                    self.judge();
                    at
                }
                Some(left) => self.changed.wait_timeout(at, left).unwrap_or_else(std::sync::PoisonError::into_inner).0,
            };
        }
    }

    fn judge(&self) {
        let missing = [Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted];
        let Some(stage) = missing.into_iter().find(|stage| !self.timeline.has(*stage)) else { return };
        self.timeline.failed(stage, None, &format!("{}{}", self.seen(stage), last_words(&self.logs)));
    }

    fn seen(&self, stage: Stage) -> String {
        match (stage, self.seen.0.load(Ordering::Relaxed)) {
            (Stage::DisplayUp, _) => "no X server answers".to_owned(),
            (Stage::BrowserUp, _) => "the X server has no window of the browser".to_owned(),
            (_, UNKNOWN) => "the browser has a window, and the screen could not be looked at".to_owned(),
            (_, percent) => format!(
                "the browser has a window, and {percent} % of the screen have the page's colour, not {SHARE} % or more"
            ),
        }
    }
}

/// What the programs wrote last, who wrote last first: `; firefox: line | line; xvnc: line`. Without secrets, and short.
pub fn last_words(logs: &Path) -> String {
    let mut found: Vec<_> = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_suffix(".log")?.to_owned();
            // We speak for ourselves.
            let other = (name != "agent").then_some(name)?;
            Some((entry.metadata().ok()?.modified().ok()?, other, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    let words = found.into_iter().filter_map(|(_, name, path)| Some(format!("; {name}: {}", tail(&path)?)));
    words.take(PROGRAMS).collect()
}

/// The last lines of a file that say something, in one.
fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).rev().take(LINES).map(line).collect();
    lines.reverse();
    (!lines.is_empty()).then(|| lines.join(" | "))
}

fn line(text: &str) -> String {
    let printable: String = redact(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match printable.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &printable[..end]),
        None => printable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Outbox;
    use airlock_protocol::StageReport;
    use airlock_protocol::message::GuestMessage;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    struct Bench {
        outbox: Arc<Outbox>,
        timeline: Arc<Timeline>,
        seen: Seen,
        due: Arc<ScreenDue>,
        logs: PathBuf,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let outbox = Arc::new(Outbox::new().unwrap());
            outbox.host_came(Vec::new);
            let none = Path::new("/nonexistent");
            let timeline = Arc::new(Timeline::open(none, none, outbox.clone()));
            let logs = std::env::temp_dir().join(format!("airlock-due-{name}-{}", std::process::id()));
            fs::create_dir_all(&logs).unwrap();
            let seen = Seen::default();
            let due = ScreenDue::start(timeline.clone(), &logs, seen.clone()).unwrap();
            Self { outbox, timeline, seen, due, logs }
        }

        fn log(&self, name: &str, text: &str) {
            fs::write(self.logs.join(format!("{name}.log")), text).unwrap();
        }

        /// The next report, if one comes within the time.
        fn report(&self, within: Duration) -> Option<StageReport> {
            let until = Instant::now() + within;
            loop {
                self.outbox.clear_wake();
                if let Some(message) = self.outbox.pop() {
                    let GuestMessage::Stage(report) = message else { panic!("{message:?}") };
                    return Some(report);
                }
                let left = until.saturating_duration_since(Instant::now()).as_millis();
                let woken = poll(
                    &mut [PollFd::new(self.outbox.wake_fd(), PollFlags::POLLIN)],
                    PollTimeout::try_from(left).unwrap(),
                );
                if woken.unwrap() == 0 {
                    return None;
                }
            }
        }

        fn failure(&self) -> (Stage, String) {
            let report = self.report(Duration::from_secs(20)).unwrap();
            assert!(!report.ok, "{report:?}");
            (report.stage, report.detail.unwrap())
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.logs);
        }
    }

    #[test]
    fn the_first_missing_stage_fails_with_the_last_words_of_its_programs() {
        let bench = Bench::new("missing");
        bench.log("agent", "nothing of this\n");
        bench.log("xvnc", "old\none\ntwo\n\nFatal server error: https://host/?code=abc\n");
        bench.due.due(Duration::from_millis(10));
        let words = "no X server answers; xvnc: one | two | Fatal server error: https://[url]";
        assert_eq!(bench.failure(), (Stage::DisplayUp, words.to_owned()));
    }

    #[test]
    fn a_browser_without_a_window_and_one_that_paints_nothing_are_told_apart() {
        let bench = Bench::new("browser");
        bench.timeline.reached(Stage::DisplayUp, &[]);
        bench.report(Duration::from_secs(20)).unwrap();
        bench.log("firefox", &format!("Error: cannot open display: :7 {}\n", "x ".repeat(300)));
        bench.due.due(Duration::from_millis(10));
        let (stage, words) = bench.failure();
        assert_eq!(stage, Stage::BrowserUp);
        assert!(
            words.starts_with("the X server has no window of the browser; firefox: Error: cannot open display: :7 x")
        );
        assert!(words.ends_with('…') && words.chars().count() < 250, "{words}");

        bench.timeline.reached(Stage::BrowserUp, &[]);
        bench.report(Duration::from_secs(20)).unwrap();
        bench.seen.note(2);
        bench.due.due(Duration::from_millis(10));
        let (stage, words) = bench.failure();
        assert_eq!(stage, Stage::PagePainted);
        assert!(words.starts_with("the browser has a window, and 2 % of the screen have the page's colour"), "{words}");
    }

    #[test]
    fn a_painted_page_is_never_late_and_a_new_word_of_the_host_replaces_the_old() {
        let bench = Bench::new("painted");
        bench.due.due(Duration::from_millis(200));
        bench.due.due(Duration::from_secs(3600));
        assert_eq!(bench.report(Duration::from_millis(400)), None, "the first word is void");
        for stage in [Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted] {
            bench.timeline.reached(stage, &[]);
            bench.report(Duration::from_secs(20)).unwrap();
        }
        bench.due.due(Duration::ZERO);
        assert_eq!(bench.report(Duration::from_millis(200)), None);
    }
}
