//! ext4 root filesystems: written so that the same directory gives the same bytes, and looked at before one is taken over.
//!
//! `mkfs.ext4 -d` (e2fsprogs 1.47.0) leaves the build's own time in each inode and takes names as the directory gives them. So
//! the names are put in order first, and debugfs sets every time afterwards. No journal: the root is mounted read-only. No loop
//! device, no mount. Layout of the superblock: the kernel's `Documentation/filesystems/ext4/super.rst`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::error::ImageError;
use crate::reporter::Reporter;
use crate::tool::ToolRun;
use crate::tree::remove;

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
/// Superblock, descriptors, bitmaps, and what growing directories need.
const SPARE: u64 = 16 << 20;
const SUPERBLOCK: u64 = 1024;

/// Why an ext4 filesystem is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ext4Fault {
    /// No superblock.
    #[error("it has no ext4 superblock")]
    NoExt4,
    /// It says that it is larger than its file.
    #[error("it says that it has {wanted} bytes and its file has {actual}")]
    Truncated {
        /// By the superblock.
        wanted: u64,
        /// Of the file.
        actual: u64,
    },
    /// It was mounted when it was copied, or never unmounted.
    #[error("its journal has to be replayed, which a read-only mount cannot do")]
    NeedsRecovery,
    /// The kernel noted errors in it, or it was not unmounted.
    #[error("it is marked as {state}")]
    NotClean {
        /// How.
        state: &'static str,
    },
}

/// Refuses a filesystem that a read-only mount would refuse, or that is not whole.
pub(crate) fn check(path: &Path) -> Result<(), ImageError> {
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let file = File::open(path)?;
        let mut superblock = vec![0; 1024];
        let len = file.metadata()?.len();
        if len >= SUPERBLOCK + 1024 {
            file.read_exact_at(&mut superblock, SUPERBLOCK)?;
        }
        Ok((superblock, len))
    };
    let (superblock, len) = read().map_err(ImageError::io("read", path))?;
    match judge(&superblock, len) {
        None => Ok(()),
        Some(source) => Err(ImageError::RootRefused { path: path.to_owned(), source }),
    }
}

fn judge(superblock: &[u8], len: u64) -> Option<Ext4Fault> {
    let word =
        |at: usize| superblock.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let half =
        |at: usize| superblock.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
    if half(0x38) != 0xef53 || word(0x18) > 6 {
        return Some(Ext4Fault::NoExt4);
    }
    let incompatible = word(0x60);
    let high = if incompatible & 0x80 != 0 { u64::from(word(0x150)) << 32 } else { 0 };
    let blocks = u64::from(word(0x04)) | high;
    let wanted = blocks.saturating_mul(1024 << word(0x18));
    if wanted > len {
        return Some(Ext4Fault::Truncated { wanted, actual: len });
    }
    if incompatible & 0x4 != 0 {
        return Some(Ext4Fault::NeedsRecovery);
    }
    match half(0x3a) {
        state if state & 0x2 != 0 => Some(Ext4Fault::NotClean { state: "having errors" }),
        state if state & 0x1 == 0 => Some(Ext4Fault::NotClean { state: "still mounted" }),
        _ => None,
    }
}

/// How to write one.
pub(crate) struct Wanted<'a> {
    pub(crate) uuid: &'a str,
    /// Seconds since the Unix epoch, for every time in it.
    pub(crate) epoch: u64,
    /// Bytes of the file; as few as possible if nothing is said.
    pub(crate) size: Option<u64>,
}

/// Writes the directory `root` as a filesystem to `image`. The directory is used up: its names are moved.
pub(crate) fn write(
    wanted: &Wanted<'_>,
    root: &Path,
    image: &Path,
    reporter: &mut Reporter<'_>,
) -> Result<(), ImageError> {
    let content = Content::of(root).map_err(ImageError::io("measure", root))?;
    let needed = content.needed();
    let size = wanted.size.unwrap_or(needed);
    if size < needed {
        return Err(ImageError::RootTooSmall { size, needed });
    }
    let ordered = root.with_extension("ordered");
    remove(&ordered)?;
    put_in_order(root, &ordered).map_err(ImageError::io("order the names of", root))?;
    let epoch = wanted.epoch.to_string();
    let path = image.to_string_lossy().into_owned();
    let extended = format!("hash_seed={},lazy_itable_init=1,root_owner=0:0", wanted.uuid);
    // As many inodes as a distribution would have for that size, and never fewer than there are files.
    let inodes = (content.inodes + 1024).max(size / (16 << 10)).to_string();
    let mut make = ToolRun::new(
        "mkfs.ext4",
        ["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-L", "airlock-root", "-O", "^has_journal", "-N", &inodes],
    );
    make.args.extend(["-U", wanted.uuid, "-E", &extended, "-d"].map(str::to_owned));
    make.args.push(ordered.to_string_lossy().into_owned());
    make.args.extend([path.clone(), (size / BLOCK).to_string()]);
    make.env = vec![("E2FSPROGS_FAKE_TIME".to_owned(), epoch.clone()), ("SOURCE_DATE_EPOCH".to_owned(), epoch.clone())];
    make.writes = image.to_owned();
    make.run(reporter)?;
    // mkfs makes the file as large as the filesystem's last whole group; what was asked for is what is given.
    File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(size))
        .map_err(ImageError::io("size", image))?;
    set_times(image, wanted.epoch, &epoch, reporter)
}

