//! What follows what in a login. Pure: inputs and a monotonic `now` in milliseconds in, outputs out.
//!
//! ```text
//! tool runs -> URL seen (shim, or the screen when no shim followed) [-> user code | -> code wanted <-> code refused]
//!           -> credential files complete -> status command -> captured
//! ```
//!
//! An attempt has one outcome: what the tool said that is final, its end without a credential, or no URL (or user code) in
//! time. After `captured` nothing fails it. What the tool said before it ended names the outcome of its end.

use airlock_protocol::Sensitive;
use airlock_protocol::login::{CapturedFile, Flow, LoginEvent, LoginSpec, Outcome, Prompt, Reply, UrlSource};

use super::credentials::Verdict;

#[cfg(test)]
mod tests;

/// A URL on the screen waits this long for the shim to bring the same, and for the rest of itself.
const SHIM_GRACE_MS: u64 = 2000;
/// Exit code of the launcher for a program that is not there, as of a shell.
const NOT_FOUND: i32 = 127;

/// What happens to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The tool runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// The tool cannot be started.
    NotStarted {
        /// Why, as a type.
        outcome: Outcome,
        /// Why, in words.
        detail: String,
    },
    /// The tool wrote to its terminal.
    Output(Vec<u8>),
    /// A URL stands on the screen.
    Screen(Sensitive),
    /// A user code stands on the screen.
    UserCode(Sensitive),
    /// A URL came through the shim.
    Shim(Sensitive),
    /// The tool asks what the prompt of this number is for.
    Asked(usize),
    /// The tool said what the outcome rule of this number is for.
    Said {
        /// The rule.
        rule: usize,
        /// Its line, without secrets.
        words: String,
    },
    /// The tool listens for the browser's answer.
    Listening(u16),
    /// The page is on the screen.
    Opened,
    /// The page could not be shown.
    NotShown(String),
    /// A code to type.
    Code(Sensitive),
    /// The credential files were looked at.
    Files(Verdict),
    /// The status command ended.
    Confirmed {
        /// Whether it says yes.
        ok: bool,
        /// Exit code.
        code: Option<i32>,
        /// Signal.
        signal: Option<i32>,
    },
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
    /// Type at the tool's prompt. What it says from now on is an answer to that.
    Type {
        /// The text.
        text: Sensitive,
        /// Whether a line end follows.
        enter: bool,
    },
    /// Run the status command.
    Confirm,
    /// End the tool.
    Kill,
}

/// One login.
#[derive(Debug)]
pub struct Machine {
    flow: Flow,
    has_status_command: bool,
    wants_user_code: bool,
    prompts: Vec<Prompt>,
    rules: Vec<(Outcome, bool)>,
    deadline: u64,
    url: Option<Sensitive>,
    held: Option<(Sensitive, u64)>,
    user_code: Option<Sensitive>,
    listening: bool,
    port_busy: bool,
    answered: Vec<bool>,
    code: CodePrompt,
    early_code: Option<Sensitive>,
    code_refused: bool,
    /// A code was refused, and the tool has not asked for the next yet. It may be typed before it does.
    question_follows: bool,
    said: Option<(Outcome, String)>,
    verdict: Verdict,
    confirming: bool,
    /// Whether the tool had ended when its status command was asked last.
    asked_at_end: bool,
    exit: Option<Exit>,
    state: State,
}

