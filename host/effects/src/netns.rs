//! One named network namespace (`/run/netns/<name>`, the same place as `ip netns`) and the thread that lives in it.
//!
//! Only that thread ever enters: a tokio worker that did would take its other tasks along. Work is handed to it with
//! [`Netns::run`] or [`Netns::call`]; sockets made there belong to the namespace for good and may be used anywhere.
//! A crash while creating leaves at most an empty file under `/run/netns`, which the next creation uses.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Removed;

/// Where named namespaces are, for us and for `ip netns`.
pub const NETNS_DIR: &str = "/run/netns";

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name cannot be a file name.
    #[error("{name:?} cannot name a network namespace")]
    Name {
        /// The name.
        name: String,
    },
    /// `/run/netns` cannot be prepared.
    #[error("prepare {NETNS_DIR}")]
    Directory {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A new namespace was refused (CAP_SYS_ADMIN).
    #[error("create network namespace {name}")]
    Create {
        /// The namespace.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It exists but cannot be opened or entered.
    #[error("enter network namespace {name}")]
    Enter {
        /// The namespace.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be removed.
    #[error("delete network namespace {name}")]
    Delete {
        /// The namespace.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The closure that was handed to the namespace's thread panicked.
    #[error("the work for network namespace {name} panicked")]
    Panicked {
        /// The namespace.
        name: String,
    },
}

type Job = Box<dyn FnOnce() + Send>;

/// A namespace and its thread. Clones share both; the thread ends with the last clone.
#[derive(Clone)]
pub struct Netns {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    file: File,
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Netns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netns").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Netns {
    /// Makes the namespace if it is not there, and opens it. Blocking, about a millisecond.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        let path = path_of(name)?;
        // Two creators must not both mount: the second mount would hide the first.
        let _lock = lock_dir().map_err(|source| NetnsError::Directory { source })?;
        if !is_namespace(&path) {
            let create = |source| NetnsError::Create { name: name.to_owned(), source };
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(create)?;
            // unshare(2) moves the calling thread, so a thread is spent on it.
            let made = path.clone();
            std::thread::scope(|scope| {
                scope
                    .spawn(move || -> io::Result<()> {
                        unshare(CloneFlags::CLONE_NEWNET)?;
                        mount(Some("/proc/thread-self/ns/net"), &made, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                        Ok(())
                    })
                    .join()
            })
            .map_err(|_| NetnsError::Panicked { name: name.to_owned() })?
            .map_err(create)?;
        }
        Self::open(name)
    }

    /// Opens a namespace that exists.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let path = path_of(name)?;
        let enter = |source| NetnsError::Enter { name: name.to_owned(), source };
        let file = File::open(&path).map_err(enter)?;
        let own = file.try_clone().map_err(enter)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, answer) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(format!("netns-{name}"))
            .spawn(move || {
                let result = setns(own.as_fd(), CloneFlags::CLONE_NEWNET);
                let failed = result.is_err();
                let _ = entered.send(result);
                if failed {
                    return;
                }
                while let Ok(job) = queue.recv() {
                    // The sender of the answer is dropped by the unwinding, which the caller sees.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })
            .map_err(enter)?;
        match answer.recv() {
            Ok(Ok(())) => Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), file, jobs }) }),
            Ok(Err(errno)) => Err(enter(errno.into())),
            Err(_) => Err(NetnsError::Panicked { name: name.to_owned() }),
        }
    }

    /// Removes the name. The namespace itself, with every TAP and bridge in it, goes with the last process, socket and clone.
    pub fn delete(name: &str) -> Result<Removed, NetnsError> {
        let path = path_of(name)?;
        let delete = |source| NetnsError::Delete { name: name.to_owned(), source };
        let _lock = lock_dir().map_err(|source| NetnsError::Directory { source })?;
        if is_namespace(&path) {
            umount2(&path, MntFlags::MNT_DETACH).map_err(|errno| delete(errno.into()))?;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(Removed::Yes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::WasAbsent),
            Err(source) => Err(delete(source)),
        }
    }

    /// Whether a namespace of that name exists.
    pub fn exists(name: &str) -> bool {
        path_of(name).is_ok_and(|path| is_namespace(&path))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// A descriptor of it, for setns(2) in a child.
    pub fn open_fd(&self) -> Result<OwnedFd, NetnsError> {
        let file = self.inner.file.try_clone();
        file.map(Into::into).map_err(|source| NetnsError::Enter { name: self.inner.name.clone(), source })
    }

    /// Runs `work` on the namespace's thread and waits for it, blocking.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetnsError> {
        let (result, answer) = mpsc::sync_channel(1);
        self.submit(Box::new(move || drop(result.send(work()))))?;
        answer.recv().map_err(|_| self.panicked())
    }

    /// Runs `work` on the namespace's thread and awaits it. Keep it short: one thread serves all callers.
    pub async fn call<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetnsError> {
        let (result, answer) = tokio::sync::oneshot::channel();
        self.submit(Box::new(move || drop(result.send(work()))))?;
        answer.await.map_err(|_| self.panicked())
    }

    fn submit(&self, job: Job) -> Result<(), NetnsError> {
        self.inner.jobs.send(job).map_err(|_| self.panicked())
    }

    fn panicked(&self) -> NetnsError {
        NetnsError::Panicked { name: self.inner.name.clone() }
    }
}

