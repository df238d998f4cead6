//! The thread of one login: feeds the machine with what the tool, its files and the host do, and does what it says.
//!
//! ```text
//! reader (terminal) --\
//! waiter (exit) -------+--> inputs --> machine --> outputs: host, browser, keys, status command, signals
//! watcher (files) ----/
//! shim, host --------/
//! ```
//!
//! The threads end with the tool; the watcher ends when the login does. A tool of an earlier attempt is waited for: two of them
//! would share a callback port and a home.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use airlock_protocol::Sensitive;
use airlock_protocol::accounts::Account;
use airlock_protocol::login::{CredentialFile, Flow, LoginSpec, Outcome};
use nix::sys::signal::Signal;
use regex_lite::Regex;

use super::Login;
use super::credentials::{self, Watch};
use super::listening::{is_listening, redirect_port};
use super::machine::{Input, Machine, Output};
use super::memory::not_in_memory;
use super::place::place;
use super::terminal::Terminal;
use super::tool::{self, Environment, Tool};
use super::url::Wanted;
use super::words::Words;
use crate::browser::Browser;
use crate::clock;

/// How long the terminal may still bring output after the tool ended (a background child may hold it open).
const OUTPUT_AFTER_EXIT: Duration = Duration::from_millis(500);
/// How long a tool has to end by itself when it is cancelled.
const TERM_WITHIN_MS: u64 = 2000;
/// How often and how long the table of sockets is looked at for the tool's listener: nothing announces one.
const LISTENING_EVERY_MS: u64 = 100;
const LISTENING_WITHIN_MS: u64 = 10_000;

/// What a login is run with.
#[derive(Debug)]
pub struct Surroundings {
    /// Where things are.
    pub environment: Environment,
    /// What shows pages.
    pub browser: Arc<Browser>,
    /// Who is told.
    pub login: Arc<Login>,
    /// Closed when the attempt before this one is over.
    pub before: Option<Receiver<()>>,
}

