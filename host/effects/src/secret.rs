//! Keys in memory and where they are read from; and a process whose memory nobody dumps or swaps.
//!
//! A key is read straight into its page ([`SecretKey`]): it is never on the heap, in a buffer of the runtime or on disk. Files are
//! taken only when nobody but their owner (this user or root) may read them. A failure names the place and leaves nothing.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::sys;
use crate::sys::page::SecretPage;

/// Length of every key, in bytes.
pub const KEY_LEN: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("open the key {place}")]
    Open {
        /// Where.
        place: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key {place} has mode {mode:03o}: others may read it")]
    Exposed {
        /// Where.
        place: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it, who may read and change it.
    #[error("the key {place} belongs to user {owner}, not to {wanted} or root")]
    OtherOwner {
        /// Where.
        place: String,
        /// Its owner.
        owner: u32,
        /// This process's user.
        wanted: u32,
    },
    /// It is no key.
    #[error("the key {place} has {} bytes instead of {KEY_LEN}", if *.len > KEY_LEN { "more".to_owned() } else { .len.to_string() })]
    Length {
        /// Where.
        place: String,
        /// Its length in bytes, as far as it was read.
        len: usize,
    },
    /// There is no memory for it, or no randomness.
    #[error("hold the key {place}")]
    Hold {
        /// Where it is from.
        place: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl KeyError {
    /// Whether there is nothing at that place.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// 32 bytes that never print, never swap, are in no core dump and are wiped at their end.
pub struct SecretKey(SecretPage);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKey").field("locked", &self.0.is_locked()).finish_non_exhaustive()
    }
}

impl SecretKey {
    /// A key that `fill` writes; `place` names it in errors.
    pub fn filled(place: &str, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> Result<Self, KeyError> {
        let hold = |source| KeyError::Hold { place: place.to_owned(), source };
        let mut page = SecretPage::new().map_err(hold)?;
        fill(&mut page.bytes_mut()[..KEY_LEN]).map_err(hold)?;
        Ok(Self(page))
    }

    /// A key of the system's randomness.
    pub fn random(place: &str) -> Result<Self, KeyError> {
        Self::filled(place, |bytes| {
            let mut at = 0;
            while at < bytes.len() {
                at += sys::getrandom(&mut bytes[at..])?;
            }
            Ok(())
        })
    }

    /// The key that a file of this name holds. See the head of this file for what is refused.
    pub fn read_file(path: &Path) -> Result<Self, KeyError> {
        let place = path.display().to_string();
        let file = File::open(path).map_err(|source| KeyError::Open { place: place.clone(), source })?;
        Self::read_open(file, place, 0o077)
    }

    /// The key that a systemd credential holds. Where the service has a user of its own, systemd lets it read by an access control
    /// list, whose mask shows as the group's right to read; the group itself has none.
    pub fn read_credential(path: &Path) -> Result<Self, KeyError> {
        let place = path.display().to_string();
        let file = File::open(path).map_err(|source| KeyError::Open { place: place.clone(), source })?;
        Self::read_open(file, place, 0o037)
    }

    /// The key behind a descriptor that this process inherited: a pipe, a memfd, a file. It is closed, so that no child has it.
    pub fn read_inherited(fd: i32, place: &str) -> Result<Self, KeyError> {
        let fd = sys::take_inherited(fd).map_err(|source| KeyError::Open { place: place.to_owned(), source })?;
        Self::read_open(File::from(fd), place.to_owned(), 0o077)
    }

    fn read_open(mut file: File, place: String, closed: u32) -> Result<Self, KeyError> {
        let open = |source| KeyError::Open { place: place.clone(), source };
        let facts = file.metadata().map_err(open)?;
        let wanted = nix::unistd::geteuid().as_raw();
        // What has no name in a file system (a pipe, a memfd) has no mode that says anything.
        if facts.is_file() && facts.nlink() > 0 {
            let mode = facts.permissions().mode() & 0o777;
            if mode & closed != 0 {
                return Err(KeyError::Exposed { place, mode });
            }
            if facts.uid() != wanted && facts.uid() != 0 {
                return Err(KeyError::OtherOwner { place, owner: facts.uid(), wanted });
            }
        }
        let mut page = SecretPage::new().map_err(|source| KeyError::Hold { place: place.clone(), source })?;
        let mut len = 0;
        while len <= KEY_LEN {
            match file.read(&mut page.bytes_mut()[len..=KEY_LEN]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(open(error)),
            }
        }
        if len != KEY_LEN {
            return Err(KeyError::Length { place, len });
        }
        Ok(Self(page))
    }

    /// Writes the key into a new file that only its owner may read, whole and synced; fails if there is one.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let open = |source| KeyError::Open { place: path.display().to_string(), source };
        let temporary = temporary_of(path);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(self.expose())?;
            file.sync_all()?;
            // A link, unlike a rename, does not replace what is there.
            std::fs::hard_link(&temporary, path)?;
            sync_dir(path)
        };
        let written = write();
        let _ = std::fs::remove_file(&temporary);
        written.map_err(open)
    }

    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        // The page is longer than a key; there is no shorter one.
        self.0.bytes().first_chunk().unwrap_or(&[0; KEY_LEN])
    }

    /// Whether it never leaves RAM.
    pub fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Moves a key file to its place, whatever is there, and waits for the disk.
pub fn replace_key(from: &Path, to: &Path) -> Result<(), KeyError> {
    let done = std::fs::rename(from, to).and_then(|()| sync_dir(to));
    done.map_err(|source| KeyError::Open { place: to.display().to_string(), source })
}

/// Overwrites a key file and removes it. A file system that copies on write may keep the old block: what protects is that no
/// row uses the key any more.
pub fn destroy_key(path: &Path) -> Result<(), KeyError> {
    let destroy = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(&[0; KEY_LEN])?;
        file.sync_all()?;
        std::fs::remove_file(path)?;
        sync_dir(path)
    };
    destroy().map_err(|source| KeyError::Open { place: path.display().to_string(), source })
}

