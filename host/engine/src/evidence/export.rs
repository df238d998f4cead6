//! A bundle as one file: a gzipped tar, the same bytes for the same bundle.

use std::fs::File;
use std::io::{self, Read, Write};

use airlock_domain::EvidenceId;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::read::{missing_or, open};
use super::{Bundles, EvidenceError};

/// A bundle that is about to be written out. Its files are open: it stays whole when the bundle is removed meanwhile.
#[derive(Debug)]
pub struct Export {
    id: EvidenceId,
    saved_ms: i64,
    files: Vec<(String, u64, File)>,
}

impl Bundles {
    /// Opens a bundle for export.
    pub fn export(&self, id: EvidenceId) -> Result<Export, EvidenceError> {
        let opened = || -> io::Result<Export> {
            let saved_ms = self.summary(id)?.saved_ms;
            let mut files = Vec::new();
            for (name, _) in self.files(id)? {
                let file = open(&self.path(id).join(&name))?;
                files.push((name, file.metadata()?.len(), file));
            }
            Ok(Export { id, saved_ms, files })
        };
        opened().map_err(|error| missing_or(error, id))
    }
}

impl Export {
    /// Name of the file to offer.
    pub fn file_name(&self) -> String {
        format!("{}.tar.gz", self.id)
    }

    /// Writes `ev-<vm id>/<file>` for every file: by name, owned by root, mode 0600, of the time the bundle was saved.
    pub fn write(self, out: impl Write) -> io::Result<()> {
        let gzip = GzBuilder::new().mtime(0).write(out, Compression::default());
        let mut archive = Builder::new(gzip);
        for (name, size, file) in self.files {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o600);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(u64::try_from(self.saved_ms / 1000).unwrap_or(0));
            header.set_size(size);
            archive.append_data(&mut header, format!("{}/{name}", self.id), file.take(size))?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}
