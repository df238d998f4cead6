//! The thread of one login: feeds the machine with what the tool, its files and the host do, and does what it says.
//!
//! ```text
//! reader (terminal) --\
//! waiter (exit) -------+--> inputs --> machine --> outputs: host, browser, status command, signals
//! watcher (files) ----/
//! shim, host --------/
//! ```
//!
//! The threads end with the tool; the watcher ends when the login does.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use airlock_protocol::Sensitive;
use airlock_protocol::accounts::Account;
use airlock_protocol::message::{CredentialFile, LoginSpec};
use nix::sys::signal::Signal;

use super::Login;
use super::credentials::{self, Watch};
use super::machine::{Input, Machine, Output};
use super::terminal::Terminal;
use super::tool::{self, Environment, Tool};
use crate::browser::Browser;
use crate::clock;

/// How long the terminal may still bring output after the tool ended (a background child may hold it open).
const OUTPUT_AFTER_EXIT: Duration = Duration::from_millis(500);
/// How long a tool has to end by itself when it is cancelled.
const TERM_WITHIN_MS: u64 = 2000;

/// Runs a login to its end.
pub fn run(
    spec: LoginSpec,
    environment: &Environment,
    browser: &Arc<Browser>,
    login: &Arc<Login>,
    inputs: Sender<Input>,
    feed: Receiver<Input>,
) {
    let epoch = Instant::now();
    let mut thread = Thread {
        machine: Machine::new(&spec, 0),
        terminal: Terminal::new(),
        typed: Vec::new(),
        master: None,
        pid: None,
        kill_at: None,
        account: None,
        newer_than_ms: clock::wall_ms(),
        spec,
        environment: environment.clone(),
        browser: browser.clone(),
        login: login.clone(),
        inputs,
    };
    let now = || u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let first = thread.start().unwrap_or_else(|error| Input::NotStarted(format!("start the tool: {error}")));
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
    typed: Vec<Sensitive>,
    master: Option<File>,
    pid: Option<i32>,
    kill_at: Option<u64>,
    account: Option<Account>,
    newer_than_ms: u64,
    environment: Environment,
    browser: Arc<Browser>,
    login: Arc<Login>,
    inputs: Sender<Input>,
}

impl Thread {
    fn start(&mut self) -> std::io::Result<Input> {
        self.browser.wait_for_tool(self.spec.command.first().map_or("the tool", String::as_str));
        let account = self.environment.account(&self.spec.user)?;
        let home = PathBuf::from(&account.home);
        watch_files(home, self.spec.credentials.clone(), self.newer_than_ms, self.inputs.clone())?;
        let tool = tool::start(&self.environment, &account, &self.spec)?;
        let pid = i32::try_from(tool.child.id()).map_err(std::io::Error::other)?;
        (self.master, self.pid, self.account) = (Some(tool.master.try_clone()?), Some(pid), Some(account));
        attend(tool, self.inputs.clone())?;
        Ok(Input::Started { pid })
    }

    fn take(&mut self, input: Input, now: u64) {
        match input {
            Input::Output(bytes) => {
                let answers = self.terminal.write(&bytes);
                self.type_in(&answers);
                if let Some(url) = self.terminal.url(&self.spec.url_prefixes) {
                    self.step(Input::Screen(url), now);
                }
            }
            Input::Code(code) => {
                self.type_in(format!("{}\r", code.expose()).as_bytes());
                self.typed.push(code);
            }
            Input::Exited { code, signal, .. } => {
                // The tool's last act may have been to write the file.
                if let Some(account) = &self.account {
                    let verdict = credentials::check(account.home.as_ref(), &self.spec.credentials, self.newer_than_ms);
                    self.step(Input::Files(verdict), now);
                }
                let last_words = self.terminal.last_words(&self.typed);
                (self.pid, self.kill_at) = (None, None);
                self.step(Input::Exited { code, signal, last_words }, now);
            }
            Input::Tick => {
                if self.kill_at.is_some_and(|at| at <= now) {
                    self.kill(now);
                }
                self.step(Input::Tick, now);
            }
            input => self.step(input, now),
        }
    }

    fn step(&mut self, input: Input, now: u64) {
        for output in self.machine.take(input, now) {
            match output {
                Output::Emit(event) => self.login.emit(event),
                Output::Open(url) => {
                    let inputs = self.inputs.clone();
                    self.browser.open_in_background(url, move || drop(inputs.send(Input::Opened)));
                }
                Output::Confirm => self.confirm(),
                Output::Kill => self.kill(now),
            }
        }
    }

    fn type_in(&mut self, bytes: &[u8]) {
        // A tool that does not read loses what is typed; it will end or time out.
        if let Some(master) = &mut self.master {
            let _ = master.write_all(bytes);
        }
    }

    fn confirm(&self) {
        let (environment, spec, inputs) = (self.environment.clone(), self.spec.clone(), self.inputs.clone());
        let Some(account) = self.account.clone() else { return };
        let started = crate::spawn("confirm", move || {
            let _ = inputs.send(Input::Confirmed(tool::confirms(&environment, &account, &spec)));
        });
        if started.is_err() {
            let _ = self.inputs.send(Input::Confirmed(false));
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
        [self.machine.deadline(), self.kill_at].into_iter().flatten().min()
    }
}

/// Reads the terminal on one thread and waits for the tool on another.
fn attend(tool: Tool, inputs: Sender<Input>) -> std::io::Result<()> {
    let Tool { mut child, mut master, slave } = tool;
    let (done, read_all) = channel::<()>();
    let output = inputs.clone();
    crate::spawn("terminal", move || {
        let mut chunk = [0; 4096];
        // The kernel says EIO when the last user of the tool's end is gone.
        while let Ok(len) = master.read(&mut chunk) {
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
            let verdict = credentials::check(&home, &wanted, newer_than_ms);
            if inputs.send(Input::Files(verdict)).is_err() || watch.wait().is_err() {
                return;
            }
        }
    })
}
