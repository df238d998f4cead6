//! Processes of ours: started in a session of their own, recognized by pid and start time, watched through a pidfd.
//!
//! ```text
//! hold ──release──┐
//! spawn / open ───┴──> running ──(pidfd readable)──> exited(code | signal | unknown)
//! ```
//! An exit is an event, never polled for. A child of ours is reaped by a task that lives as long as the runtime, whether or
//! not anybody waits. A process that another daemon started is watched too, but its status is its parent's secret.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use airlock_domain::vmm::{ProcessId, VmmExit};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::netns::{Netns, NetnsError};
use crate::sys;

/// Where administrators' programs are; an ordinary user's `PATH` lacks them.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

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
    /// A held process cannot be released: it ended, or never had a gate.
    #[error("release process {pid}")]
    Release {
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
    /// Whether it is the first process of a PID namespace of its own: it sees no other, and whatever it starts ends with it.
    pub pid_namespace: bool,
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

/// A process that waits before its program's first instruction. It has its final pid and start time already; when it is dropped,
/// or whoever holds it dies, it ends without ever having run the program. So a pid can be recorded before there is anything to
/// be recorded about.
#[derive(Debug)]
pub struct HeldProcess {
    handle: ProcessHandle,
    gate: File,
}

impl HeldProcess {
    /// The process.
    pub fn handle(&self) -> &ProcessHandle {
        &self.handle
    }

    /// Lets the program run.
    pub fn release(mut self) -> Result<ProcessHandle, ProcessError> {
        let pid = self.handle.id.pid;
        self.gate.write_all(b"\n").map_err(|source| ProcessError::Release { pid, source })?;
        Ok(self.handle)
    }
}

/// What holds a program back: it waits for a line on its stdin, and ends at the end of it.
const GATE: &str = r#"read -r _ && exec "$0" "$@" </dev/null"#;

/// Starts a process and holds it. Its program is looked up before, so that a missing one is this call's error.
pub async fn hold(spec: SpawnSpec<'_>) -> Result<HeldProcess, ProcessError> {
    let program = spec.program.clone();
    let error = |source| ProcessError::Spawn { program: program.clone(), source };
    if find_program(&program).is_none() {
        return Err(error(io::Error::from_raw_os_error(libc::ENOENT)));
    }
    let args = ["-c".into(), GATE.into(), program.clone()].into_iter().chain(spec.args).collect();
    let (stdin, gate) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| error(errno.into()))?;
    let handle = start(SpawnSpec { program: "/bin/sh".into(), args, ..spec }, || Ok(stdin)).await?;
    Ok(HeldProcess { handle, gate: gate.into() })
}

/// The path of an executable program, by `PATH` and the directories of administrators' programs.
pub fn find_program(name: impl AsRef<Path>) -> Option<PathBuf> {
    let name = name.as_ref();
    let runs = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.components().count() > 1 {
        return Some(name.to_owned()).filter(runs);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(runs)
}

/// Starts a process: own session, no inherited descriptors, inside the namespace. Must be called on a tokio runtime.
pub async fn spawn(spec: SpawnSpec<'_>) -> Result<ProcessHandle, ProcessError> {
    start(spec, null).await
}

fn null() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

async fn start(
    spec: SpawnSpec<'_>,
    stdin: impl FnOnce() -> io::Result<OwnedFd>,
) -> Result<ProcessHandle, ProcessError> {
    let SpawnSpec { program, args, dir, output, netns, pid_namespace } = spec;
    let error = |source| ProcessError::Spawn { program: program.clone(), source };
    let found = find_program(&program).ok_or_else(|| error(io::Error::from_raw_os_error(libc::ENOENT)))?;
    let out = match output {
        Some(path) => {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened.map_err(|source| ProcessError::Output { program: program.clone(), path, source })?.into()
        }
        None => null().map_err(error)?,
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let environment = [OsString::from_iter([OsStr::new("PATH="), &path]), "LC_ALL=C".into()];
    let stdin = stdin().map_err(error)?;
    let argv: Vec<OsString> = [program.clone()].into_iter().chain(args).collect();
    let made = move || {
        let spawn = || sys::spawn_session(&found, &argv, &environment, &dir, [&stdin, &out, &out]);
        if !pid_namespace {
            return spawn();
        }
        // A thread's next child is the first of its new namespace, so a thread is spent on it; it is in the same network
        // namespace as the one that made it. Seen from here the child has one pid from its first instruction on.
        std::thread::scope(|scope| {
            scope.spawn(|| unshare(CloneFlags::CLONE_NEWPID).map_err(io::Error::from).and_then(|()| spawn())).join()
        })
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    };
    // The child has the namespace of the thread that starts it. That thread waits until the child has called exec.
    let spawned = match netns {
        Some(netns) => {
            netns.call(made).await.map_err(|source| ProcessError::Namespace { program: program.clone(), source })?
        }
        None => tokio::task::spawn_blocking(made).await.unwrap_or_else(|join| Err(io::Error::other(join))),
    };
    let pid = spawned.map_err(error)?;
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
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED);
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

/// Every process of the host that is not a zombie. One that ends meanwhile is in it or not.
pub fn all() -> io::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some((state, start_ticks)) = parse_stat(&stat)
            && !matches!(state, b'Z' | b'X' | b'x')
        {
            found.push(ProcessId { pid, start_ticks });
        }
    }
    Ok(found)
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
