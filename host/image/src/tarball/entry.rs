//! The entries of a plain tar: names checked, kinds known, contents left where they are.
//!
//! Sources of the format: pax (POSIX.1-2017), GNU tar's long names, and the image specification's layer document for
//! whiteouts. A name that is absolute, has `..` in it or does not fit a filesystem is refused here, and so is every kind
//! of entry that no root can hold. What a name leads to is judged when the tree is put together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::ArchiveError;
use super::stream::Limits;

/// Longest name of one part (`NAME_MAX`) and of a whole path or link (`PATH_MAX`).
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;
/// Where pax keeps extended attributes.
const XATTR: &str = "SCHILY.xattr.";
/// Attributes that mean something in a guest. Those of `trusted.` are the host's own (overlayfs reads them) and stay out.
const XATTRS_KEPT: [&str; 3] = ["security.capability", "system.posix_acl_access", "system.posix_acl_default"];
/// Start of a whiteout's name, and the name that makes a directory opaque.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that only the AUFS driver ever used.
const AUFS: &[u8] = b".wh..wh.";

/// One entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Parts of its name; none for the root itself. Of a whiteout: of what it hides.
    pub(crate) path: Vec<OsString>,
    /// Owner, mode, attributes.
    pub(crate) meta: Meta,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What every entry has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with set-id and sticky bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A file, its content in the plain tar.
    File(Stored),
    /// A symbolic link to this, whatever it is.
    Symlink(OsString),
    /// Another name of a file.
    HardLink(Vec<OsString>),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// Hides what layers below have under this name.
    Whiteout,
    /// Hides what layers below have in this directory.
    Opaque,
}

/// Where a content lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Reads all entries of the plain tar at `path`, in order. `layer`: names that begin with `.wh.` are whiteouts.
pub(crate) fn read_entries(path: &Path, what: &str, layer: bool, limits: Limits) -> Result<Vec<Entry>, ArchiveError> {
    let read = |source| ArchiveError::Read { what: what.to_owned(), source };
    let damaged = |source| ArchiveError::Damaged { what: what.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let len = file.metadata().map_err(read)?.len();
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut entries = Vec::new();
    for (index, raw) in archive.entries_with_seek().map_err(damaged)?.enumerate() {
        if index as u64 >= limits.entries {
            return Err(ArchiveError::TooManyEntries { what: what.to_owned(), limit: limits.entries });
        }
        let mut raw = raw.map_err(damaged)?;
        if let Some(entry) = entry(&mut raw, layer).map_err(|fault| fault.of(what))? {
            if let Kind::File(Stored { offset, len: size }) = entry.kind
                && offset.checked_add(size).is_none_or(|end| end > len)
            {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(ArchiveError::Damaged { what: what.to_owned(), source });
            }
            entries.push(entry);
        }
    }
    if entries.is_empty() && len > 0 && !ends_properly(path).map_err(read)? {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "there is no tar in it");
        return Err(ArchiveError::Damaged { what: what.to_owned(), source });
    }
    Ok(entries)
}

/// An archive without entries is two blocks of zeros, or more.
fn ends_properly(path: &Path) -> std::io::Result<bool> {
    let mut block = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(File::open(path)?, 1024), &mut block)?;
    Ok(block.len() == 1024 && block.iter().all(|byte| *byte == 0))
}

/// An entry's name for messages.
pub(crate) fn shown(path: &[OsString]) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// A fault of an entry: a damaged archive does not know its own name yet.
enum Fault {
    Refused(ArchiveError),
    Damaged(std::io::Error),
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        Self::Refused(error)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error)
    }
}

impl Fault {
    fn of(self, what: &str) -> ArchiveError {
        match self {
            Self::Refused(error) => error,
            Self::Damaged(source) => ArchiveError::Damaged { what: what.to_owned(), source },
        }
    }
}

