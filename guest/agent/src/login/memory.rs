//! Whether what is written to a directory stays in memory. A credential must never reach a disk, not even a guest's.
//!
//! Init mounts the image read-only with an overlay in memory over it; this looks whether that is how it is: the directory is
//! on a file system in memory, or on an overlay in a machine without any device that can be written, and without swap.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

/// `ramfs` (linux/magic.h), of an initramfs that was never switched from.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// What would reach a disk, if anything.
pub fn not_in_memory(dir: &Path) -> Result<(), String> {
    let kind = statfs(dir).map_err(|errno| format!("look at the file system of {}: {errno}", dir.display()))?;
    if let Some(swap) = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().nth(1) {
        let name = swap.split_ascii_whitespace().next().unwrap_or_default();
        return Err(format!("memory is swapped to {name}"));
    }
    match kind.filesystem_type() {
        TMPFS_MAGIC | RAMFS_MAGIC => Ok(()),
        OVERLAYFS_SUPER_MAGIC => match writable_device(Path::new("/sys/block")) {
            None => Ok(()),
            Some(device) => Err(format!("{} is an overlay, and {device} can be written", dir.display())),
        },
        FsType(magic) => Err(format!("{} is on a file system of type {magic:#x}", dir.display())),
    }
}

/// A block device with a size that is not read-only.
fn writable_device(sys: &Path) -> Option<String> {
    let devices = fs::read_dir(sys).ok()?.flatten();
    devices.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).find_map(|(name, path)| {
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
        // Devices that are memory themselves: they hold nothing when the machine is gone.
        let is_memory = ["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix));
        (!is_memory && read("ro") == "0" && read("size") != "0").then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_can_be_written_and_has_a_size_counts() {
        let sys = std::env::temp_dir().join(format!("airlock-block-{}", std::process::id()));
        let device = |name: &str, ro: &str, size: &str| {
            fs::create_dir_all(sys.join(name)).unwrap();
            fs::write(sys.join(name).join("ro"), ro).unwrap();
            fs::write(sys.join(name).join("size"), size).unwrap();
        };
        device("vda", "1\n", "9000\n");
        device("loop0", "0\n", "9000\n");
        device("sr0", "0\n", "0\n");
        let none = writable_device(&sys);
        device("vdb", "0\n", "9000\n");
        let one = writable_device(&sys);
        fs::remove_dir_all(&sys).unwrap();
        assert_eq!((none, one), (None, Some("vdb".to_owned())));
    }

    #[test]
    fn memory_is_told_from_a_disk() {
        let said = not_in_memory(Path::new("/proc")).unwrap_err();
        assert!(said.contains("/proc") || said.contains("swapped"), "{said}");
        assert!(not_in_memory(Path::new("/nonexistent")).unwrap_err().contains("/nonexistent"));
    }
}
