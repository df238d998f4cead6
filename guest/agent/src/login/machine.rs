//! What follows what in a login. Pure: inputs and a monotonic `now` in milliseconds in, outputs out.
//!
//! ```text
//! tool runs -> URL seen (shim, or the screen when no shim followed) -> credential files complete
//!           -> status command -> captured
//! ```
//!
//! A tool that ends without a credential, or shows no URL in time, fails the login once; after `captured` nothing fails it.

use airlock_protocol::Sensitive;
use airlock_protocol::login::{CapturedFile, LoginEvent, LoginSpec, Outcome, UrlSource};

use super::credentials::Verdict;

/// A URL on the screen waits this long for the shim to bring the same, and for the rest of itself.
const SHIM_GRACE_MS: u64 = 2000;

/// What happens to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The tool runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// The tool cannot be started.
    NotStarted(String),
    /// The tool wrote to its terminal.
    Output(Vec<u8>),
    /// A URL stands on the screen.
    Screen(Sensitive),
    /// A URL came through the shim.
    Shim(Sensitive),
    /// The browser was told to open the page.
    Opened,
    /// A code to type.
    Code(Sensitive),
    /// The credential files were looked at.
    Files(Verdict),
    /// The status command ended.
    Confirmed(bool),
    /// The tool ended. A last look at the files came before.
    Exited {
        /// Exit code.
        code: Option<i32>,
        /// Signal.
        signal: Option<i32>,
        /// The end of its screen, without secrets.
        last_words: String,
    },
    /// The host wants no more of it.
    Cancel,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell the host.
    Emit(LoginEvent),
    /// Show a page in the browser.
    Open(Sensitive),
    /// Run the status command.
    Confirm,
    /// End the tool.
    Kill,
}

/// One login.
#[derive(Debug)]
pub struct Machine {
    has_status_command: bool,
    url_deadline: u64,
    url: Option<Sensitive>,
    held: Option<(Sensitive, u64)>,
    verdict: Verdict,
    confirming: bool,
    exit: Option<Exit>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exit {
    success: bool,
    last_words: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Captured,
    Failed,
    Cancelled,
}

impl Machine {
    /// A login that starts at `now`.
    pub fn new(spec: &LoginSpec, now: u64) -> Self {
        Self {
            has_status_command: spec.status_command.is_some(),
            url_deadline: now.saturating_add(spec.url_timeout_s.saturating_mul(1000)),
            url: None,
            held: None,
            verdict: Verdict::Missing { path: String::new() },
            confirming: false,
            exit: None,
            state: State::Running,
        }
    }

    /// Whether nothing can happen any more.
    pub fn is_over(&self) -> bool {
        self.exit.is_some() && !self.confirming && self.state != State::Running
    }

    /// When [`Input::Tick`] is due, if at all.
    pub fn deadline(&self) -> Option<u64> {
        if let Some((_, until)) = &self.held {
            return Some(*until);
        }
        (self.url.is_none() && self.state == State::Running && self.exit.is_none()).then_some(self.url_deadline)
    }

    /// Takes one input.
    pub fn take(&mut self, input: Input, now: u64) -> Vec<Output> {
        match input {
            Input::Started { pid } => vec![Output::Emit(LoginEvent::ToolStarted { pid })],
            Input::NotStarted(detail) => {
                self.exit = Some(Exit { success: false, last_words: String::new() });
                self.fail(Outcome::CliExited, detail)
            }
            Input::Shim(url) => self.url_seen(url, UrlSource::Shim),
            Input::Screen(url) => {
                let is_new = self.url.as_ref() != Some(&url) && self.held.as_ref().is_none_or(|(held, _)| *held != url);
                // After the first URL only the shim brings another one: a screen repaints what it showed before.
                if is_new && self.url.is_none() {
                    self.held = Some((url, now + SHIM_GRACE_MS));
                }
                Vec::new()
            }
            Input::Opened => vec![Output::Emit(LoginEvent::PageOpened)],
            Input::Files(verdict) => self.files(verdict),
            Input::Confirmed(ok) => self.confirmed(ok),
            Input::Exited { code, signal, last_words } => {
                self.exit = Some(Exit { success: code == Some(0), last_words });
                let mut outputs = vec![Output::Emit(LoginEvent::ToolExited { code, signal })];
                outputs.extend(self.after_exit());
                outputs
            }
            Input::Cancel => {
                if self.state == State::Running {
                    self.state = State::Cancelled;
                }
                vec![Output::Kill]
            }
            Input::Tick => self.tick(now),
            // These are for the thread, not for the order of things.
            Input::Output(_) | Input::Code(_) => Vec::new(),
        }
    }

