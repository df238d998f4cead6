//! Processes of ours: started in a session of their own, recognized by pid and start time, watched through a pidfd.
//!
//! ```text
//! spawn / open ──> running ──(pidfd readable)──> exited(code | signal | unknown)
//! ```
//! An exit is an event, never polled for. A child of ours is reaped by a task that lives as long as the runtime, whether or
//! not anybody waits. A process that another daemon started is watched too, but its status is its parent's secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use airlock_domain::vmm::{ProcessId, VmmExit};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::sync::watch;

use crate::netns::{Netns, NetnsError};
use crate::sys;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The namespace to start it in is not usable.
    #[error("enter the namespace for {program:?}")]
    Namespace {
        /// The program.
        program: OsString,
        /// What went wrong.
        #[source]
        source: NetnsError,
    },
    /// The file for its output cannot be opened.
    #[error("open {} for the output of {program:?}", path.display())]
    Output {
        /// The program.
        program: OsString,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be started.
    #[error("start {program:?}")]
    Spawn {
        /// The program.
        program: OsString,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It runs, but cannot be watched; it was killed.
    #[error("watch process {pid}")]
    Watch {
        /// Its pid.
        pid: i32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A signal was refused.
    #[error("send signal {signal} to process {pid}")]
    Signal {
        /// Its pid.
        pid: i32,
        /// The signal's number.
        signal: i32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What to start. Environment: `PATH` and `LC_ALL=C` only.
#[derive(Debug)]
pub struct SpawnSpec<'a> {
    /// Program, looked up in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Working directory.
    pub dir: PathBuf,
    /// File that its stdout and stderr are appended to; none: nowhere.
    pub output: Option<PathBuf>,
    /// Namespace to run in; none: ours.
    pub netns: Option<&'a Netns>,
}

/// A running (or ended) process. Clones watch the same one.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    id: ProcessId,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<VmmExit>>,
}

/// The children that this process started and that have not ended. A status can be read once only, so everybody who opens one
/// of them gets a clone of the handle that will read it.
static CHILDREN: Mutex<BTreeMap<i32, ProcessHandle>> = Mutex::new(BTreeMap::new());

fn children() -> MutexGuard<'static, BTreeMap<i32, ProcessHandle>> {
    // The map is whole after every statement that holds the lock.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process: own session, no inherited descriptors, inside the namespace. Must be called on a tokio runtime.
pub async fn spawn(spec: SpawnSpec<'_>) -> Result<ProcessHandle, ProcessError> {
    let program = spec.program.clone();
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).current_dir(&spec.dir).env_clear().env("LC_ALL", "C");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(path) = &spec.output {
        let open = || -> io::Result<(File, File)> {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) =
            open().map_err(|source| ProcessError::Output { program: program.clone(), path: path.clone(), source })?;
        command.stdout(out).stderr(err);
    }
    let netns = spec.netns.map(Netns::open_fd).transpose();
    let netns = netns.map_err(|source| ProcessError::Namespace { program: program.clone(), source })?;
    sys::enter_before_exec(&mut command, netns, true);
    // fork and exec block until the child has called exec.
    let spawned =
        tokio::task::spawn_blocking(move || command.spawn()).await.unwrap_or_else(|join| Err(io::Error::other(join)));
    let mut child = spawned.map_err(|source| ProcessError::Spawn { program, source })?;
    let pid = child.id().cast_signed();
    // Nobody else reaps it, so neither the pid nor its start time can change before we have them.
    let watch = || -> io::Result<ProcessHandle> {
        let start_ticks = start_ticks(pid).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = sys::pidfd_open(pid)?;
        // Locked until it is in: its end must find it there.
        let mut children = children();
        let handle = ProcessHandle::watching(ProcessId { pid, start_ticks }, pidfd)?;
        children.insert(pid, handle.clone());
        Ok(handle)
    };
    watch().map_err(|source| {
        let _ = child.kill();
        let _ = child.wait();
        ProcessError::Watch { pid, source }
    })
}

impl ProcessHandle {
    /// The process of `id`, perhaps started by an earlier daemon; none if it is gone or another process has its pid now.
    pub fn open(id: ProcessId) -> Result<Option<Self>, ProcessError> {
        let error = |source| ProcessError::Watch { pid: id.pid, source };
        if let Some(child) = children().get(&id.pid).filter(|child| child.id == id && child.exit().is_none()) {
            return Ok(Some(child.clone()));
        }
        let pidfd = match sys::pidfd_open(id.pid) {
            Ok(pidfd) => pidfd,
            // EINVAL: a thread's id, so certainly not what was recorded.
            Err(gone) if matches!(gone.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        // The descriptor pins the process, so what /proc says afterwards is said about it.
        if !is_alive(id) {
            return Ok(None);
        }
        Self::watching(id, pidfd).map(Some).map_err(error)
    }

    fn watching(id: ProcessId, pidfd: OwnedFd) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd);
        let (ended, exit) = watch::channel(None);
        let ready = sys::readable(pidfd.as_fd().try_clone_to_owned()?)?;
        tokio::spawn(async move {
            // The error case is a runtime that is shutting down.
            if ready.readable().await.is_ok() {
                // Forgotten before the pid becomes free for another child.
                children().remove(&id.pid);
                ended.send_replace(Some(reap(ready.get_ref())));
            }
        });
        Ok(Self { id, pidfd, exit })
    }

    /// Pid and start time.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits for its end. Returns at once if it ended already; may be awaited by many.
    pub async fn exited(&self) -> VmmExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        match ended {
            Some(exit) => exit,
            // The watching task went down with its runtime: nothing will be known any more.
            None => std::future::pending().await,
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<VmmExit> {
        *self.exit.borrow()
    }

    /// Sends a signal to exactly this process. Returns false if it had ended already.
    pub fn signal(&self, signal: i32) -> Result<bool, ProcessError> {
        match sys::pidfd_send_signal(self.pidfd.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(gone) if gone.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(source) => Err(ProcessError::Signal { pid: self.id.pid, signal, source }),
        }
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<bool, ProcessError> {
        self.signal(libc::SIGKILL)
    }
}

/// Whether the process of `id` runs: same pid, same start time, not a zombie.
pub fn is_alive(id: ProcessId) -> bool {
    let stat = std::fs::read(format!("/proc/{}/stat", id.pid)).unwrap_or_default();
    parse_stat(&stat).is_some_and(|(state, ticks)| ticks == id.start_ticks && !matches!(state, b'Z' | b'X' | b'x'))
}

/// Start time of a pid, if it exists.
pub fn start_ticks(pid: i32) -> Option<u64> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?).map(|(_, ticks)| ticks)
}

/// State and field 22 of `/proc/<pid>/stat`. The program's name (field 2) may hold spaces and parentheses: count from its last.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((*fields.first()?.as_bytes().first()?, fields.get(19)?.parse().ok()?))
}

fn reap(pidfd: &OwnedFd) -> VmmExit {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => VmmExit { code: Some(code), signal: None },
        Ok(WaitStatus::Signaled(_, signal, _)) => VmmExit { code: None, signal: Some(signal as i32) },
        // ECHILD: not our child.
        _ => VmmExit { code: None, signal: None },
    }
}

#[cfg(test)]
mod tests;
