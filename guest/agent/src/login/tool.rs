//! The tool as a child: on a pseudo terminal, in a session of its own, as the user of the login.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use airlock_protocol::accounts::Account;
use airlock_protocol::message::LoginSpec;
use airlock_protocol::paths::GUEST_BIN;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{self, Signal, killpg};
use nix::unistd::{Pid, ttyname};

use super::terminal::{COLUMNS, ROWS};
use crate::launch;

/// How long the status command may take.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// Where things are in this guest.
#[derive(Debug, Clone)]
pub struct Environment {
    /// This program, which is also the launcher.
    pub agent: PathBuf,
    /// Directory of `airlock-open` and the other programs of ours; first in `PATH`.
    pub bin: PathBuf,
    /// X display number.
    pub display: Option<u8>,
    /// In place of the account's home directory.
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
    /// Our end of its terminal.
    pub master: File,
    /// The tool's end, to be kept until the tool ended: a terminal that nobody else has open reads as hung up.
    pub slave: OwnedFd,
}

/// Starts the tool of a login.
pub fn start(environment: &Environment, account: &Account, spec: &LoginSpec) -> io::Result<Tool> {
    let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None)?;
    let tty = ttyname(&pty.slave)?;
    chown(&tty, Some(account.uid), None)?;
    close_on_exec(&pty.master)?;
    close_on_exec(&pty.slave)?;
    let child = environment.command(account, &tty.display().to_string(), &spec.command, &spec.env).spawn()?;
    Ok(Tool { child, master: File::from(pty.master), slave: pty.slave })
}

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Ends a tool and everything in its group.
pub fn kill(pid: i32, signal: Signal) {
    // The launcher makes the tool a group leader, so its pid is the group's; before it did, there is only the launcher.
    let pid = Pid::from_raw(pid);
    if killpg(pid, signal).is_err() {
        let _ = signal::kill(pid, signal);
    }
}

/// Exit code and signal of a status.
pub fn code_and_signal(status: ExitStatus) -> (Option<i32>, Option<i32>) {
    (status.code(), status.signal())
}

/// Runs the status command; `false` if it says no, cannot be started or takes too long.
pub fn confirms(environment: &Environment, account: &Account, spec: &LoginSpec) -> bool {
    let Some(status) = &spec.status_command else { return false };
    let Ok(mut child) = environment.command(account, "-", &status.args, &spec.env).spawn() else { return false };
    let (pid, yes) = (i32::try_from(child.id()).unwrap_or(0), status.exit_code);
    let (done, ended) = channel();
    let waiting = crate::spawn("status", move || {
        let _ = done.send(child.wait().is_ok_and(|ended| ended.code() == Some(yes)));
    });
    if waiting.is_err() {
        return false;
    }
    ended.recv_timeout(STATUS_WITHIN).unwrap_or_else(|_| {
        kill(pid, Signal::SIGKILL);
        false
    })
}
