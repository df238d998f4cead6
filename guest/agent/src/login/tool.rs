//! The tool as a child: on a pseudo terminal or on pipes, in a session of its own, as the user of the login.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use airlock_protocol::accounts::Account;
use airlock_protocol::login::{Callback, LoginSpec, Terminal};
use airlock_protocol::paths::GUEST_BIN;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{self, Signal, killpg};
use nix::unistd::{Pid, pipe2, ttyname};
use regex_lite::Regex;

use super::terminal::ROWS;
use crate::launch;

/// How long the status command may take.
const STATUS_WITHIN: Duration = Duration::from_secs(10);
/// So much of its output is looked at, in bytes.
const MAX_STATUS: u64 = 64 * 1024;

/// Where things are in this guest.
#[derive(Debug, Clone)]
pub struct Environment {
    /// This program, which is also the launcher.
    pub agent: PathBuf,
    /// Directory of `airlock-open` and the other programs of ours; first in `PATH`.
    pub bin: PathBuf,
    /// X display number.
    pub display: Option<u8>,
    /// In place of the account's home directory; such a one need not be in memory.
    pub home: Option<PathBuf>,
}

impl Environment {
    /// The running guest.
    pub fn guest(display: Option<u8>) -> Self {
        let bin = PathBuf::from(GUEST_BIN);
        Self { agent: bin.join("airlock-agent"), bin, display, home: None }
    }

    /// The user of a login, with a home directory that exists.
    pub fn account(&self, name: &str) -> io::Result<Account> {
        let mut account = launch::account(name)?;
        if let Some(home) = &self.home {
            account.home = home.display().to_string();
        }
        let home = Path::new(&account.home);
        if !home.is_dir() {
            fs::create_dir_all(home)?;
            chown(home, Some(account.uid), Some(account.gid))?;
        }
        Ok(account)
    }

    /// A command that runs as `account` on `tty`, with the environment of every program that we run for a person.
    pub fn command(
        &self,
        account: &Account,
        tty: &str,
        command: &[String],
        extra: &BTreeMap<String, String>,
    ) -> Command {
        let mut launcher = Command::new(&self.agent);
        let bin = self.bin.display();
        launcher
            .args(["launch", &account.name, tty])
            .args(command)
            .env_clear()
            .env("PATH", format!("{bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("BROWSER", format!("{bin}/airlock-open"))
            .envs(self.display.map(|number| ("DISPLAY", format!(":{number}"))))
            .envs(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        launcher
    }
}

/// A tool that was started.
#[derive(Debug)]
pub struct Tool {
    /// The process; its id is also its session's and its group's.
    pub child: Child,
    /// Where its output is read.
    pub output: File,
    /// Where it is typed.
    pub input: File,
    /// The tool's end of a pseudo terminal, to be kept until the tool ended: a terminal that nobody else has open reads as hung
    /// up.
    pub slave: Option<OwnedFd>,
}

/// Starts the tool of a login.
pub fn start(environment: &Environment, account: &Account, spec: &LoginSpec) -> io::Result<Tool> {
    match spec.terminal {
        Terminal::Pty { columns } => on_terminal(environment, account, spec, columns),
        Terminal::Pipes => on_pipes(environment, account, spec),
    }
}

fn on_terminal(environment: &Environment, account: &Account, spec: &LoginSpec, columns: u16) -> io::Result<Tool> {
    let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None)?;
    let tty = ttyname(&pty.slave)?;
    chown(&tty, Some(account.uid), None)?;
    close_on_exec(&pty.master)?;
    close_on_exec(&pty.slave)?;
    let child = command_of(environment, account, &tty.display().to_string(), spec).spawn()?;
    let output = File::from(pty.master);
    Ok(Tool { child, input: output.try_clone()?, output, slave: Some(pty.slave) })
}

fn on_pipes(environment: &Environment, account: &Account, spec: &LoginSpec) -> io::Result<Tool> {
    let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
    let (output, stdout) = pipe2(OFlag::O_CLOEXEC)?;
    // One pipe for both outputs, so that what the tool says keeps its order.
    let stderr = stdout.try_clone()?;
    let mut command = command_of(environment, account, "-", spec);
    let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
    Ok(Tool { child, output: File::from(output), input: File::from(input), slave: None })
}

fn command_of(environment: &Environment, account: &Account, tty: &str, spec: &LoginSpec) -> Command {
    let mut command = environment.command(account, tty, &spec.command, &spec.env);
    for name in &spec.unset_env {
        command.env_remove(name);
    }
    if let Some(Callback { port: Some(port), port_env: Some(name), .. }) = &spec.callback {
        command.env(name, port.to_string());
    }
    command
}

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Ends a tool and everything that it started: its group, and what left the group but not the session.
pub fn kill(pid: i32, signal: Signal) {
    // The launcher makes the tool a group leader, so its pid is the group's; before it did, there is only the launcher.
    let leader = Pid::from_raw(pid);
    if killpg(leader, signal).is_err() {
        let _ = signal::kill(leader, signal);
    }
    for member in in_session(pid).into_iter().filter(|member| *member != pid) {
        let _ = signal::kill(Pid::from_raw(member), signal);
    }
}

/// Ends what a tool that ended left behind. Its own number may be another process's by now.
pub fn kill_rest(pid: i32) {
    for member in in_session(pid) {
        let _ = signal::kill(Pid::from_raw(member), Signal::SIGKILL);
    }
}

/// Processes of the session that `leader` began (proc_pid_stat(5): the sixth field).
fn in_session(leader: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let session = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse::<i32>().ok()
    };
    pids.filter(|pid| session(pid) == Some(leader)).collect()
}

/// Exit code and signal of a status.
pub fn code_and_signal(status: ExitStatus) -> (Option<i32>, Option<i32>) {
    (status.code(), status.signal())
}

/// What came of the status command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether it says yes.
    pub ok: bool,
    /// Exit code.
    pub code: Option<i32>,
    /// Signal; our own if it took too long.
    pub signal: Option<i32>,
}

/// Runs the status command; a no if it says so, cannot be started or takes too long.
pub fn confirms(environment: &Environment, account: &Account, spec: &LoginSpec) -> Answer {
    let no = Answer { ok: false, code: None, signal: None };
    let Some(status) = &spec.status_command else { return no };
    let spec = LoginSpec { command: status.args.clone(), terminal: Terminal::Pipes, ..spec.clone() };
    let Ok(Tool { mut child, output, .. }) = start(environment, account, &spec) else { return no };
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let (done, ended) = channel();
    let waiting = crate::spawn("status", move || {
        let mut said = Vec::new();
        // Its end closes the pipe; so does the signal of who waits for it too long.
        let _ = output.take(MAX_STATUS).read_to_end(&mut said);
        let _ = done.send((child.wait().map_or((None, None), code_and_signal), said));
    });
    if waiting.is_err() {
        return no;
    }
    let answered = ended.recv_timeout(STATUS_WITHIN).or_else(|_| {
        kill(pid, Signal::SIGKILL);
        ended.recv_timeout(STATUS_WITHIN)
    });
    let Ok(((code, signal), said)) = answered else { return no };
    let pattern = status.pattern.as_deref().and_then(|pattern| Regex::new(pattern).ok());
    let matches = pattern.is_none_or(|pattern| pattern.is_match(&String::from_utf8_lossy(&said)));
    Answer { ok: code == Some(status.exit_code) && matches, code, signal }
}
