//! Waiting for Unix sockets that other services create.
//!
//! Woken by inotify on the socket's directory. The kernel has no event for listen(2), so a socket that exists but refuses
//! is asked again after short growing pauses; a socket that does not exist costs nothing.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

const FIRST_PAUSE_MS: u64 = 2;
const LONGEST_PAUSE_MS: u64 = 250;

/// The sockets that are waited for.
#[derive(Debug)]
pub struct SocketWait {
    inotify: Option<Inotify>,
    pause: u64,
    retry_at: Option<u64>,
}

impl SocketWait {
    /// Nothing is waited for yet. Without inotify (never seen) sockets are asked at the longest pause.
    pub fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Self { inotify, pause: FIRST_PAUSE_MS, retry_at: None }
    }

    /// The descriptor that becomes readable when something changed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// When to ask again without an event, if at all.
    pub fn retry_at(&self) -> Option<u64> {
        self.retry_at
    }

    /// Something changed: take the events off the descriptor and start with short pauses again.
    pub fn woken(&mut self) {
        if let Some(inotify) = &self.inotify {
            let _ = inotify.read_events();
        }
        self.pause = FIRST_PAUSE_MS;
    }

    /// Which of `paths` accept connections now.
    pub fn ready(&mut self, paths: &[String], now: u64) -> Vec<String> {
        let mut ready = Vec::new();
        self.retry_at = None;
        for path in paths {
            self.watch(Path::new(path));
            match UnixStream::connect(path) {
                Ok(_) => ready.push(path.clone()),
                Err(error) if error.kind() == ErrorKind::NotFound && self.inotify.is_some() => {}
                Err(_) => self.retry_at = Some(now + self.pause),
            }
        }
        if self.retry_at.is_some() {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE_MS);
        }
        ready
    }

    /// Watches the directory, or the nearest one above it that exists. Watching one again changes nothing.
    fn watch(&self, path: &Path) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        if let Some(inotify) = &self.inotify {
            let _ = path.ancestors().skip(1).find(|dir| inotify.add_watch(*dir, flags).is_ok());
        }
    }
}

impl Default for SocketWait {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::readable_before;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::{Duration, Instant};

    #[test]
    fn a_socket_counts_when_it_accepts_and_not_when_it_only_exists() {
        let dir = std::env::temp_dir().join(format!("airlock-wait-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let paths = vec![dir.join("later/X1").display().to_string()];
        let mut wait = SocketWait::new();
        assert_eq!(wait.ready(&paths, 0), Vec::<String>::new());
        assert_eq!(wait.retry_at(), None, "nothing to ask again while it does not exist");

        // Its directory appears, then a socket that nobody listens on (the rest of a server that died).
        std::fs::create_dir(dir.join("later")).unwrap();
        let woken =
            |wait: &SocketWait| readable_before(wait.fd().unwrap(), Instant::now() + Duration::from_secs(10)).unwrap();
        assert!(woken(&wait));
        wait.woken();
        assert_eq!(wait.ready(&paths, 10), Vec::<String>::new());
        drop(UnixListener::bind(&paths[0]).unwrap());
        assert!(woken(&wait));
        wait.woken();
        assert_eq!(wait.ready(&paths, 20), Vec::<String>::new());
        assert_eq!(wait.retry_at(), Some(20 + FIRST_PAUSE_MS));
        assert_eq!(wait.ready(&paths, 30), Vec::<String>::new());
        assert_eq!(wait.retry_at(), Some(30 + 2 * FIRST_PAUSE_MS));

        std::fs::remove_file(&paths[0]).unwrap();
        let listener = UnixListener::bind(&paths[0]).unwrap();
        let ready = wait.ready(&paths, 40);
        assert!(UnixStream::connect(&paths[0]).is_ok());
        drop(listener);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((ready, wait.retry_at()), (paths, None));
    }
}
