//! Why an archive is refused. Whatever an archive says, nothing is written where it points: it is refused before.

use std::io;

/// A fault of an archive, or of reading it. Paths of entries are shown as the archive has them.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("read {what}")]
    Read {
        /// Which archive.
        what: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// It ends too early, or what it holds is no tar or does not decompress.
    #[error("{what} is damaged or incomplete")]
    Damaged {
        /// Which archive.
        what: String,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// It is compressed in a way that nothing here reads.
    #[error("{what} is compressed with {compression}, which is not read here")]
    Compression {
        /// Which archive.
        what: String,
        /// By its first bytes or its media type.
        compression: String,
    },
    /// An entry's own name leads out of the root.
    #[error("entry {entry:?} {how}")]
    PathEscapes {
        /// Its name.
        entry: String,
        /// How.
        how: &'static str,
    },
    /// An entry lies behind a link that leads out of the root.
    #[error("entry {entry:?} lies behind the link {link:?}, which leads to {target:?}")]
    LinkEscapes {
        /// Its name.
        entry: String,
        /// The link, of an earlier entry or layer.
        link: String,
        /// Where that leads.
        target: String,
    },
    /// An entry lies behind links without end.
    #[error("entry {entry:?} lies behind links that lead in a circle")]
    LinkLoop {
        /// Its name.
        entry: String,
    },
    /// An entry lies below something that is no directory.
    #[error("entry {entry:?} lies below {parent:?}, which is no directory")]
    ParentNotDirectory {
        /// Its name.
        entry: String,
        /// What is there.
        parent: String,
    },
    /// A hard link names something that is not there, or a directory.
    #[error("entry {entry:?} is a hard link to {target:?}, which is no file of the image")]
    HardLink {
        /// Its name.
        entry: String,
        /// What it names.
        target: String,
    },
    /// A whiteout without a name, or with one that leads elsewhere.
    #[error("entry {entry:?} is a whiteout of nothing that a name could stand for")]
    Whiteout {
        /// Its name.
        entry: String,
    },
    /// A name that no filesystem holds.
    #[error("entry {entry:?} has a name that no filesystem holds: {problem}")]
    Name {
        /// Its name, as far as it can be shown.
        entry: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A kind of entry that has no meaning in a root.
    #[error("entry {entry:?} is {kind}, which a root cannot hold")]
    Kind {
        /// Its name.
        entry: String,
        /// What it is.
        kind: String,
    },
    /// It becomes larger than is allowed.
    #[error("{what} unpacks to more than {limit} bytes")]
    TooLarge {
        /// Which archive.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// It becomes absurdly larger than it is.
    #[error("{what} unpacks to more than {limit} times its size: {read} bytes became {unpacked}")]
    Bomb {
        /// Which archive.
        what: String,
        /// Allowed ratio.
        limit: u64,
        /// Compressed bytes so far.
        read: u64,
        /// Bytes they became.
        unpacked: u64,
    },
    /// It has too many entries.
    #[error("{what} has more than {limit} entries")]
    TooManyEntries {
        /// Which archive.
        what: String,
        /// The limit.
        limit: u64,
    },
}

impl ArchiveError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "archive_unreadable",
            Self::Damaged { .. } => "archive_damaged",
            Self::Compression { .. } => "archive_compression_unsupported",
            Self::PathEscapes { .. } => "archive_path_escapes",
            Self::LinkEscapes { .. } | Self::LinkLoop { .. } => "archive_link_escapes",
            Self::ParentNotDirectory { .. } => "archive_parent_not_directory",
            Self::HardLink { .. } => "archive_hard_link_broken",
            Self::Whiteout { .. } => "archive_whiteout_invalid",
            Self::Name { .. } => "archive_name_invalid",
            Self::Kind { .. } => "archive_entry_unsupported",
            Self::TooLarge { .. } | Self::Bomb { .. } | Self::TooManyEntries { .. } => "archive_bomb",
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check that the file exists and can be read",
            Self::Damaged { .. } => "fetch or write the archive again",
            Self::Compression { .. } => "use a plain, gzip, zstd or xz archive",
            Self::PathEscapes { .. } | Self::LinkEscapes { .. } | Self::LinkLoop { .. } => {
                "do not trust this archive: no tool writes such an entry by accident. Name entries relative to the root, without \"..\" \
                 and without links before them"
            }
            Self::ParentNotDirectory { .. } | Self::HardLink { .. } => {
                "write the archive again: its entries contradict each other"
            }
            Self::Whiteout { .. } | Self::Name { .. } => {
                "do not trust this archive: no tool writes such an entry by accident"
            }
            Self::Kind { .. } => "write the archive again with plain files, without --sparse and without volumes",
            Self::TooLarge { .. } | Self::Bomb { .. } | Self::TooManyEntries { .. } => {
                "do not trust this archive, or build a smaller root"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn the_chain_reaches_the_errno() {
        let err = ArchiveError::Read { what: "x.tar".into(), source: io::Error::from_raw_os_error(5) };
        let errno = err.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
        assert_eq!((err.code(), errno.raw_os_error()), ("archive_unreadable", Some(5)));
        assert!(!err.to_string().contains(&errno.to_string()));
    }
}
