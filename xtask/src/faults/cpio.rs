//! Reads an initramfs (cpio, `newc`), changes entries, writes it again. Source of the format: the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// Position of the mode and of the size among the thirteen numbers of a header.
const MODE: usize = 1;
const SIZE: usize = 6;
const NAME_SIZE: usize = 11;
const REGULAR: u32 = 0o100_000;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    fields: [u32; 13],
    content: Vec<u8>,
}

/// An archive in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    entries: Vec<Entry>,
}

impl Archive {
    /// Reads one archive.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let header = bytes.get(at..at + HEADER).with_context(|| format!("the archive is cut at byte {at}"))?;
            ensure!(header.starts_with(MAGIC), "byte {at} of the archive is no header");
            let mut fields = [0; 13];
            for (field, digits) in fields.iter_mut().zip(header[MAGIC.len()..].chunks(8)) {
                *field = u32::from_str_radix(std::str::from_utf8(digits)?, 16)?;
            }
            let name_at = at + HEADER;
            let name_end = name_at + fields[NAME_SIZE] as usize;
            let name = bytes.get(name_at..name_end.saturating_sub(1)).context("the archive is cut in a name")?;
            let name = String::from_utf8(name.to_vec())?;
            if name == TRAILER {
                return Ok(Self { entries });
            }
            let content_at = name_end.next_multiple_of(4);
            let content_end = content_at + fields[SIZE] as usize;
            let content = bytes.get(content_at..content_end).context("the archive is cut in a file")?.to_vec();
            entries.push(Entry { name, fields, content });
            at = content_end.next_multiple_of(4);
        }
    }

    /// The archive's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let trailer =
            Entry { name: TRAILER.into(), fields: [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], content: Vec::new() };
        for entry in self.entries.iter().chain([&trailer]) {
            let mut fields = entry.fields;
            fields[SIZE] = u32::try_from(entry.content.len()).unwrap_or(u32::MAX);
            fields[NAME_SIZE] = u32::try_from(entry.name.len() + 1).unwrap_or(u32::MAX);
            out.extend_from_slice(MAGIC);
            fields.iter().for_each(|field| out.extend_from_slice(format!("{field:08x}").as_bytes()));
            out.extend_from_slice(entry.name.as_bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(&entry.content);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn entry(&mut self, path: &str) -> Result<&mut Entry> {
        let name = path.trim_start_matches('/');
        self.entries.iter_mut().find(|entry| entry.name == name).with_context(|| format!("the initramfs has no {path}"))
    }

    /// The content of a file.
    pub fn content(&mut self, path: &str) -> Result<&mut Vec<u8>> {
        Ok(&mut self.entry(path)?.content)
    }

    /// Changes the permissions of a file.
    pub fn set_mode(&mut self, path: &str, mode: u32) -> Result<()> {
        let entry = self.entry(path)?;
        entry.fields[MODE] = entry.fields[MODE] & !0o7777 | mode;
        Ok(())
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        let (name, before) = (path.trim_start_matches('/'), self.entries.len());
        self.entries.retain(|entry| entry.name != name);
        if self.entries.len() == before {
            bail!("the initramfs has no {path}");
        }
        Ok(())
    }

    /// Gives a file another name.
    pub fn rename(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path)?.name = to.trim_start_matches('/').to_owned();
        Ok(())
    }

    /// Adds a file, or puts it in the place of one.
    pub fn put(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/').to_owned();
        self.entries.retain(|entry| entry.name != name);
        let number = u32::try_from(self.entries.len()).unwrap_or_default() + 100_000;
        let fields = [number, REGULAR | mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        self.entries.push(Entry { name, fields, content: content.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive { entries: Vec::new() };
        archive.put("/init", 0o755, b"#!ELF");
        archive.put("/airlock/config.json", 0o644, b"{}");
        archive
    }

    #[test]
    fn reads_what_it_wrote() {
        let bytes = sample().finish();
        assert_eq!(Archive::parse(&bytes).unwrap().finish(), bytes);
        assert!(Archive::parse(&bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn changes_only_what_it_is_asked() {
        let mut archive = Archive::parse(&sample().finish()).unwrap();
        archive.set_mode("/init", 0o644).unwrap();
        archive.content("/airlock/config.json").unwrap().extend_from_slice(b"\n");
        archive.rename("/init", "/old").unwrap();
        assert!(archive.remove("/init").is_err());
        let mut again = Archive::parse(&archive.finish()).unwrap();
        assert_eq!(again.entry("/old").unwrap().fields[MODE], 0o100_644);
        assert_eq!(again.content("/old").unwrap(), b"#!ELF");
        assert_eq!(again.content("/airlock/config.json").unwrap(), b"{}\n");
    }
}
