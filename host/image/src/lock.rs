//! The lock that keeps two builds of one state directory apart.
//!
//! It is the kernel's (`flock`): whoever dies holding it has released it. Its file says who holds it, for people; what stands
//! there is never trusted to decide anything.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::ImageError;

/// How often a waiting build looks whether it was cancelled: the kernel's own wait cannot be ended by another thread.
const LOOK: Duration = Duration::from_millis(100);

/// The lock, held. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct BuildLock {
    _file: File,
}

impl BuildLock {
    /// Takes the lock for a build of `what`. Held by another one, it calls `on_wait` once with what that one is and waits, or
    /// refuses if `wait` is not wanted.
    pub(crate) fn take(
        path: &Path,
        what: &str,
        wait: bool,
        cancel: &Cancel,
        on_wait: impl FnOnce(&str),
    ) -> Result<Self, ImageError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(ImageError::io("open lock", path))?;
        if !Self::try_take(&file, path)? {
            let mut other = String::new();
            let known = file.read_to_string(&mut other).is_ok() && !other.trim().is_empty();
            if !wait {
                return Err(ImageError::BuildRunning { other: known.then(|| other.trim().to_owned()) });
            }
            on_wait(other.trim());
            while !Self::try_take(&file, path)? {
                cancel.check()?;
                thread::sleep(LOOK);
            }
        }
        // Only words: what cannot be written is not missed.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "{what} in process {}", std::process::id());
        Ok(Self { _file: file })
    }

    fn try_take(file: &File, path: &Path) -> Result<bool, ImageError> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(source)) => Err(ImageError::io("lock", path)(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_build_waits_for_the_first_is_refused_or_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("build.lock");
        let never = |other: &str| panic!("nobody else builds, but {other}");
        let first = BuildLock::take(&path, "build of base", true, &Cancel::new(), never).unwrap();
        let refused = BuildLock::take(&path, "build of base", false, &Cancel::new(), never).unwrap_err();
        let words = format!("build of base in process {}", std::process::id());
        assert!(refused.to_string().contains(&words), "{refused}");

        let begin = |cancel: &Cancel| {
            let (waiting, waits) = std::sync::mpsc::channel();
            let (path, cancel) = (path.clone(), cancel.clone());
            let build = thread::spawn(move || {
                BuildLock::take(&path, "another", true, &cancel, |other| waiting.send(other.to_owned()).unwrap())
                    .map(drop)
            });
            assert_eq!(waits.recv().unwrap(), words);
            build
        };
        let cancel = Cancel::new();
        let cancelled = begin(&cancel);
        cancel.cancel();
        assert_eq!(cancelled.join().unwrap().unwrap_err().code(), "build_cancelled");
        let patient = begin(&Cancel::new());
        assert!(!patient.is_finished());
        drop(first);
        patient.join().unwrap().unwrap();
    }
}