fn entry(raw: &mut tar::Entry<'_, impl std::io::Read>, layer: bool) -> Result<Option<Entry>, Fault> {
    let name = raw.path_bytes().into_owned();
    let text = String::from_utf8_lossy(&name).into_owned();
    let kind = raw.header().entry_type();
    // Records about the archive as a whole.
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let path = parts(&name, &text)?;
    let mut meta = Meta {
        mode: raw.header().mode()? & 0o7777,
        uid: id(raw.header().uid()?, &text)?,
        gid: id(raw.header().gid()?, &text)?,
        xattrs: BTreeMap::new(),
    };
    let mut sparse = false;
    if let Some(records) = raw.pax_extensions()? {
        for record in records {
            let record = record?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
            sparse |= key.starts_with("GNU.sparse.");
            let number = || std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            match (key, key.strip_prefix(XATTR)) {
                (_, Some(name)) if name.starts_with("user.") || XATTRS_KEPT.contains(&name) => {
                    meta.xattrs.insert(name.into(), value.to_owned());
                }
                ("uid", _) => meta.uid = id(number().unwrap_or(u64::MAX), &text)?,
                ("gid", _) => meta.gid = id(number().unwrap_or(u64::MAX), &text)?,
                _ => {}
            }
        }
    }
    let device = || -> Result<(u32, u32), std::io::Error> {
        Ok((raw.header().device_major()?.unwrap_or(0), raw.header().device_minor()?.unwrap_or(0)))
    };
    let unsupported = |kind: &str| ArchiveError::Kind { entry: text.clone(), kind: kind.to_owned() };
    match if layer { mark(&path, &text)? } else { Mark::Plain } {
        Mark::Plain => {}
        Mark::Meaningless => return Ok(None),
        Mark::Hides(path, kind) => return Ok(Some(Entry { path, meta, kind })),
    }
    let kind = match kind {
        _ if sparse => return Err(unsupported("a sparse file").into()),
        kind if kind.is_dir() => Kind::Directory,
        // Before pax a directory was a file whose name ends in a slash.
        kind if kind.is_file() && name.ends_with(b"/") => Kind::Directory,
        kind if kind.is_file() || kind.is_contiguous() => {
            Kind::File(Stored { offset: raw.raw_file_position(), len: raw.size() })
        }
        kind if kind.is_symlink() => {
            let target = raw.link_name_bytes().unwrap_or_default().into_owned();
            if target.is_empty() || target.len() >= PATH_MAX || target.contains(&0) {
                return Err(
                    ArchiveError::Name { entry: text, problem: "where the link leads is empty or too long" }.into()
                );
            }
            Kind::Symlink(OsString::from_vec(target))
        }
        kind if kind.is_hard_link() => {
            let target = raw.link_name_bytes().unwrap_or_default().into_owned();
            let shown = format!("{text} (a hard link to {})", String::from_utf8_lossy(&target));
            Kind::HardLink(parts(&target, &shown)?)
        }
        kind if kind.is_character_special() => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
        kind if kind.is_block_special() => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_gnu_sparse() => return Err(unsupported("a sparse file").into()),
        kind => return Err(unsupported(&format!("of type {:?}", char::from(kind.as_byte()))).into()),
    };
    if path.is_empty() && kind != Kind::Directory {
        return Err(ArchiveError::PathEscapes { entry: text, how: "stands in the place of the root" }.into());
    }
    Ok(Some(Entry { path, meta, kind }))
}

/// What a name means in a layer.
enum Mark {
    /// Nothing but itself.
    Plain,
    /// Nothing any more.
    Meaningless,
    /// That something of the layers below is hidden.
    Hides(Vec<OsString>, Kind),
}

fn mark(path: &[OsString], text: &str) -> Result<Mark, ArchiveError> {
    let Some((name, parent)) = path.split_last() else { return Ok(Mark::Plain) };
    let name = name.as_bytes();
    if name == OPAQUE {
        return Ok(Mark::Hides(parent.to_vec(), Kind::Opaque));
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Mark::Plain) };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(ArchiveError::Whiteout { entry: text.to_owned() });
    }
    if name.starts_with(AUFS) {
        return Ok(Mark::Meaningless);
    }
    let mut path = parent.to_vec();
    path.push(OsString::from_vec(hidden.to_owned()));
    Ok(Mark::Hides(path, Kind::Whiteout))
}

fn parts(name: &[u8], text: &str) -> Result<Vec<OsString>, ArchiveError> {
    let escapes = |how| ArchiveError::PathEscapes { entry: text.to_owned(), how };
    let invalid = |problem| ArchiveError::Name { entry: text.to_owned(), problem };
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    if name.starts_with(b"/") {
        return Err(escapes("is absolute"));
    }
    if name.len() >= PATH_MAX {
        return Err(invalid("it is longer than 4095 bytes"));
    }
    let mut path = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(escapes("has \"..\" in its name")),
            part if part.len() > NAME_MAX => return Err(invalid("a part of it is longer than 255 bytes")),
            part if part.contains(&0) => return Err(invalid("it has a NUL in it")),
            part => path.push(OsString::from_vec(part.to_owned())),
        }
    }
    Ok(path)
}