fn path_of(name: &str) -> Result<PathBuf, NetnsError> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !name.starts_with('.');
    if fits { Ok(Path::new(NETNS_DIR).join(name)) } else { Err(NetnsError::Name { name: name.to_owned() }) }
}

/// Whether `path` is a mounted namespace and not the empty file beneath one.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// `/run/netns`, made a shared mount of its own as `ip netns` does (so that mounts in it are seen everywhere), and locked.
fn lock_dir() -> io::Result<Flock<File>> {
    std::fs::create_dir_all(NETNS_DIR)?;
    let lock = Flock::lock(File::open(NETNS_DIR)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let share = || mount(None::<&str>, NETNS_DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet.
        Err(nix::errno::Errno::EINVAL) => {
            mount(Some(NETNS_DIR), NETNS_DIR, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            share()?;
        }
        other => other?,
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestNetns, chain, skip_unless_root};

    #[test]
    fn is_made_once_entered_and_removed() {
        if skip_unless_root() {
            return;
        }
        let guard = TestNetns::new();
        let first = Netns::create(guard.name()).unwrap();
        let inode = |ns: &Netns| ns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        let second = Netns::create(guard.name()).unwrap();
        assert_eq!(inode(&first), inode(&second));
        assert_ne!(inode(&first), std::fs::read_link("/proc/self/ns/net").unwrap());
        let listed = std::process::Command::new("ip").args(["netns", "list"]).output().unwrap();
        assert!(
            String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.split(' ').next() == Some(guard.name()))
        );
        assert_eq!(Netns::delete(guard.name()).unwrap(), Removed::Yes);
        assert_eq!(Netns::delete(guard.name()).unwrap(), Removed::WasAbsent);
        assert!(!Netns::exists(guard.name()));
    }

    #[test]
    fn a_crash_between_file_and_mount_is_repaired() {
        if skip_unless_root() {
            return;
        }
        let guard = TestNetns::new();
        drop(lock_dir().unwrap());
        File::create(path_of(guard.name()).unwrap()).unwrap();
        assert!(!Netns::exists(guard.name()));
        Netns::create(guard.name()).unwrap();
        assert!(Netns::exists(guard.name()));
    }

    #[test]
    fn a_panic_in_the_work_is_an_error_and_the_thread_lives_on() {
        if skip_unless_root() {
            return;
        }
        let guard = TestNetns::new();
        let ns = Netns::create(guard.name()).unwrap();
        assert!(matches!(ns.run(|| panic!("on purpose")), Err(NetnsError::Panicked { .. })));
        assert_eq!(ns.run(|| 7).unwrap(), 7);
    }

    #[test]
    fn errors_keep_their_cause() {
        assert!(matches!(Netns::open("../etc"), Err(NetnsError::Name { .. })));
        let error = Netns::open("airlock-no-such-namespace").unwrap_err();
        assert_eq!(
            chain(&error),
            ["enter network namespace airlock-no-such-namespace", "No such file or directory (os error 2)"]
        );
    }
}