    fn url_seen(&mut self, url: Sensitive, source: UrlSource) -> Vec<Output> {
        self.held = None;
        if self.url.as_ref() == Some(&url) || self.state != State::Running {
            return Vec::new();
        }
        self.url = Some(url.clone());
        vec![Output::Emit(LoginEvent::UrlSeen { url: url.clone(), source }), Output::Open(url)]
    }

    fn tick(&mut self, now: u64) -> Vec<Output> {
        match self.held.take() {
            Some((url, until)) if until <= now => return self.url_seen(url, UrlSource::Screen),
            held => self.held = held,
        }
        let is_late = self.url.is_none() && self.held.is_none() && self.exit.is_none() && now >= self.url_deadline;
        if !is_late || self.state != State::Running {
            return Vec::new();
        }
        let mut outputs = self.fail(Outcome::TimedOut, "the tool showed no URL of its provider".to_owned());
        outputs.push(Output::Kill);
        outputs
    }

    fn files(&mut self, verdict: Verdict) -> Vec<Output> {
        self.verdict = verdict;
        let is_complete = matches!(self.verdict, Verdict::Complete(_));
        if !is_complete || self.state != State::Running || self.confirming {
            return Vec::new();
        }
        if self.has_status_command {
            self.confirming = true;
            return vec![Output::Confirm];
        }
        self.capture(None)
    }

    fn confirmed(&mut self, ok: bool) -> Vec<Output> {
        self.confirming = false;
        // A status command may say no while the tool still writes; the last word is the one after the tool ended.
        if ok || self.exit.is_some() { self.capture(Some(ok)) } else { Vec::new() }
    }

    fn after_exit(&mut self) -> Vec<Output> {
        if self.state != State::Running || self.confirming {
            return Vec::new();
        }
        if matches!(self.verdict, Verdict::Complete(_)) {
            return self.files(self.verdict.clone());
        }
        let Some(exit) = self.exit.clone() else { return Vec::new() };
        let (outcome, seen) = match &self.verdict {
            Verdict::Stale { path } if exit.success => {
                (Outcome::CredentialStale, format!("{path} is older than the login"))
            }
            Verdict::Malformed { path, why } if exit.success => {
                (Outcome::CredentialMalformed, format!("{path}: {why}"))
            }
            Verdict::Stale { path } => (Outcome::CliExited, format!("{path} is older than the login")),
            Verdict::Malformed { path, why } => (Outcome::CliExited, format!("{path}: {why}")),
            Verdict::Missing { path } => (Outcome::CliExited, format!("{path} was not written")),
            Verdict::Complete(_) => return Vec::new(),
        };
        let detail = [seen, exit.last_words].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        self.fail(outcome, detail)
    }

    fn capture(&mut self, confirmed: Option<bool>) -> Vec<Output> {
        let Verdict::Complete(files) = &self.verdict else { return Vec::new() };
        if self.state != State::Running {
            return Vec::new();
        }
        self.state = State::Captured;
        let files: Vec<CapturedFile> = files.clone();
        vec![Output::Emit(LoginEvent::Captured { files, confirmed })]
    }

