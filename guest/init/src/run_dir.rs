//! Keeps `/run/airlock` where everybody looks for it when an image's init mounts its own /run above ours.
//!
//! The directory is held open and shown again through a bind mount. A failure is said on the console; what runs goes on,
//! only what is started later would not find its program.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

/// The directory, and the kernel's word that mounts changed.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    dir: File,
    mounts: File,
}

impl RunDir {
    /// Holds the directory at `path` as it is now.
    pub fn hold(path: &Path) -> io::Result<Self> {
        let dir = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)?;
        // Not /proc/self: a thread may have a mount namespace of its own.
        let mounts = File::open("/proc/thread-self/mountinfo")?;
        Ok(Self { path: path.to_owned(), dir, mounts })
    }

    /// Has an exceptional condition (POLLPRI) after every change of mounts (proc(5)).
    pub fn changed_fd(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    /// Shows the directory at its path again if something else is there. Returns whether that was needed.
    pub fn restore(&self) -> io::Result<bool> {
        let ours = self.dir.metadata()?;
        if fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(false);
        }
        fs::create_dir_all(&self.path)?;
        let source = format!("/proc/self/fd/{}", self.dir.as_raw_fd());
        // Recursive: the programs are a mount of their own below it.
        mount(Some(source.as_str()), &self.path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        Ok(true)
    }

    /// Waits until no other supervisor lives. The lock is held as long as what is returned.
    pub fn lock(&self) -> io::Result<Flock<File>> {
        // Through the descriptor: the path may show something else.
        let path = format!("/proc/self/fd/{}/supervisor.lock", self.dir.as_raw_fd());
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ready_before;
    use nix::poll::PollFlags;
    use nix::sched::{CloneFlags, unshare};
    use std::time::{Duration, Instant};

    /// In a mount namespace that ends with the test's thread.
    #[test]
    fn what_is_covered_is_shown_again() {
        let base = std::env::temp_dir().join(format!("airlock-run-{}", std::process::id()));
        let (run, path) = (base.join("run"), base.join("run/airlock"));
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::write(path.join("bin/agent"), "x").unwrap();
        let covered = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(None::<&str>, &run, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            fs::create_dir_all(path.join("bin")).unwrap();
            fs::write(path.join("bin/agent"), "ours").unwrap();
            let held = RunDir::hold(&path).unwrap();
            assert!(!held.restore().unwrap());
            let changed =
                |within| ready_before(held.changed_fd(), PollFlags::POLLPRI, Instant::now() + within).unwrap();
            while changed(Duration::ZERO) {}
            mount(None::<&str>, &run, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            assert!(changed(Duration::from_secs(10)), "a mount is heard of");
            assert!(!path.exists());
            let restored = held.restore().unwrap();
            let text = fs::read_to_string(path.join("bin/agent")).unwrap();
            (restored, held.restore().unwrap(), text)
        });
        let outcome = covered.join();
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(outcome.unwrap(), (true, false, "ours".to_owned()));
    }

    #[test]
    fn a_second_supervisor_waits_for_the_first_to_end() {
        let base = std::env::temp_dir().join(format!("airlock-lock-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let first = RunDir::hold(&base).unwrap().lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let dir = RunDir::hold(&base).unwrap();
        let second = std::thread::spawn(move || sender.send(dir.lock().is_ok()));
        let early = receiver.recv_timeout(Duration::from_millis(100));
        drop(first);
        let late = receiver.recv_timeout(Duration::from_secs(10));
        second.join().unwrap().unwrap();
        fs::remove_dir_all(&base).unwrap();
        assert!(early.is_err());
        assert_eq!(late, Ok(true));
    }
}
