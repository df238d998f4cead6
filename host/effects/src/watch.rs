//! Changes of a directory as events: one inotify instance and one thread for the whole process.
//!
//! The kernel allows 128 inotify instances per user by default, so an instance per VM would end at 128 VMs. A wake-up says
//! "look again", never what changed; wake-ups of one directory are merged. A lost event queue wakes everybody.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::Notify;

/// A directory that cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch directory {}", dir.display())]
pub struct WatchError {
    /// The directory.
    pub dir: PathBuf,
    /// The system's reason (`ENOSPC`: fs.inotify.max_user_watches is used up).
    #[source]
    pub source: io::Error,
}

/// Wakes its holder whenever something in the directory was created, written, renamed or removed.
#[derive(Debug)]
pub struct DirWatch {
    descriptor: WatchDescriptor,
    wake: Arc<Notify>,
}

impl DirWatch {
    /// Starts watching. What happens after this call is never missed.
    pub fn new(dir: &Path) -> Result<Self, WatchError> {
        let error = |errno: Errno| WatchError { dir: dir.to_owned(), source: errno.into() };
        let hub = hub().map_err(error)?;
        let mut watched = hub.watched();
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // The same directory gives the same descriptor again.
        let descriptor = hub.inotify.add_watch(dir, flags).map_err(error)?;
        let wake = Arc::new(Notify::new());
        watched.entry(descriptor).or_default().push(Arc::clone(&wake));
        Ok(Self { descriptor, wake })
    }

    /// Waits until something changed since the last call (or since [`DirWatch::new`]).
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for DirWatch {
    fn drop(&mut self) {
        let Ok(hub) = hub() else { return };
        let mut watched = hub.watched();
        let Some(holders) = watched.get_mut(&self.descriptor) else { return };
        holders.retain(|wake| !Arc::ptr_eq(wake, &self.wake));
        if holders.is_empty() {
            watched.remove(&self.descriptor);
            // Fails if the directory is gone, and the watch with it.
            let _ = hub.inotify.rm_watch(self.descriptor);
        }
    }
}

struct Hub {
    inotify: Inotify,
    watched: Mutex<HashMap<WatchDescriptor, Vec<Arc<Notify>>>>,
}

impl Hub {
    fn watched(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Vec<Arc<Notify>>>> {
        // The map is whole after every statement that holds the lock.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    let watched = self.watched();
                    for event in events {
                        let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                        let holders = watched.iter().filter(|(descriptor, _)| lost || **descriptor == event.wd);
                        holders.flat_map(|(_, wakes)| wakes).for_each(|wake| wake.notify_one());
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "the inotify thread ended; file events are no longer seen");
                    return;
                }
            }
        }
    }
}

fn hub() -> Result<&'static Hub, Errno> {
    static HUB: OnceLock<Result<&'static Hub, Errno>> = OnceLock::new();
    *HUB.get_or_init(|| {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let hub: &'static Hub = Box::leak(Box::new(Hub { inotify, watched: Mutex::default() }));
        let spawned = std::thread::Builder::new().name("inotify".into()).spawn(|| hub.serve());
        spawned.map(|_| hub).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chain;
    use std::time::Duration;

    #[tokio::test]
    async fn wakes_every_holder_and_only_of_its_directory() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b, other) = (
            DirWatch::new(one.path()).unwrap(),
            DirWatch::new(one.path()).unwrap(),
            DirWatch::new(two.path()).unwrap(),
        );
        std::fs::write(one.path().join("x"), "1").unwrap();
        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(a.changed(), b.changed()) }).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), other.changed()).await.is_err());
        drop(a);
        // What the first write left behind (its close) is consumed before the next one.
        let _ = tokio::time::timeout(Duration::from_millis(50), b.changed()).await;
        std::fs::write(one.path().join("x"), "2").unwrap();
        tokio::time::timeout(Duration::from_secs(5), b.changed()).await.unwrap();
    }

    #[test]
    fn errors_keep_their_cause() {
        let error = DirWatch::new(Path::new("/no/such/directory")).unwrap_err();
        assert_eq!(chain(&error), ["watch directory /no/such/directory", "No such file or directory (os error 2)"]);
    }
}