/// What a directory takes.
struct Content {
    inodes: u64,
    blocks: u64,
}

impl Content {
    fn of(root: &Path) -> io::Result<Self> {
        let mut content = Self { inodes: 0, blocks: 0 };
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let meta = fs::symlink_metadata(&path)?;
            content.inodes += 1;
            // Extents of a fragmented file, names of a directory: at most a block more.
            content.blocks += meta.len().div_ceil(BLOCK) + 1;
            if meta.is_dir() {
                for entry in fs::read_dir(&path)? {
                    pending.push(entry?.path());
                }
            }
        }
        Ok(content)
    }

    /// Bytes of a filesystem that holds it, whole blocks.
    fn needed(&self) -> u64 {
        let plain = self.blocks * BLOCK + (self.inodes + 1024) * INODE;
        (plain + plain / 20 + SPARE).next_multiple_of(1 << 20)
    }
}

/// Moves everything into new directories, name by name in order: a memory filesystem lists names as they came.
fn put_in_order(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    fs::create_dir(to)?;
    let mut names = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let (old, new) = (from.join(&name), to.join(&name));
        if fs::symlink_metadata(&old)?.is_dir() {
            put_in_order(&old, &new)?;
        } else {
            fs::rename(&old, &new)?;
        }
    }
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    copy_xattrs(from, to)?;
    fs::set_permissions(to, meta.permissions())?;
    fs::remove_dir(from)
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(from, &mut names)?;
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        let len = rustix::fs::lgetxattr(from, name, &mut value)?;
        rustix::fs::lsetxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

/// Every time of every used inode: access, change, modification, creation.
fn set_times(image: &Path, epoch: u64, fake_time: &str, reporter: &mut Reporter<'_>) -> Result<(), ImageError> {
    let inodes = used_inodes(image).map_err(ImageError::io("read", image))?;
    let mut script = String::new();
    for inode in inodes {
        for field in ["atime", "ctime", "mtime", "crtime"] {
            let _ = writeln!(script, "sif <{inode}> {field} @{epoch}");
        }
        for field in ["atime_extra", "ctime_extra", "mtime_extra", "crtime_extra", "generation"] {
            let _ = writeln!(script, "sif <{inode}> {field} 0");
        }
    }
    let commands = image.with_extension("debugfs");
    fs::write(&commands, script).map_err(ImageError::io("write", &commands))?;
    let mut run = ToolRun::new("debugfs", ["-w", "-f", &commands.to_string_lossy(), &image.to_string_lossy()]);
    run.env = vec![("E2FSPROGS_FAKE_TIME".to_owned(), fake_time.to_owned())];
    run.writes = image.to_owned();
    run.quiet = true;
    run.run(reporter)?;
    remove(&commands)
}