/// Runs a login to its end.
pub fn run(spec: LoginSpec, around: Surroundings, inputs: Sender<Input>, feed: Receiver<Input>) {
    if let Some(before) = &around.before {
        // Its tool gets a SIGKILL long before this is over.
        let _ = before.recv_timeout(Duration::from_millis(2 * TERM_WITHIN_MS));
    }
    let epoch = Instant::now();
    let prompts = spec.prompts.iter().map(|prompt| prompt.pattern.as_str());
    let rules = spec.outcomes.iter().map(|rule| rule.pattern.as_str());
    let Surroundings { environment, browser, login, .. } = around;
    let mut thread = Thread {
        machine: Machine::new(&spec, 0),
        terminal: Terminal::of(spec.terminal),
        words: Words::new(prompts.chain(rules)),
        wanted: Wanted::new(&spec.url_prefixes, spec.url_pattern.as_deref()),
        user_code: spec.user_code_pattern.as_deref().and_then(|pattern| Regex::new(pattern).ok()),
        secrets: Vec::new(),
        keys: None,
        pid: None,
        kill_at: None,
        listener: None,
        account: None,
        newer_than_ms: clock::wall_ms(),
        spec,
        environment,
        browser,
        login,
        inputs,
    };
    let now = || u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let first = thread.start().unwrap_or_else(|(outcome, detail)| Input::NotStarted { outcome, detail });
    thread.take(first, now());
    while !thread.machine.is_over() {
        let wait = thread.deadline().map_or(Duration::MAX, |at| Duration::from_millis(at.saturating_sub(now())));
        let input = match feed.recv_timeout(wait) {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => Input::Tick,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        thread.take(input, now());
    }
}

struct Thread {
    spec: LoginSpec,
    machine: Machine,
    terminal: Terminal,
    words: Words,
    wanted: Wanted,
    user_code: Option<Regex>,
    /// What must not be told: codes that were typed or shown.
    secrets: Vec<Sensitive>,
    keys: Option<File>,
    pid: Option<i32>,
    kill_at: Option<u64>,
    listener: Option<Listener>,
    account: Option<Account>,
    newer_than_ms: u64,
    environment: Environment,
    browser: Arc<Browser>,
    login: Arc<Login>,
    inputs: Sender<Input>,
}

/// A callback port that is looked for.
#[derive(Debug, Clone, Copy)]
struct Listener {
    port: u16,
    look_at: u64,
    until: u64,
}

impl Thread {
    fn start(&mut self) -> Result<Input, (Outcome, String)> {
        let broken = |doing: &str, error: std::io::Error| (Outcome::CliExited, format!("{doing}: {error}"));
        self.browser.wait_for_tool(self.spec.command.first().map_or("the tool", String::as_str));
        let account = self.environment.account(&self.spec.user);
        let account = account.map_err(|error| broken("find the home directory", error))?;
        let home = PathBuf::from(&account.home);
        if self.environment.home.is_none() {
            not_in_memory(&home).map_err(|why| (Outcome::CliExited, format!("the tool is not started: {why}")))?;
        }
        place(&account, &self.spec.files).map_err(|(path, error)| broken(&format!("place {path}"), error))?;
        watch_files(home, self.spec.credentials.clone(), self.newer_than_ms, self.inputs.clone())
            .map_err(|error| broken("watch the credential files", error))?;
        let port = self.spec.callback.as_ref().and_then(|callback| callback.port);
        if port.is_some_and(is_listening) {
            self.machine.port_was_busy();
        }
        let tool = tool::start(&self.environment, &account, &self.spec);
        let tool = tool.map_err(|error| match error.kind() {
            ErrorKind::NotFound => (Outcome::ToolMissing, format!("start the tool: {error}")),
            _ => broken("start the tool", error),
        })?;
        let pid = i32::try_from(tool.child.id()).unwrap_or_default();
        let keys = tool.input.try_clone().map_err(|error| broken("keep the tool's terminal", error))?;
        (self.keys, self.pid, self.account) = (Some(keys), Some(pid), Some(account));
        attend(tool, self.inputs.clone()).map_err(|error| broken("attend to the tool", error))?;
        Ok(Input::Started { pid })
    }

    fn take(&mut self, input: Input, now: u64) {
        match input {
            Input::Output(bytes) => self.read(&bytes, now),
            Input::Shim(url) if !self.wanted.is_login(url.expose()) => {}
            Input::Code(code) => {
                self.secrets.push(code.clone());
                self.step(Input::Code(code), now);
            }
            Input::Exited { code, signal, .. } => {
                // The tool's last act may have been to write the file.
                if let Some(account) = &self.account {
                    let (home, since) = (account.home.as_ref(), self.newer_than_ms);
                    let verdict = credentials::check(home, &self.spec.credentials, since, true);
                    self.step(Input::Files(verdict), now);
                }
                let last_words = self.terminal.last_words(&self.secrets);
                if let Some(pid) = self.pid.take() {
                    tool::kill_rest(pid);
                }
                (self.kill_at, self.listener) = (None, None);
                self.step(Input::Exited { code, signal, last_words }, now);
            }
            Input::Tick => {
                if self.kill_at.is_some_and(|at| at <= now) {
                    self.kill(now);
                }
                self.look_for_listener(now);
                self.step(Input::Tick, now);
            }
            input => self.step(input, now),
        }
    }

    fn read(&mut self, bytes: &[u8], now: u64) {
        let answers = self.terminal.write(bytes);
        self.type_in(&answers);
        if let Some(url) = self.terminal.url(&self.wanted) {
            self.step(Input::Screen(url), now);
        }
        if let Some(code) = self.user_code.as_ref().and_then(|pattern| self.terminal.user_code(pattern)) {
            if !self.secrets.contains(&code) {
                self.secrets.push(code.clone());
            }
            self.step(Input::UserCode(code), now);
        }
        let prompts = self.spec.prompts.len();
        for number in self.words.write(bytes) {
            let input = match number.checked_sub(prompts) {
                None => Input::Asked(number),
                Some(rule) => Input::Said { rule, words: self.words.line(number, &self.secrets) },
            };
            self.step(input, now);
        }
    }

    fn step(&mut self, input: Input, now: u64) {
        for output in self.machine.take(input, now) {
            match output {
                Output::Emit(event) => self.login.emit(event),
                Output::Open(url) => {
                    self.await_listener(&url, now);
                    let inputs = self.inputs.clone();
                    self.browser.open_in_background(url, move |shown| {
                        drop(inputs.send(shown.map_or_else(Input::NotShown, |()| Input::Opened)));
                    });
                }
                Output::Type { text, enter } => {
                    self.words.mark();
                    let end = if enter { self.terminal.line_end() } else { "" };
                    let keys = Sensitive::new(format!("{}{end}", text.expose()));
                    self.type_in(keys.expose().as_bytes());
                }
                Output::Confirm => self.confirm(),
                Output::Kill => self.kill(now),
            }
        }
    }

    fn type_in(&mut self, bytes: &[u8]) {
        // A tool that does not read loses what is typed; it will end or time out.
        if let Some(keys) = &mut self.keys {
            let _ = keys.write_all(bytes);
        }
    }

    /// The tool's listener is expected where the URL leads back to.
    fn await_listener(&mut self, url: &Sensitive, now: u64) {
        let port = (self.spec.flow == Flow::Loopback).then(|| redirect_port(url)).flatten();
        self.listener = port.map(|port| Listener { port, look_at: now, until: now + LISTENING_WITHIN_MS });
        self.look_for_listener(now);
    }

    fn look_for_listener(&mut self, now: u64) {
        let Some(listener) = self.listener.filter(|listener| listener.look_at <= now) else { return };
        if is_listening(listener.port) {
            self.listener = None;
            self.step(Input::Listening(listener.port), now);
        } else {
            let again = Listener { look_at: now + LISTENING_EVERY_MS, ..listener };
            self.listener = Some(again).filter(|again| again.look_at <= again.until);
        }
    }

    fn confirm(&self) {
        let (environment, spec, inputs) = (self.environment.clone(), self.spec.clone(), self.inputs.clone());
        let Some(account) = self.account.clone() else { return };
        let started = crate::spawn("confirm", move || {
            let tool::Answer { ok, code, signal } = tool::confirms(&environment, &account, &spec);
            let _ = inputs.send(Input::Confirmed { ok, code, signal });
        });
        if started.is_err() {
            let _ = self.inputs.send(Input::Confirmed { ok: false, code: None, signal: None });
        }
    }

    /// SIGTERM, and SIGKILL if that was not enough.
    fn kill(&mut self, now: u64) {
        let signal = if self.kill_at.is_some_and(|at| at <= now) { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Some(pid) = self.pid {
            tool::kill(pid, signal);
            self.kill_at = (signal == Signal::SIGTERM).then_some(now + TERM_WITHIN_MS);
        }
    }

    /// When something is due without any input.
    fn deadline(&self) -> Option<u64> {
        [self.machine.deadline(), self.kill_at, self.listener.map(|listener| listener.look_at)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Reads the terminal on one thread and waits for the tool on another.
fn attend(tool: Tool, inputs: Sender<Input>) -> std::io::Result<()> {
    let Tool { mut child, output: mut written, slave, input } = tool;
    drop(input);
    let (done, read_all) = channel::<()>();
    let output = inputs.clone();
    crate::spawn("terminal", move || {
        let mut chunk = [0; 4096];
        // The kernel says EIO when the last user of the tool's end is gone.
        while let Ok(len) = written.read(&mut chunk) {
            if len == 0 || output.send(Input::Output(chunk[..len].to_vec())).is_err() {
                break;
            }
        }
        drop(done);
    })?;
    crate::spawn("tool", move || {
        let (code, signal) = child.wait().map_or((None, None), tool::code_and_signal);
        drop(slave);
        let _ = read_all.recv_timeout(OUTPUT_AFTER_EXIT);
        let _ = inputs.send(Input::Exited { code, signal, last_words: String::new() });
    })
}

/// Looks at the files now and after every change, until the login is over.
fn watch_files(
    home: PathBuf,
    wanted: Vec<CredentialFile>,
    newer_than_ms: u64,
    inputs: Sender<Input>,
) -> std::io::Result<()> {
    let watch = Watch::new(&home, &wanted)?;
    crate::spawn("files", move || {
        loop {
            let verdict = credentials::check(&home, &wanted, newer_than_ms, false);
            if inputs.send(Input::Files(verdict)).is_err() || watch.wait().is_err() {
                return;
            }
        }
    })
}
