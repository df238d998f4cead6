//! Writes an initramfs: a cpio archive in the kernel's `newc` format, uncompressed and the same bytes for the same input.
//!
//! Source of the format: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. Every entry belongs to
//! root, has modification time 0 and an inode number by position. Nothing here touches files; nothing can fail but a
//! name or a size that does not fit the format's 32-bit fields, which is refused.

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Parents must be added before what lies in them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// An entry that the format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} of {size} bytes does not fit a newc archive")]
pub struct EntryTooLarge {
    /// Path in the archive.
    pub path: String,
    /// Size of its content.
    pub size: usize,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with mode 0755.
    pub fn directory(&mut self, path: &str) -> Result<(), EntryTooLarge> {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), EntryTooLarge> {
        self.entry(path, REGULAR | (mode & 0o7777), (0, 0), content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), EntryTooLarge> {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device, readable and writable by root only.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), EntryTooLarge> {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        // The trailer is an ordinary entry with inode 0 by convention; its name is what ends the archive.
        self.header("TRAILER!!!", [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.pad_to(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), EntryTooLarge> {
        let size =
            u32::try_from(content.len()).map_err(|_| EntryTooLarge { path: path.to_owned(), size: content.len() })?;
        self.entries += 1;
        let links = if mode & TYPE == DIRECTORY { 2 } else { 1 };
        let name = path.trim_start_matches('/');
        self.header(name, [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1]);
        self.bytes.extend_from_slice(content);
        self.pad_to(4);
        Ok(())
    }

    /// ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor; namesize and check follow.
    fn header(&mut self, name: &str, fields: [u32; 11]) {
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(format!("{:08x}{:08x}", name.len() + 1, 0).as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad_to(4);
    }

    fn pad_to(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("/dev").unwrap();
        archive.character_device("/dev/console", 5, 1).unwrap();
        archive.file("/init", 0o755, b"#!ELF").unwrap();
        archive.symlink("/airlock-open", "airlock-agent").unwrap();
        archive.finish()
    }

    /// The reference reader agrees on every type, mode, size, device number and name.
    #[test]
    fn cpio_reads_what_we_wrote() {
        let mut cpio = Command::new("cpio")
            .args(["-tv", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let lines: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
                "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
                "-rwxr-xr-x 1 0 0 5 Jan 1 1970 init",
                "lrwxrwxrwx 1 0 0 13 Jan 1 1970 airlock-open -> airlock-agent",
            ]
        );
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 512, 0);
    }
}
