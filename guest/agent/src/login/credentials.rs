//! The files that a tool writes when the login succeeded.
//!
//! They count when every one exists, parses, has what the provider's file requires and is newer than the login: an old
//! credential in the home directory is never taken for a new one. A file that is half written does not parse and is
//! looked at again when it changes.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use airlock_protocol::Sensitive;
use airlock_protocol::login::{CapturedFile, CredentialFile};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::document::{self, Wrong};
use crate::clock;

/// The largest credential file, and all of them together, in bytes: they must fit into one frame.
const MAX_FILE: u64 = 256 * 1024;
const MAX_TOTAL: usize = 384 * 1024;

/// What the files look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One does not exist.
    Missing {
        /// Path below the home directory.
        path: String,
    },
    /// One is older than the login.
    Stale {
        /// Path below the home directory.
        path: String,
    },
    /// One is not what the provider's file says.
    Malformed {
        /// Path below the home directory.
        path: String,
        /// What is wrong, without its content.
        why: String,
    },
    /// All are there.
    Complete(Vec<CapturedFile>),
}

/// Looks at the files once. As long as the tool runs, an optional file that is not what it should be may still become so; what
/// it left when it `ended` is taken as it is.
pub fn check(home: &Path, wanted: &[CredentialFile], newer_than_ms: u64, ended: bool) -> Verdict {
    let mut files = Vec::new();
    let mut total = 0;
    for file in wanted {
        match check_one(home, file, newer_than_ms) {
            Ok(captured) => {
                total += captured.content.expose().len();
                files.push(captured);
            }
            Err(Verdict::Missing { .. } | Verdict::Stale { .. }) if file.optional => {}
            Err(_) if file.optional && ended => {}
            Err(verdict) => return verdict,
        }
    }
    if total > MAX_TOTAL {
        let path = wanted.first().map(|file| file.path.clone()).unwrap_or_default();
        return Verdict::Malformed { path, why: format!("is larger than {MAX_TOTAL} bytes with the others") };
    }
    if files.is_empty() {
        Verdict::Missing { path: "the provider names no credential file".to_owned() }
    } else {
        Verdict::Complete(files)
    }
}

fn check_one(home: &Path, wanted: &CredentialFile, newer_than_ms: u64) -> Result<CapturedFile, Verdict> {
    let path = wanted.path.clone();
    let malformed = |why: String| Verdict::Malformed { path: wanted.path.clone(), why };
    // Neither through a link nor waiting for the other end of a pipe: the agent can read what the user cannot.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(home.join(&wanted.path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Verdict::Missing { path }),
        opened => opened.map_err(|error| malformed(format!("cannot be read: {error}")))?,
    };
    let meta = file.metadata().map_err(|error| malformed(error.to_string()))?;
    if !meta.is_file() {
        return Err(malformed("is no regular file".to_owned()));
    }
    let modified_ms =
        u64::try_from(meta.mtime()).unwrap_or(0) * 1000 + u64::try_from(meta.mtime_nsec()).unwrap_or(0) / 1_000_000;
    if modified_ms < newer_than_ms {
        return Err(Verdict::Stale { path });
    }
    if meta.len() > MAX_FILE {
        return Err(malformed(format!("is larger than {MAX_FILE} bytes")));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|_| malformed("is not text".to_owned()))?;
    let content = Sensitive::new(text);
    let expires_ms = match document::check(content.expose(), wanted, newer_than_ms, clock::wall_ms()) {
        Ok(expires_ms) => expires_ms,
        Err(Wrong::Malformed(why)) => return Err(malformed(why)),
        Err(Wrong::Stale(_)) => return Err(Verdict::Stale { path }),
    };
    Ok(CapturedFile { path, mode: meta.mode() & 0o7777, modified_ms, expires_ms, content })
}

/// Wakes when something changes in a directory of the files, also in one that does not exist yet.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    dirs: Vec<PathBuf>,
}

