//! From a compressed stream to a plain file, hashed on both sides and bounded: a small file must not become a full disk.
//!
//! A stream that ends too early, goes on after its end mark with something else, or grows beyond the limits is refused; the
//! file it was written to is then incomplete and the caller's to throw away.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read, Write};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use sha2::{Digest, Sha256};

use super::error::ArchiveError;
use crate::digest::hex;

/// How large an archive may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of the plain tar.
    pub(crate) bytes: u64,
    /// Entries.
    pub(crate) entries: u64,
    /// Plain bytes per compressed byte...
    pub(crate) ratio: u64,
    /// ...once it is larger than this.
    pub(crate) ratio_from: u64,
}

impl Limits {
    /// Several times what the largest real roots have. Text compresses 5:1, a disk of zeros 1000:1.
    pub(crate) const DEFAULT: Self = Self { bytes: 32 << 30, entries: 2_000_000, ratio: 100, ratio_from: 64 << 20 };
}

/// What came out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// SHA-256 of the stream as it came.
    pub(crate) sha256: String,
    /// Its bytes.
    pub(crate) size: u64,
    /// SHA-256 of the plain tar (the "diff id" of a layer).
    pub(crate) plain_sha256: String,
    /// Its bytes.
    pub(crate) plain_size: u64,
}

/// Unpacks a file; `what` names it in errors.
pub(crate) fn unpack_file(path: &Path, what: &str, to: &Path, limits: Limits) -> Result<Unpacked, ArchiveError> {
    let read = |source| ArchiveError::Read { what: what.to_owned(), source };
    let mut out = File::create(to).map_err(read)?;
    unpack(File::open(path).map_err(read)?, what, &mut out, limits)
}

/// Decompresses `input`, by its first bytes, into `out`.
pub(crate) fn unpack(
    input: impl Read,
    what: &str,
    out: &mut impl Write,
    limits: Limits,
) -> Result<Unpacked, ArchiveError> {
    let seen = Rc::new(Seen::default());
    let counted = Counted { inner: input, seen: seen.clone(), hash: Sha256::new() };
    let failed = |source: io::Error| {
        // Only what the operating system says has a number; everything else is the decoder's complaint.
        let what = what.to_owned();
        if source.raw_os_error().is_some() {
            ArchiveError::Read { what, source }
        } else {
            ArchiveError::Damaged { what, source }
        }
    };
    let mut decoder = Decoder::new(counted, what).map_err(|err| match err {
        Opening::Io(source) => failed(source),
        Opening::Refused(refused) => refused,
    })?;
    let mut plain = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut plain_size: u64 = 0;
    loop {
        let count = decoder.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        plain_size += count as u64;
        if plain_size > limits.bytes {
            return Err(ArchiveError::TooLarge { what: what.to_owned(), limit: limits.bytes });
        }
        let read = seen.bytes.get();
        if plain_size > limits.ratio_from && plain_size / limits.ratio > read {
            let limit = limits.ratio;
            return Err(ArchiveError::Bomb { what: what.to_owned(), limit, read, unpacked: plain_size });
        }
        plain.update(&buffer[..count]);
        out.write_all(&buffer[..count]).map_err(|source| ArchiveError::Read { what: what.to_owned(), source })?;
    }
    let mut counted = decoder.into_inner();
    // What stands behind the end of a compressed stream belongs to its digest too.
    io::copy(&mut counted, &mut io::sink()).map_err(failed)?;
    Ok(Unpacked {
        sha256: hex(&counted.into_hash().finalize()),
        size: seen.bytes.get(),
        plain_sha256: hex(&plain.finalize()),
        plain_size,
    })
}

#[derive(Debug, Default)]
struct Seen {
    bytes: Cell<u64>,
}

/// Counts and hashes what passes.
struct Counted<R> {
    inner: R,
    seen: Rc<Seen>,
    hash: Sha256,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.seen.bytes.set(self.seen.bytes.get() + count as u64);
        Ok(count)
    }
}

/// The counted stream with its first bytes, which were looked at, put back.
type Source<R> = Chain<Cursor<Vec<u8>>, Counted<R>>;

enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(MultiGzDecoder<Source<R>>),
    Zstd(zstd::Decoder<'static, BufReader<Source<R>>>),
    Xz(Box<XzReader<Source<R>>>),
}

