//! Tar archives as images are made of: what compresses them, how large they may become, what their entries may say.
//!
//! An archive is unpacked into one plain tar file ([`stream`]) and read as a list of entries whose contents stay where they
//! are ([`entry`]). Nothing is ever extracted by an archive's own paths: `layers` makes one tree of all entries first.
//! Everything that is wrong with an archive is an [`ArchiveError`].

mod entry;
mod error;
mod stream;

pub(crate) use entry::{Entry, Kind, Meta, Stored, read_entries, shown};
pub use error::ArchiveError;
pub(crate) use stream::{Limits, Unpacked, unpack, unpack_file};

#[cfg(test)]
pub(crate) mod testing;