impl Watch {
    /// Starts watching. Look at the files after this, or a change in between is missed.
    pub fn new(home: &Path, wanted: &[CredentialFile]) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut dirs = vec![home.to_owned()];
        for file in wanted {
            let below = Path::new(&file.path).parent().into_iter().flat_map(Path::ancestors);
            dirs.extend(below.filter(|dir| !dir.as_os_str().is_empty()).map(|dir| home.join(dir)));
        }
        dirs.sort();
        dirs.dedup();
        let this = Self { inotify, dirs };
        this.arm();
        Ok(this)
    }

    /// Waits for a change. Look at the files after this.
    pub fn wait(&self) -> nix::Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        let _ = self.inotify.read_events();
        self.arm();
        Ok(())
    }

    /// Watches every directory that exists now; watching one again changes nothing.
    fn arm(&self) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY;
        for dir in self.dirs.iter().filter(|dir| fs::metadata(dir).is_ok_and(|meta| meta.is_dir())) {
            let _ = self.inotify.add_watch(dir, flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("airlock-home-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn wanted() -> Vec<CredentialFile> {
        vec![CredentialFile {
            path: ".tool/deep/c.json".into(),
            required: vec!["/a/token".into()],
            ..CredentialFile::default()
        }]
    }

    fn write(home: &Path, text: &str) {
        fs::create_dir_all(home.join(".tool/deep")).unwrap();
        fs::write(home.join(".tool/deep/c.json"), text).unwrap();
        fs::set_permissions(home.join(".tool/deep/c.json"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn says_what_is_wrong_without_quoting_the_content() {
        let home = Home::new("verdicts");
        assert_eq!(check(&home.0, &wanted(), 0, false), Verdict::Missing { path: ".tool/deep/c.json".into() });
        for (text, why) in [
            ("{\"a\":{\"token\":\"sec", "is not JSON at line 1 column 18"),
            ("{\"a\":{}}", "has no text at /a/token"),
            ("{\"a\":{\"token\":\"\"}}", "has no text at /a/token"),
            ("{\"a\":{\"token\":7}}", "has no text at /a/token"),
        ] {
            write(&home.0, text);
            assert_eq!(
                check(&home.0, &wanted(), 0, false),
                Verdict::Malformed { path: ".tool/deep/c.json".into(), why: why.into() }
            );
        }
        write(&home.0, "{\"a\":{\"token\":\"t\"}}");
        let Verdict::Complete(files) = check(&home.0, &wanted(), 0, false) else { panic!("not complete") };
        assert_eq!((files[0].mode, files[0].content.expose()), (0o600, "{\"a\":{\"token\":\"t\"}}"));
        let later = files[0].modified_ms + 1;
        assert_eq!(check(&home.0, &wanted(), later, false), Verdict::Stale { path: ".tool/deep/c.json".into() });
        assert!(matches!(check(&home.0, &wanted(), later - 1, false), Verdict::Complete(_)));
    }

    #[test]
    fn a_link_or_a_pipe_is_no_credential_and_an_optional_file_may_be_missing() {
        let home = Home::new("kinds");
        write(&home.0, "{\"a\":{\"token\":\"t\"}}");
        let target = home.0.join(".tool/deep/c.json");
        fs::rename(&target, home.0.join("real")).unwrap();
        std::os::unix::fs::symlink(home.0.join("real"), &target).unwrap();
        assert!(matches!(check(&home.0, &wanted(), 0, false), Verdict::Malformed { .. }));
        fs::remove_file(&target).unwrap();
        nix::unistd::mkfifo(&target, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = Verdict::Malformed { path: ".tool/deep/c.json".into(), why: "is no regular file".into() };
        assert_eq!(check(&home.0, &wanted(), 0, false), pipe);
        fs::remove_file(&target).unwrap();
        fs::rename(home.0.join("real"), &target).unwrap();
        let both: Vec<_> = wanted()
            .into_iter()
            .chain([CredentialFile { path: "other.json".into(), optional: true, ..CredentialFile::default() }])
            .collect();
        assert!(matches!(check(&home.0, &both, 0, false), Verdict::Complete(files) if files.len() == 1));
        fs::write(home.0.join("other.json"), "{}").unwrap();
        assert!(matches!(check(&home.0, &both, 0, false), Verdict::Complete(files) if files.len() == 2));
        fs::write(home.0.join("other.json"), "{").unwrap();
        assert!(matches!(check(&home.0, &both, 0, false), Verdict::Malformed { .. }), "half written: it is waited for");
        assert!(matches!(check(&home.0, &both, 0, true), Verdict::Complete(files) if files.len() == 1));
    }

    #[test]
    fn is_woken_by_a_file_in_a_directory_that_comes_later() {
        let home = Home::new("watch");
        let watch = Watch::new(&home.0, &wanted()).unwrap();
        let dir = home.0.clone();
        let writer = std::thread::spawn(move || write(&dir, "{\"a\":{\"token\":\"t\"}}"));
        while !matches!(check(&home.0, &wanted(), 0, false), Verdict::Complete(_)) {
            watch.wait().unwrap();
        }
        writer.join().unwrap();
    }
}