/// Numbers of the inodes in use, from the bitmaps.
fn used_inodes(image: &Path) -> io::Result<Vec<u64>> {
    let mut file = File::open(image)?;
    let mut superblock = vec![0; 1024];
    file.seek(SeekFrom::Start(SUPERBLOCK))?;
    file.read_exact(&mut superblock)?;
    let word = |bytes: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
    };
    let half = |bytes: &[u8], at: usize| u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (blocks, per_group) = (word(&superblock, 0x04), word(&superblock, 0x20));
    let inodes_per_group = word(&superblock, 0x28);
    let descriptor = half(&superblock, 0xfe).max(32);
    let groups = blocks.div_ceil(per_group.max(1));
    let mut found = Vec::new();
    for group in 0..groups {
        let mut bytes = vec![0; usize::try_from(descriptor).unwrap_or(64)];
        // Blocks of 4 KiB: the descriptors are in the second one.
        file.read_exact_at(&mut bytes, BLOCK + group * descriptor)?;
        // INODE_UNINIT: the bitmap was never written, nothing is used.
        if half(&bytes, 0x12) & 0x1 != 0 {
            continue;
        }
        let high = if descriptor >= 64 { word(&bytes, 0x24) << 32 } else { 0 };
        let mut bitmap = vec![0; usize::try_from(inodes_per_group.div_ceil(8)).unwrap_or(0)];
        file.read_exact_at(&mut bitmap, (word(&bytes, 0x04) | high) * BLOCK)?;
        for bit in 0..inodes_per_group {
            let byte = bitmap[usize::try_from(bit / 8).unwrap_or(0)];
            let inode = group * inodes_per_group + bit + 1;
            // The first ten are the filesystem's own, but for the root; the eleventh is lost+found.
            if byte & (1 << (bit % 8)) != 0 && (inode == 2 || inode > 10) {
                found.push(inode);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::digest;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    const UUID: &str = "12345678-1234-1234-1234-123456789abc";

    fn written(order: &[usize], size: Option<u64>) -> Result<(tempfile::TempDir, String), ImageError> {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        for index in order {
            let sub = root.join(format!("d{}", index % 3));
            let _ = fs::create_dir(&sub);
            fs::write(sub.join(format!("file-{index}")), vec![b'x'; index * 1000]).unwrap();
            symlink("somewhere", sub.join(format!("link-{index}"))).unwrap();
        }
        let image = dir.path().join("root.ext4");
        let wanted = Wanted { uuid: UUID, epoch: 1_767_225_600, size };
        write(&wanted, &root, &image, &mut Reporter::new(&mut |_| {}, Cancel::new()))?;
        let digest = digest::of_file(&image).unwrap().0;
        Ok((dir, digest))
    }

    #[test]
    fn the_same_names_give_the_same_bytes_whenever_and_in_whatever_order_they_came() {
        let (first, digest) = written(&[1, 2, 3, 4, 5, 6, 7], None).unwrap();
        // The clock's second is part of a ctime: wait for another one.
        let begun = fs::metadata(first.path()).unwrap().ctime();
        while std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
            < begun.unsigned_abs() + 2
        {
            std::thread::yield_now();
        }
        let (second, other) = written(&[5, 7, 1, 3, 2, 6, 4], None).unwrap();
        let image = |dir: &tempfile::TempDir| dir.path().join("root.ext4");
        assert_eq!(digest, other, "{:?} {:?}", image(&first), image(&second));
        check(&image(&first)).unwrap();
        let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(image(&first)).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
    }

    #[test]
    fn a_size_that_was_asked_for_is_given_and_costs_nothing_until_it_is_used() {
        let (dir, _) = written(&[1, 2], Some(2 << 30)).unwrap();
        let meta = fs::metadata(dir.path().join("root.ext4")).unwrap();
        assert_eq!(meta.len(), 2 << 30);
        assert!(meta.blocks() * 512 < 64 << 20, "{} bytes used", meta.blocks() * 512);
        let err = written(&[1, 2], Some(1 << 20)).unwrap_err();
        assert!(matches!(err, ImageError::RootTooSmall { size, needed } if size == 1 << 20 && needed > size), "{err}");
    }

    #[test]
    fn a_filesystem_that_is_not_whole_or_not_clean_is_refused() {
        let (dir, _) = written(&[1], None).unwrap();
        let image = dir.path().join("root.ext4");
        let bytes = fs::read(&image).unwrap();
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            fs::write(&image, bytes).unwrap();
            match check(&image).unwrap_err() {
                ImageError::RootRefused { source, .. } => source,
                other => panic!("{other}"),
            }
        };
        assert!(matches!(refused(&|bytes| bytes.truncate(bytes.len() / 2)), Ext4Fault::Truncated { .. }));
        assert_eq!(refused(&|bytes| bytes[1024 + 0x38] = 0), Ext4Fault::NoExt4);
        assert_eq!(refused(&|bytes| bytes.truncate(100)), Ext4Fault::NoExt4);
        assert_eq!(refused(&|bytes| bytes[1024 + 0x60] |= 4), Ext4Fault::NeedsRecovery);
        assert_eq!(refused(&|bytes| bytes[1024 + 0x3a] = 0), Ext4Fault::NotClean { state: "still mounted" });
        assert_eq!(refused(&|bytes| bytes[1024 + 0x3a] = 3), Ext4Fault::NotClean { state: "having errors" });
    }
}
