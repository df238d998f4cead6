//! One child: its own session, its user, its log.
//!
//! stdout and stderr go to `/run/airlock/log/<name>.log`, which starts anew when it has grown too large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use airlock_protocol::accounts::Account;
use airlock_protocol::guest_config::Service;
use airlock_protocol::paths::{GUEST_BIN, GUEST_RUN};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};

/// Name of the service that is the agent.
pub const AGENT: &str = "agent";
/// What the kernel's choice of a victim is weighed with (proc(5), oom_score_adj).
const AGENT_OOM_SCORE: &str = "-900";

/// A log larger than this is cut when its service is started again: logs live in the guest's memory.
const LOG_LIMIT: u64 = 1 << 20;

/// The log of a service.
pub fn log_path(name: &str) -> PathBuf {
    Path::new(GUEST_RUN).join("log").join(format!("{name}.log"))
}

/// Starts a service. Returns its process id; init reaps it.
pub fn start(service: &Service) -> io::Result<i32> {
    let [program, args @ ..] = service.command.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the service has no command"));
    };
    let account = match &service.user {
        Some(name) => Account::look_up(name, |path| fs::read_to_string(path))?,
        None => Account::root(),
    };
    let log = open_log(&service.name)?;
    let home = Some(&account.home).filter(|home| Path::new(home).is_dir()).map_or("/", String::as_str);
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", format!("{GUEST_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("HOME", &account.home)
        .env("USER", &account.name)
        .env("LOGNAME", &account.name)
        .envs(&service.env)
        .current_dir(service.working_dir.as_deref().unwrap_or(home))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let weight = if service.name == AGENT { AGENT_OOM_SCORE } else { "0" };
    // SAFETY: the closure runs between fork and exec in a process with one thread.
    unsafe { command.pre_exec(move || become_account(&account, weight)) };
    let child = command.spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Own session, no blocked signals, the account's ids. Order matters: groups before the user id is given away.
fn become_account(account: &Account, oom_score: &str) -> io::Result<()> {
    // A machine short of memory loses its programs before it loses the one that says so.
    let _ = fs::write("/proc/self/oom_score_adj", oom_score);
    setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    if account.uid != 0 {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(account.gid))?;
        setuid(Uid::from_raw(account.uid))?;
    }
    // A supervisor that dies takes its services along, so that its successor finds their ports free. Last: a change of user
    // clears it (prctl(2)). PID 1 does not die.
    set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

fn open_log(name: &str) -> io::Result<File> {
    let path = log_path(name);
    let too_large = fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    if too_large {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The last lines that a service wrote, in one, if it wrote any.
pub fn last_words(name: &str) -> Option<String> {
    last_words_in(&log_path(name))
}

fn last_words_in(path: &Path) -> Option<String> {
    const TAIL: u64 = 4096;
    const LINES: usize = 3;
    const LINE: usize = 160;
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let said = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let mut lines: Vec<String> = said.take(LINES).map(|line| line.chars().take(LINE).collect()).collect();
    lines.reverse();
    (!lines.is_empty()).then(|| lines.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_few_and_short() {
        let path = std::env::temp_dir().join(format!("airlock-words-{}", std::process::id()));
        fs::write(&path, "long ago\n\n_XSERVTransmkdir\n(EE) \nFatal server error:\n").unwrap();
        assert_eq!(last_words_in(&path).unwrap(), "_XSERVTransmkdir | (EE) | Fatal server error:");
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert_eq!(last_words_in(&path).unwrap().len(), 160);
        fs::write(&path, "\n \n").unwrap();
        assert_eq!(last_words_in(&path), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(last_words_in(&path), None);
    }
}