    fn fail(&mut self, outcome: Outcome, detail: String) -> Vec<Output> {
        self.state = State::Failed;
        vec![Output::Emit(LoginEvent::Outcome { outcome, detail })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::login::StatusCommand;

    fn spec(status: bool) -> LoginSpec {
        LoginSpec {
            status_command: status.then(|| StatusCommand { args: vec!["tool".into()], exit_code: 0, pattern: None }),
            ..serde_json::from_value(
                serde_json::json!({"login_id": "l", "command": ["tool"], "env": {}, "user": "user",
                "url_timeout_s": 10, "url_prefixes": ["https://"], "credentials": []}),
            )
            .unwrap()
        }
    }

    fn url() -> Sensitive {
        Sensitive::new("https://idp/authorize")
    }

    fn complete() -> Verdict {
        Verdict::Complete(vec![CapturedFile {
            path: ".t/c".into(),
            mode: 0o600,
            modified_ms: 1,
            expires_ms: None,
            content: Sensitive::new("{}"),
        }])
    }

    fn exited(code: i32) -> Input {
        Input::Exited { code: Some(code), signal: None, last_words: "bye".into() }
    }

    fn causes(outputs: &[Output]) -> Vec<Outcome> {
        let cause = |output| {
            if let &Output::Emit(LoginEvent::Outcome { outcome, .. }) = output { Some(outcome) } else { None }
        };
        outputs.iter().filter_map(cause).collect()
    }

    #[test]
    fn the_shim_wins_over_the_screen() {
        let mut m = Machine::new(&spec(false), 0);
        assert_eq!(m.take(Input::Screen(url()), 100), vec![]);
        let seen = m.take(Input::Shim(url()), 200);
        assert_eq!(seen[0], Output::Emit(LoginEvent::UrlSeen { url: url(), source: UrlSource::Shim }));
        assert_eq!(seen[1], Output::Open(url()));
        assert_eq!(m.take(Input::Tick, 99_999), vec![]);
        assert_eq!(m.take(Input::Screen(url()), 300), vec![]);
        assert_eq!(m.deadline(), None);
    }

    #[test]
    fn the_screen_counts_when_no_shim_follows_and_only_when_it_stopped_growing() {
        let mut m = Machine::new(&spec(false), 0);
        m.take(Input::Screen(Sensitive::new("https://idp/auth")), 100);
        m.take(Input::Screen(url()), 1000);
        assert_eq!(m.deadline(), Some(3000));
        assert_eq!(m.take(Input::Tick, 2100), vec![]);
        let seen = m.take(Input::Tick, 3000);
        assert_eq!(seen[0], Output::Emit(LoginEvent::UrlSeen { url: url(), source: UrlSource::Screen }));
    }

    #[test]
    fn no_url_in_time_fails_once_and_ends_the_tool() {
        let mut m = Machine::new(&spec(false), 5);
        assert_eq!(m.deadline(), Some(10_005));
        assert_eq!(m.take(Input::Tick, 10_004), vec![]);
        let late = m.take(Input::Tick, 10_005);
        assert_eq!(causes(&late), vec![Outcome::TimedOut]);
        assert!(late.contains(&Output::Kill));
        assert_eq!(m.take(Input::Tick, 20_000), vec![]);
        assert_eq!(causes(&m.take(exited(1), 20_001)), vec![]);
        assert!(m.is_over());
    }

    #[test]
    fn captures_after_the_status_command_said_yes() {
        let mut m = Machine::new(&spec(true), 0);
        assert_eq!(m.take(Input::Files(complete()), 1), vec![Output::Confirm]);
        assert_eq!(m.take(Input::Files(complete()), 2), vec![]);
        let captured = m.take(Input::Confirmed(true), 3);
        assert!(matches!(&captured[..], [Output::Emit(LoginEvent::Captured { confirmed: Some(true), .. })]));
        assert_eq!(m.take(exited(0), 4).len(), 1);
        assert!(m.is_over());
    }

    #[test]
    fn a_status_command_that_says_no_is_asked_again_after_the_tool_ended() {
        let mut m = Machine::new(&spec(true), 0);
        m.take(Input::Files(complete()), 1);
        assert_eq!(m.take(Input::Confirmed(false), 2), vec![]);
        let outputs = m.take(exited(0), 3);
        assert_eq!(outputs.last(), Some(&Output::Confirm));
        assert!(!m.is_over());
        let captured = m.take(Input::Confirmed(false), 4);
        assert!(matches!(&captured[..], [Output::Emit(LoginEvent::Captured { confirmed: Some(false), .. })]));
        assert!(m.is_over());
    }

    #[test]
    fn the_end_without_a_credential_says_why() {
        let stale = Verdict::Stale { path: "f".into() };
        let malformed = Verdict::Malformed { path: "f".into(), why: "no /access_token".into() };
        let missing = Verdict::Missing { path: "f".into() };
        for (verdict, code, cause) in [
            (stale.clone(), 0, Outcome::CredentialStale),
            (malformed.clone(), 0, Outcome::CredentialMalformed),
            (missing.clone(), 0, Outcome::CliExited),
            (stale, 1, Outcome::CliExited),
            (malformed, 1, Outcome::CliExited),
            (missing, 1, Outcome::CliExited),
        ] {
            let mut m = Machine::new(&spec(false), 0);
            m.take(Input::Files(verdict), 1);
            assert_eq!(causes(&m.take(exited(code), 2)), vec![cause]);
            assert!(m.is_over());
        }
    }

    #[test]
    fn a_cancelled_login_fails_nothing() {
        let mut m = Machine::new(&spec(false), 0);
        assert_eq!(m.take(Input::Cancel, 1), vec![Output::Kill]);
        let killed = Input::Exited { code: None, signal: Some(15), last_words: String::new() };
        assert_eq!(causes(&m.take(killed, 2)), vec![]);
        assert!(m.is_over());
    }
}
