//! Where the blobs of an image are: a layout's directory, a tar archive, a registry.
//!
//! A document is small and its digest is checked here before anything reads it. A layer is handed out as a stream; whoever
//! unpacks it compares the digest at its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::document::Digest;
use super::error::OciError;
use super::remote::Remote;
use crate::digest;
use crate::tarball::{ArchiveError, Entry, Kind, Limits, Stored, read_entries, shown, unpack_file};

/// Largest document that is read (registries refuse larger manifests as well).
pub(super) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Links from one member of an archive to another; `docker save` used one for each repeated layer.
const MEMBER_LINKS: usize = 8;

/// A place of blobs.
#[derive(Debug)]
pub(super) enum Blobs {
    Directory(PathBuf),
    Archive(Members),
    Registry(Remote),
}

impl Blobs {
    /// A document, checked against its digest and size.
    pub(super) fn document(&self, digest: &Digest, size: Option<u64>, what: &str) -> Result<Vec<u8>, OciError> {
        let bytes = match self {
            Self::Registry(remote) => remote.document(digest, what)?,
            Self::Directory(_) | Self::Archive(_) => read_document(self.layer(digest, what)?, what)?,
        };
        if let Some(size) = size.filter(|size| *size != bytes.len() as u64) {
            return Err(mismatch(what, format!("{size} bytes"), format!("{} bytes", bytes.len())));
        }
        let actual = digest::of_bytes(&bytes);
        if actual != digest.hex() {
            return Err(mismatch(what, digest.to_string(), format!("sha256:{actual}")));
        }
        Ok(bytes)
    }

    /// The bytes of a blob, unchecked.
    pub(super) fn layer(&self, digest: &Digest, what: &str) -> Result<Box<dyn Read + '_>, OciError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                let missing = || OciError::BlobMissing { blob: what.to_owned() };
                // Not opened if it is a pipe or a device: that would wait, or do something.
                if !fs::metadata(&path).map_err(|_| missing())?.is_file() {
                    return Err(missing());
                }
                Ok(Box::new(File::open(&path).map_err(|source| OciError::Read { path, source })?))
            }
            Self::Archive(members) => Ok(Box::new(members.open(&name, what)?)),
            Self::Registry(remote) => Ok(Box::new(remote.blob(digest, what)?)),
        }
    }
}

pub(super) fn mismatch(blob: &str, wanted: String, actual: String) -> OciError {
    OciError::DigestMismatch { blob: blob.to_owned(), wanted, actual }
}

/// Reads a document to its end, which must come soon.
pub(super) fn read_document(from: impl Read, what: &str) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    let read = from.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|source| OciError::Fetch { blob: what.to_owned(), source })?;
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(OciError::DocumentTooLarge { document: what.to_owned(), limit: DOCUMENT_LIMIT });
    }
    Ok(bytes)
}

/// The files of a tar archive, read where they are.
#[derive(Debug)]
pub(super) struct Members {
    plain: PathBuf,
    places: BTreeMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    File(Stored),
    Link(String),
}

impl Members {
    /// Reads the list of an archive; a compressed one is unpacked to `scratch` first.
    pub(super) fn of(archive: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let what = archive.display().to_string();
        let plain = if is_compressed(archive).map_err(|source| ArchiveError::Read { what: what.clone(), source })? {
            let plain = scratch.join("archive.tar");
            unpack_file(archive, &what, &plain, Limits::DEFAULT)?;
            plain
        } else {
            archive.to_owned()
        };
        let mut places = BTreeMap::new();
        for Entry { path, kind, .. } in read_entries(&plain, &what, false, Limits::DEFAULT)? {
            let name = shown(&path);
            let place = match kind {
                Kind::File(stored) => Place::File(stored),
                Kind::HardLink(target) => Place::Link(shown(&target)),
                Kind::Symlink(target) => match beside(&path, &target.to_string_lossy()) {
                    Some(target) => Place::Link(target),
                    None => {
                        let target = target.to_string_lossy().into_owned();
                        return Err(ArchiveError::LinkEscapes { entry: name.clone(), link: name, target });
                    }
                },
                _ => continue,
            };
            places.insert(name, place);
        }
        Ok(Self { plain, places })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub(super) fn open(&self, name: &str, what: &str) -> Result<std::io::Take<File>, OciError> {
        let mut name = name;
        for _ in 0..MEMBER_LINKS {
            match self.places.get(name) {
                Some(Place::File(stored)) => {
                    let open = || -> std::io::Result<_> {
                        let mut file = File::open(&self.plain)?;
                        file.seek(SeekFrom::Start(stored.offset))?;
                        Ok(file.take(stored.len))
                    };
                    return open().map_err(|source| OciError::Read { path: self.plain.clone(), source });
                }
                Some(Place::Link(target)) => name = target,
                None => break,
            }
        }
        Err(OciError::BlobMissing { blob: what.to_owned() })
    }
}

/// Where a relative link of an archive leads, if it stays inside.
fn beside(path: &[std::ffi::OsString], target: &str) -> Option<String> {
    let mut parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.pop();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part.to_owned()),
        }
    }
    Some(parts.join("/"))
}

/// Whether a file begins as one of the compressed forms does. A tar begins with the name of its first member.
fn is_compressed(path: &Path) -> std::io::Result<bool> {
    let mut first = Vec::new();
    File::open(path)?.take(6).read_to_end(&mut first)?;
    let magics: [&[u8]; 5] =
        [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"\xfd7zXZ\0", b"BZh", &[0x04, 0x22, 0x4d, 0x18]];
    Ok(magics.iter().any(|magic| first.starts_with(magic)))
}
