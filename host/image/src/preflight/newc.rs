//! Reads an initramfs back: uncompressed cpio in the kernel's `newc` form (`buffer-format.rst`). A cut archive is an error that
//! says where.

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Path, without a slash at its start.
    pub path: &'a str,
    /// Type and permission bits.
    pub mode: u32,
    /// Content of a file.
    pub content: &'a [u8],
}

/// Every entry, in order.
pub(super) fn entries(archive: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let cut = || format!("it ends at byte {} inside an entry that begins at {at}", archive.len());
        let header = archive.get(at..at + 110).ok_or_else(cut)?;
        if &header[..6] != b"070701" {
            return Err(format!("byte {at} begins no newc entry"));
        }
        let field = |index: usize| {
            let text = std::str::from_utf8(&header[6 + index * 8..14 + index * 8]).unwrap_or_default();
            usize::from_str_radix(text, 16).map_err(|_| format!("the entry at byte {at} has no numbers"))
        };
        let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
        let name_end = at.saturating_add(110).saturating_add(name_size);
        let name = archive.get(at + 110..name_end).ok_or_else(cut)?;
        let path = std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).unwrap_or_default();
        let start = name_end.next_multiple_of(4);
        let end = start.saturating_add(size);
        let content = archive.get(start..end).ok_or_else(cut)?;
        if path == "TRAILER!!!" {
            return Ok(found);
        }
        found.push(Entry { path, mode: u32::try_from(mode).unwrap_or(0), content });
        at = end.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::Archive;

    #[test]
    fn reads_what_we_write_and_names_the_cut() {
        let mut archive = Archive::new();
        archive.directory("/a").unwrap();
        archive.file("/a/b", 0o755, b"hello").unwrap();
        let bytes = archive.finish();
        let found = entries(&bytes).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].path, found[1].mode & 0o777, found[1].content), ("a/b", 0o755, b"hello".as_slice()));
        for end in [0, 5, 115, 236] {
            assert!(entries(&bytes[..end]).unwrap_err().contains("ends at byte"), "{end}");
        }
        assert!(entries(&[b'x'; 200]).unwrap_err().contains("byte 0"));
    }
}
