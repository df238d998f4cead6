//! Files of the state directory: the lock that makes the daemon single, whole-file writes, files for the owner's eyes only.
//!
//! A write is seen whole or not at all, also after a power cut: temporary file, fsync, rename, fsync of the directory.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Removed;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How long a killed process may take to vanish with its locks.
const DYING: Duration = Duration::from_secs(1);

/// Mode of files that only their owner may read.
pub const PRIVATE_FILE: u32 = 0o600;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another daemon works on this state directory.
    #[error("state directory {} is in use by process {}", dir.display(), pid.map_or_else(|| "unknown".into(), |pid| pid.to_string()))]
    InUse {
        /// The state directory.
        dir: PathBuf,
        /// The other daemon's pid, if it wrote it.
        pid: Option<i32>,
    },
    /// The lock file cannot be used.
    #[error("lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error("create directory {}", path.display())]
    CreateDir {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be removed.
    #[error("remove {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// The catalogue's cause code, where the catalogue has one.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Lock { source, .. } | Self::CreateDir { source, .. } | Self::Write { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)).then_some("disk_full")
            }
            Self::Remove { .. } | Self::InUse { .. } => None,
        }
    }
}

/// The right to work on a state directory; given up on drop and by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Takes `<dir>/lock`, making the directory (0700) if needed. The file stays behind: removing it would let two daemons lock two files.
    /// A daemon that was killed holds it until the kernel has taken its memory apart, so one that is in use is asked for again for
    /// up to [`DYING`].
    pub fn take(dir: &Path) -> Result<Self, FileError> {
        let began = Instant::now();
        loop {
            match Self::try_take(dir) {
                Err(FileError::InUse { .. }) if began.elapsed() < DYING => std::thread::sleep(DYING / 20),
                taken => return taken,
            }
        }
    }

    fn try_take(dir: &Path) -> Result<Self, FileError> {
        create_private_dir(dir)?;
        let path = dir.join("lock");
        let error = |source| FileError::Lock { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let mut write = || -> io::Result<()> {
                    file.set_len(0)?;
                    file.rewind()?;
                    writeln!(file, "{}", std::process::id())
                };
                write().map_err(error)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Err(FileError::InUse { dir: dir.to_owned(), pid: text.trim().parse().ok() })
            }
            Err((_, errno)) => Err(error(errno.into())),
        }
    }
}

/// Makes a directory and its parents; the last one with mode 0700. One that exists is left as it is.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    let error = |source| FileError::CreateDir { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(error)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(found) if found.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(error),
    }
}

/// Removes a directory with everything in it.
pub fn remove_dir(path: &Path) -> Result<Removed, FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(Removed::Yes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::WasAbsent),
        Err(source) => Err(FileError::Remove { path: path.to_owned(), source }),
    }
}

/// Names of the entries of a directory, sorted; none if it does not exist.
pub fn entries(path: &Path) -> io::Result<Vec<String>> {
    let listed = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let names = listed.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Replaces `path` by `content` in one step, and waits for the disk. `mode` is the permission bits of the new file, e.g. [`PRIVATE_FILE`].
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    replace_with(path, content, mode, true)
}

/// Replaces `path` by `content` in one step, for a file that need not outlive a power cut.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    replace_with(path, content, mode, false)
}

fn replace_with(path: &Path, content: &[u8], mode: u32, sync: bool) -> Result<(), FileError> {
    let error = |source| FileError::Write { path: path.to_owned(), source };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(error(io::ErrorKind::InvalidInput.into()));
    };
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(temporary);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        // The process's umask may have taken bits away, or a file left by a crash may have others.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if sync { File::open(dir)?.sync_all() } else { Ok(()) }
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        error(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chain;

    #[test]
    fn a_second_daemon_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = StateLock::take(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        // flock(2) belongs to the open file, so a second open in this process competes like another process.
        match StateLock::take(&state) {
            Err(FileError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id().cast_signed())),
            other => panic!("{other:?}"),
        }
        drop(first);
        StateLock::take(&state).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        fs::write(&path, "old").unwrap();
        write_atomic(&path, b"new", PRIVATE_FILE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_keep_their_cause() {
        let error = write_atomic(Path::new("/proc/no/file"), b"", PRIVATE_FILE).unwrap_err();
        assert_eq!(chain(&error), ["write /proc/no/file", "No such file or directory (os error 2)"]);
        assert_eq!(error.cause(), None);
        let full = FileError::Write { path: "/x".into(), source: io::Error::from_raw_os_error(libc::ENOSPC) };
        assert_eq!(full.cause(), Some("disk_full"));
    }
}