/// An allocator that wipes what is given back: of what passed through (frames of the control channel, parsed credentials, answers)
/// nothing stays in memory that nobody uses any more. The program that holds secrets names it as its global one.
pub use crate::sys::wiping::WipingAllocator;

/// No core dump of this process, no attaching to it and no reading of its memory by others of its user (root still may). Its children
/// are as they would be: exec makes them dumpable again, but the limit of core files stays.
pub fn harden_process() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Keeps this process's memory out of swap, so that nothing of what passes through it (frames, credentials, answers) gets to a disk.
/// False, with nothing done, where it may not lock as much as it likes: then the kernel would refuse what it asks for later.
/// Children are as they would be (mlockall(2)).
pub fn keep_out_of_swap() -> io::Result<bool> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/self").join(name));
    if limit != RLIM_INFINITY && !ignores_the_limit(&read("status")?, &read("uid_map")?) {
        return Ok(false);
    }
    sys::lock_all_memory()?;
    Ok(true)
}

/// Whether the limit of locked memory is none for a process with this `status` and `uid_map` of /proc: CAP_IPC_LOCK counts in the
/// first user namespace only (capabilities(7), user_namespaces(7)).
fn ignores_the_limit(status: &str, uid_map: &str) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
    held & CAP_IPC_LOCK != 0 && uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chain;

    #[test]
    fn a_key_is_written_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let key = SecretKey::random("k").unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(SecretKey::read_file(&path).unwrap().expose(), key.expose());
        assert_ne!(key.expose(), &[0; KEY_LEN]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = SecretKey::random("k").unwrap().write_new(&path).unwrap_err();
        assert_eq!(chain(&again)[1], "File exists (os error 17)");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        let debug = format!("{key:?}");
        assert!(
            !debug.contains(&format!("{}", key.expose()[0])) || debug == "SecretKey { locked: true, .. }",
            "{debug}"
        );
        destroy_key(&path).unwrap();
        assert!(SecretKey::read_file(&path).unwrap_err().is_absent());
    }

    #[test]
    fn what_others_may_read_or_own_or_what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        SecretKey::random("k").unwrap().write_new(&path).unwrap();
        for mode in [0o640, 0o604, 0o644] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(SecretKey::read_file(&path), Err(KeyError::Exposed { mode: found, .. }) if found == mode));
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        SecretKey::read_file(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for (content, told) in [(vec![1; 31], "31 bytes"), (vec![1; 33], "more bytes"), (vec![], "0 bytes")] {
            std::fs::write(&path, content).unwrap();
            let error = SecretKey::read_file(&path).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        if nix::unistd::geteuid().is_root() {
            std::fs::write(&path, [1; 32]).unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(matches!(SecretKey::read_file(&path), Err(KeyError::OtherOwner { owner: 65534, .. })));
        }
        let missing = SecretKey::read_file(&dir.path().join("no/k")).unwrap_err();
        assert!(missing.is_absent() && chain(&missing)[1].contains("os error 2"));
    }

    #[test]
    fn a_key_comes_through_a_pipe_that_is_closed_then() {
        use std::os::fd::IntoRawFd;
        let (read, write) = nix::unistd::pipe().unwrap();
        File::from(write).write_all(&[7; KEY_LEN]).unwrap();
        let fd = read.into_raw_fd();
        assert_eq!(SecretKey::read_inherited(fd, "fd").unwrap().expose(), &[7; KEY_LEN]);
        for bad in [-1, 0, 2, i32::MAX] {
            assert!(matches!(SecretKey::read_inherited(bad, "fd"), Err(KeyError::Open { .. })), "{bad}");
        }
    }

    #[test]
    fn the_limit_of_locked_memory_is_none_for_who_may_lock_on_the_whole_host() {
        let (may, first) = ("Name:\tx\nCapEff:\t000001ffffffffff\n", "         0          0 4294967295\n");
        assert!(ignores_the_limit(may, first));
        assert!(ignores_the_limit("CapEff:\t0000000000004000\n", first));
        assert!(!ignores_the_limit("CapEff:\t000001ffffffbfff\n", first), "everything but CAP_IPC_LOCK");
        assert!(!ignores_the_limit(may, "         0       1000          1\n"), "root of a namespace of its own");
        assert!(!ignores_the_limit("", "") && !ignores_the_limit("CapEff:\tx\n", first));
    }

    #[test]
    fn a_key_is_in_no_core_dump() {
        let key = SecretKey::random("k").unwrap();
        let at = key.expose().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let parsed = range.and_then(|(from, to)| {
                Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
            });
            parsed.is_none_or(|range| !range.contains(&at))
        });
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        let has = |flag| flags.split_whitespace().any(|found| found == flag);
        assert!(has("dd") && has("dc"), "not dumped, not copied to children: {flags}");
        assert_eq!(has("lo"), key.is_locked());
    }
}