fn id(value: u64, entry: &str) -> Result<u32, ArchiveError> {
    // The highest number is "nobody in particular" to chown(2).
    let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| ArchiveError::Name { entry: entry.to_owned(), problem: "its owner is no 32-bit number" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::testing::Tar;

    fn read(tar: Tar) -> Result<Vec<Entry>, ArchiveError> {
        read_bytes(&tar.finish())
    }

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_entries(file.path(), "test.tar", true, Limits::DEFAULT)
    }

    fn refused(tar: Tar) -> &'static str {
        read(tar).unwrap_err().code()
    }

    #[test]
    fn every_kind_is_read_with_its_owner_mode_and_attributes() {
        let tar = Tar::new()
            .directory("./", 0o755)
            .owned("etc/shadow", b"secret", (0, 42), 0o640)
            .with_xattr("bin/ping", b"elf", "security.capability", b"\x01\x00\x00\x02cap")
            .with_xattr("bin/odd", b"elf", "trusted.overlay.opaque", b"y")
            .symlink("bin/sh", "/usr/bin/dash")
            .hard_link("bin/ping4", "bin/ping")
            .device("dev/null", b'3', (1, 3))
            .device("dev/vda", b'4', (254, 0))
            .device("run/pipe", b'6', (0, 0));
        let bytes = tar.finish();
        let entries = read_bytes(&bytes).unwrap();
        assert_eq!(entries[0].path, [""; 0]);
        assert_eq!((entries[1].meta.uid, entries[1].meta.gid, entries[1].meta.mode), (0, 42, 0o640));
        let Kind::File(Stored { offset, len }) = entries[1].kind else { panic!("{:?}", entries[1]) };
        let at = usize::try_from(offset).unwrap();
        assert_eq!(&bytes[at..at + usize::try_from(len).unwrap()], b"secret");
        assert_eq!(entries[2].meta.xattrs["security.capability".as_ref() as &std::ffi::OsStr], b"\x01\x00\x00\x02cap");
        assert!(entries[3].meta.xattrs.is_empty());
        assert_eq!(entries[4].kind, Kind::Symlink("/usr/bin/dash".into()));
        assert_eq!(entries[5].kind, Kind::HardLink(vec!["bin".into(), "ping".into()]));
        assert_eq!(entries[6].kind, Kind::CharacterDevice(1, 3));
        assert_eq!(entries[7].kind, Kind::BlockDevice(254, 0));
        assert_eq!(entries[8].kind, Kind::Fifo);
    }

    #[test]
    fn long_names_are_whole() {
        let name = format!("{}/{}", "d".repeat(200), "n".repeat(200));
        let entries = read(Tar::new().file(&name, b"x")).unwrap();
        assert_eq!(shown(&entries[0].path), name);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../etc/passwd", "a/../../b", "a/..", "/etc/passwd", "..", "//etc/passwd", "./../x"] {
            assert_eq!(refused(Tar::new().raw_name(name, b"x")), "archive_path_escapes", "{name}");
        }
        assert_eq!(refused(Tar::new().file("a", b"x").hard_link("b", "../../etc/shadow")), "archive_path_escapes");
        assert_eq!(refused(Tar::new().hard_link("b", "/etc/shadow")), "archive_path_escapes");
        assert_eq!(refused(Tar::new().symlink(".", "/etc")), "archive_path_escapes");
    }

    #[test]
    fn names_that_nothing_holds_are_refused() {
        assert_eq!(refused(Tar::new().file(&"n".repeat(256), b"x")), "archive_name_invalid");
        assert_eq!(refused(Tar::new().file(&"d/".repeat(2100), b"")), "archive_name_invalid");
        assert_eq!(refused(Tar::new().symlink("l", &"x".repeat(5000))), "archive_name_invalid");
    }

    #[test]
    fn whiteouts_hide_names_and_nothing_else() {
        let entries =
            read(Tar::new().file("a/.wh.b", b"").file("a/.wh..wh..opq", b"").file(".wh..wh.plnk", b"")).unwrap();
        let read: Vec<_> = entries.iter().map(|entry| (shown(&entry.path), &entry.kind)).collect();
        assert_eq!(read, [("a/b".to_owned(), &Kind::Whiteout), ("a".to_owned(), &Kind::Opaque)]);
        for name in [".wh.", "a/.wh..", "a/.wh..."] {
            assert_eq!(refused(Tar::new().file(name, b"")), "archive_whiteout_invalid", "{name}");
        }
    }

    #[test]
    fn kinds_that_no_root_holds_are_refused() {
        assert_eq!(refused(Tar::new().device("x", b'V', (0, 0))), "archive_entry_unsupported");
        assert_eq!(refused(Tar::new().with_pax("x", b"x", "GNU.sparse.major", b"1")), "archive_entry_unsupported");
    }

    #[test]
    fn sparse_files_are_refused_however_tar_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 20).unwrap();
        for format in ["gnu", "pax"] {
            let archive = dir.path().join("x.tar");
            let mut tar = std::process::Command::new("tar");
            tar.args(["--sparse", &format!("--format={format}"), "-C"]).arg(dir.path()).arg("-cf").arg(&archive);
            assert!(tar.arg("sparse").status().unwrap().success());
            let err = read_entries(&archive, "x.tar", false, Limits::DEFAULT).unwrap_err();
            assert_eq!(err.code(), "archive_entry_unsupported", "{format}: {err}");
        }
    }

    #[test]
    fn a_tar_that_is_cut_off_or_is_none_is_damaged() {
        let whole = Tar::new().file("a", &[7; 5000]).file("b", b"x").finish();
        assert_eq!(read_bytes(&whole[..3000]).unwrap_err().code(), "archive_damaged");
        assert_eq!(read_bytes(&whole[..700]).unwrap_err().code(), "archive_damaged");
        assert_eq!(read_bytes(&[b'x'; 2048]).unwrap_err().code(), "archive_damaged");
        assert!(read_bytes(&[0; 1024]).unwrap().is_empty());
    }

    #[test]
    fn too_many_entries_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tar = (0..20).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b""));
        std::fs::write(file.path(), tar.finish()).unwrap();
        let limits = Limits { entries: 19, ..Limits::DEFAULT };
        let err = read_entries(file.path(), "test.tar", true, limits).unwrap_err();
        assert!(matches!(err, ArchiveError::TooManyEntries { limit: 19, .. }), "{err}");
    }
}