/// Where the tool stands with the code it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CodePrompt {
    /// The provider's file names no such prompt: a code is typed when it comes.
    Unknown,
    NotAsked,
    Asked,
    Typed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exit {
    code: Option<i32>,
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
        let asks = spec.prompts.iter().any(|prompt| prompt.reply == Reply::Code);
        Self {
            flow: spec.flow,
            has_status_command: spec.status_command.is_some(),
            wants_user_code: spec.flow == Flow::DeviceCode && spec.user_code_pattern.is_some(),
            prompts: spec.prompts.clone(),
            rules: spec.outcomes.iter().map(|rule| (rule.outcome, rule.r#final)).collect(),
            deadline: now.saturating_add(spec.url_timeout_s.saturating_mul(1000)),
            url: None,
            held: None,
            user_code: None,
            listening: false,
            port_busy: false,
            answered: vec![false; spec.prompts.len()],
            code: if asks { CodePrompt::NotAsked } else { CodePrompt::Unknown },
            early_code: None,
            code_refused: false,
            question_follows: false,
            said: None,
            verdict: Verdict::Missing { path: String::new() },
            confirming: false,
            asked_at_end: false,
            exit: None,
            state: State::Running,
        }
    }

    /// Somebody else listened on the tool's callback port before it began: if it ends without a reason, that is it.
    pub fn port_was_busy(&mut self) {
        self.port_busy = true;
    }

    /// Whether nothing can happen any more.
    pub fn is_over(&self) -> bool {
        self.exit.is_some() && !self.confirming && self.state != State::Running
    }

    /// Whether the tool has shown everything that the person needs.
    fn is_shown(&self) -> bool {
        self.url.is_some() && (!self.wants_user_code || self.user_code.is_some())
    }

    /// When [`Input::Tick`] is due, if at all.
    pub fn deadline(&self) -> Option<u64> {
        if let Some((_, until)) = &self.held {
            return Some(*until);
        }
        (!self.is_shown() && self.state == State::Running && self.exit.is_none()).then_some(self.deadline)
    }

    /// Takes one input.
    pub fn take(&mut self, input: Input, now: u64) -> Vec<Output> {
        match input {
            Input::Started { pid } => vec![Output::Emit(LoginEvent::ToolStarted { pid, flow: Some(self.flow) })],
            Input::NotStarted { outcome, detail } => {
                self.exit = Some(Exit { code: None, last_words: String::new() });
                self.fail(outcome, detail)
            }
            Input::Shim(url) => self.url_seen(url, UrlSource::Shim),
            Input::Screen(url) => {
                let is_new = self.url.as_ref() != Some(&url) && self.held.as_ref().is_none_or(|(held, _)| *held != url);
                // After the first URL only the shim brings another one, since a screen repaints what it showed before; or a tool
                // that did not take a code, with a page of its own for the next.
                if is_new && (self.url.is_none() || self.code_refused) {
                    self.held = Some((url, now + SHIM_GRACE_MS));
                }
                Vec::new()
            }
            Input::UserCode(code) => self.user_code_seen(code),
            Input::Asked(prompt) => self.asked(prompt),
            Input::Said { rule, words } => self.said(rule, words),
            Input::Listening(port) if !self.listening && self.state == State::Running => {
                self.listening = true;
                vec![Output::Emit(LoginEvent::CallbackListening { port })]
            }
            Input::Opened => vec![Output::Emit(LoginEvent::PageOpened)],
            Input::NotShown(detail) => vec![Output::Emit(LoginEvent::PageNotShown { detail })],
            Input::Code(code) => self.code_came(code),
            Input::Files(verdict) => self.files(verdict),
            Input::Confirmed { ok, code, signal } => {
                let mut outputs = vec![Output::Emit(LoginEvent::StatusAnswered { ok, code, signal })];
                outputs.extend(self.confirmed(ok));
                outputs
            }
            Input::Exited { code, signal, last_words } => {
                self.exit = Some(Exit { code, last_words });
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
            // The thread's own, or told already.
            Input::Output(_) | Input::Listening(_) => Vec::new(),
        }
    }

    fn url_seen(&mut self, url: Sensitive, source: UrlSource) -> Vec<Output> {
        self.held = None;
        if self.url.as_ref() == Some(&url) || self.state != State::Running {
            return Vec::new();
        }
        (self.url, self.code_refused) = (Some(url.clone()), false);
        let mut outputs = vec![Output::Emit(LoginEvent::UrlSeen { url: url.clone(), source }), Output::Open(url)];
        outputs.extend(self.user_code.clone().and_then(|code| self.tell_user_code(code)));
        outputs
    }

    fn user_code_seen(&mut self, code: Sensitive) -> Vec<Output> {
        if !self.wants_user_code || self.user_code.as_ref() == Some(&code) || self.state != State::Running {
            return Vec::new();
        }
        self.user_code = Some(code.clone());
        self.tell_user_code(code).into_iter().collect()
    }

    /// The code is of use only with the page where it is typed.
    fn tell_user_code(&self, code: Sensitive) -> Option<Output> {
        self.url.clone().map(|url| Output::Emit(LoginEvent::UserCode { code, url }))
    }

    fn asked(&mut self, prompt: usize) -> Vec<Output> {
        let Some(Prompt { reply, enter, .. }) = self.prompts.get(prompt) else { return Vec::new() };
        if self.state != State::Running {
            return Vec::new();
        }
        match reply {
            Reply::Text { text } if !self.answered[prompt] => {
                self.answered[prompt] = true;
                vec![Output::Type { text: Sensitive::new(text.as_str()), enter: *enter }]
            }
            Reply::Text { .. } => Vec::new(),
            // The question that belongs to a refusal: the person was told with that.
            Reply::Code if std::mem::take(&mut self.question_follows) => Vec::new(),
            Reply::Code => match (self.code, self.early_code.take()) {
                (CodePrompt::Asked, _) => Vec::new(),
                (_, Some(code)) => self.type_code(code),
                (_, None) => {
                    self.code = CodePrompt::Asked;
                    vec![Output::Emit(LoginEvent::CodeWanted)]
                }
            },
        }
    }

    fn code_came(&mut self, code: Sensitive) -> Vec<Output> {
        if self.state != State::Running {
            return Vec::new();
        }
        if matches!(self.code, CodePrompt::NotAsked) {
            // Who was quicker than the tool is not asked again.
            self.early_code = Some(code);
            return Vec::new();
        }
        self.type_code(code)
    }

    fn type_code(&mut self, text: Sensitive) -> Vec<Output> {
        if self.code != CodePrompt::Unknown {
            self.code = CodePrompt::Typed;
        }
        let enter = self.prompts.iter().find(|prompt| prompt.reply == Reply::Code).is_none_or(|prompt| prompt.enter);
        vec![Output::Type { text, enter }]
    }

    fn said(&mut self, rule: usize, words: String) -> Vec<Output> {
        let Some(&(outcome, is_final)) = self.rules.get(rule) else { return Vec::new() };
        if self.state != State::Running {
            return Vec::new();
        }
        if is_final {
            let mut outputs = self.fail(outcome, words);
            outputs.push(Output::Kill);
            return outputs;
        }
        self.said = Some((outcome, words.clone()));
        if outcome != Outcome::InvalidCode || self.code == CodePrompt::NotAsked {
            return Vec::new();
        }
        // Not every tool asks again in words; whoever types the next code need not wait for them.
        if self.code == CodePrompt::Typed {
            self.code = CodePrompt::Asked;
        }
        (self.code_refused, self.question_follows) = (true, true);
        vec![Output::Emit(LoginEvent::CodeRefused { detail: words })]
    }

    fn tick(&mut self, now: u64) -> Vec<Output> {
        match self.held.take() {
            Some((url, until)) if until <= now => return self.url_seen(url, UrlSource::Screen),
            held => self.held = held,
        }
        let is_late = !self.is_shown() && self.held.is_none() && self.exit.is_none() && now >= self.deadline;
        if !is_late || self.state != State::Running {
            return Vec::new();
        }
        let (outcome, detail) = self.said.clone().unwrap_or_else(|| {
            let what = if self.url.is_some() { "user code" } else { "URL of its provider" };
            (Outcome::TimedOut, format!("the tool showed no {what}"))
        });
        let mut outputs = self.fail(outcome, detail);
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
            (self.confirming, self.asked_at_end) = (true, self.exit.is_some());
            return vec![Output::Confirm];
        }
        self.capture(None)
    }

    fn confirmed(&mut self, ok: bool) -> Vec<Output> {
        self.confirming = false;
        let is_complete = matches!(self.verdict, Verdict::Complete(_));
        if ok && is_complete {
            return self.capture(Some(true));
        }
        // A status command may say no while the tool still writes; the last word is the one after the tool ended.
        if self.exit.is_none() || self.state != State::Running {
            return Vec::new();
        }
        if is_complete && self.asked_at_end {
            let detail = "the tool's own status command denies the login".to_owned();
            return self.fail(Outcome::CredentialRejected, detail);
        }
        self.after_exit()
    }

    fn after_exit(&mut self) -> Vec<Output> {
        if self.state != State::Running || self.confirming {
            return Vec::new();
        }
        if matches!(self.verdict, Verdict::Complete(_)) {
            return self.files(self.verdict.clone());
        }
        let Some(exit) = self.exit.clone() else { return Vec::new() };
        let (seen_as, seen) = match &self.verdict {
            Verdict::Stale { path } => (Outcome::CredentialStale, format!("{path} is older than the login")),
            Verdict::Malformed { path, why } => (Outcome::CredentialMalformed, format!("{path}: {why}")),
            Verdict::Missing { path } => (Outcome::CliExited, format!("{path} was not written")),
            Verdict::Complete(_) => return Vec::new(),
        };
        let said = self.said.as_ref().map(|(outcome, _)| *outcome);
        let outcome = match exit.code {
            Some(0) => said.filter(|_| seen_as == Outcome::CliExited).unwrap_or(seen_as),
            Some(NOT_FOUND) => said.unwrap_or(Outcome::ToolMissing),
            _ => said.unwrap_or(if self.port_busy { Outcome::PortBusy } else { Outcome::CliExited }),
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