enum Opening {
    Io(io::Error),
    Refused(ArchiveError),
}

impl<R: Read> Decoder<R> {
    fn new(mut counted: Counted<R>, what: &str) -> Result<Self, Opening> {
        let mut first = Vec::new();
        (&mut counted).take(6).read_to_end(&mut first).map_err(Opening::Io)?;
        let magic = first.clone();
        let source = Cursor::new(first).chain(counted);
        Ok(match magic.as_slice() {
            [0x1f, 0x8b, ..] => Self::Gzip(MultiGzDecoder::new(source)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd(zstd::Decoder::new(source).map_err(Opening::Io)?),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Xz(Box::new(XzReader::new(source, true))),
            [b'B', b'Z', b'h', ..] => return Err(refused(what, "bzip2")),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err(refused(what, "lz4")),
            _ => Self::Plain(source),
        })
    }

    fn into_inner(self) -> Source<R> {
        match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
            Self::Xz(decoder) => decoder.into_inner(),
        }
    }
}

fn refused(what: &str, compression: &str) -> Opening {
    Opening::Refused(ArchiveError::Compression { what: what.to_owned(), compression: compression.to_owned() })
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
        }
    }
}

trait IntoHash {
    fn into_hash(self) -> Sha256;
}

impl<R> IntoHash for Source<R> {
    fn into_hash(self) -> Sha256 {
        self.into_inner().1.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(bytes: &[u8], limits: Limits) -> Result<(Vec<u8>, Unpacked), ArchiveError> {
        let mut out = Vec::new();
        let facts = unpack(bytes, "a layer", &mut out, limits)?;
        Ok((out, facts))
    }

    /// Each form decodes to the same bytes; both digests are those of an independent computation.
    #[test]
    fn every_compression_is_told_by_its_first_bytes() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        let xz = {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &plain).unwrap();
            std::process::Command::new("xz").arg("-c").arg(file.path()).output().unwrap().stdout
        };
        let two_members = [gzip(&plain[..1000]), gzip(&plain[1000..])].concat();
        for packed in [plain.clone(), gzip(&plain), two_members, zstd::encode_all(&plain[..], 3).unwrap(), xz] {
            let (out, facts) = unpacked(&packed, Limits::DEFAULT).unwrap();
            assert_eq!(out, plain);
            assert_eq!(facts.sha256, crate::digest::of_bytes(&packed));
            assert_eq!(facts.plain_sha256, crate::digest::of_bytes(&plain));
            assert_eq!((facts.size, facts.plain_size), (packed.len() as u64, plain.len() as u64));
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_ratio_and_by_its_size() {
        let bomb = gzip(&vec![0; 80 << 20]);
        assert!(bomb.len() < 100_000);
        let err = unpacked(&bomb, Limits::DEFAULT).unwrap_err();
        assert!(matches!(err, ArchiveError::Bomb { .. }) && err.code() == "archive_bomb", "{err}");
        let small = Limits { bytes: 1 << 20, ..Limits::DEFAULT };
        let err = unpacked(&bomb, small).unwrap_err();
        assert!(matches!(err, ArchiveError::TooLarge { limit, .. } if limit == 1 << 20), "{err}");
        let zeros = zstd::encode_all(&vec![0; 80 << 20][..], 3).unwrap();
        assert_eq!(unpacked(&zeros, Limits::DEFAULT).unwrap_err().code(), "archive_bomb");
    }

    #[test]
    fn a_stream_that_ends_early_is_damaged() {
        let plain: Vec<u8> = (0..50_000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for packed in [gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap()] {
            let err = unpacked(&packed[..packed.len() - 20], Limits::DEFAULT).unwrap_err();
            assert_eq!(err.code(), "archive_damaged", "{err}");
        }
        let mut flipped = gzip(&plain);
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        assert_eq!(unpacked(&flipped, Limits::DEFAULT).unwrap_err().code(), "archive_damaged");
    }

    #[test]
    fn what_nobody_reads_here_is_named() {
        let err = unpacked(b"BZh91AY&SY", Limits::DEFAULT).unwrap_err();
        assert_eq!(err.code(), "archive_compression_unsupported");
        assert!(err.to_string().contains("bzip2"));
    }
}
