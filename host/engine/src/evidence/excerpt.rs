//! Copying a text: its beginning and its end, without secrets, in constant memory, with its digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use airlock_domain::evidence::Excerpt;
use airlock_domain::redaction::Redactor;
use airlock_effects::files::PRIVATE_FILE;
use sha2::{Digest, Sha256};

const CHUNK: usize = 64 * 1024;
/// How far the ends of a cut are moved to keep lines whole: a secret that is cut in two is not recognized.
const ALIGN: usize = 64 * 1024;

/// What was copied.
pub struct Copied {
    pub size: u64,
    pub sha256: String,
    /// Lines that lost a secret.
    pub redacted: u64,
    /// Bytes of the source that were left out.
    pub cut: u64,
}

/// Copies `source` as far as `excerpt` allows. A source that still grows is copied up to its length now.
pub fn copy_redacted(source: &Path, target: &Path, excerpt: Excerpt, reason: &str) -> io::Result<Copied> {
    if !fs::symlink_metadata(source)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut file = File::open(source)?;
    let length = file.metadata()?.len();
    let mut out =
        Digesting::new(OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(target)?);
    let cut = match excerpt.cut(length) {
        Some(cut) => last_line_end(&file, cut.start)?..first_line_start(&file, cut.end)?,
        None => length..length,
    };
    let mut redacted = pump(&mut file, 0..cut.start, &mut out)?;
    if !cut.is_empty() {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        writeln!(out, "[airlock: {} bytes of {name} were cut out here: {reason}]", cut.end - cut.start)?;
    }
    redacted += pump(&mut file, cut.end..length, &mut out)?;
    let (size, sha256) = out.finish()?;
    Ok(Copied { size, sha256, redacted, cut: cut.end - cut.start })
}

/// Copies a range without its secrets; how many lines lost one.
fn pump(file: &mut File, range: std::ops::Range<u64>, out: &mut impl Write) -> io::Result<u64> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut rest = file.take(range.end - range.start);
    let (mut redactor, mut buffer, mut clean) = (Redactor::new(), vec![0; CHUNK], Vec::new());
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            redactor.finish(&mut clean);
            out.write_all(&clean)?;
            return Ok(redactor.redacted());
        }
        redactor.push(buffer.get(..count).unwrap_or_default(), &mut clean);
        out.write_all(&clean)?;
        clean.clear();
    }
}

/// The last start of a line at or before `at`; `at` itself inside a line without end.
fn last_line_end(file: &File, at: u64) -> io::Result<u64> {
    let from = at.saturating_sub(ALIGN as u64);
    let window = read_window(file, from, at - from)?;
    Ok(window.iter().rposition(|byte| *byte == b'\n').map_or(at, |last| from + last as u64 + 1))
}

/// The first start of a line behind `at`.
fn first_line_start(file: &File, at: u64) -> io::Result<u64> {
    let window = read_window(file, at, ALIGN as u64)?;
    // A tail shorter than the window keeps something even if it has no line start.
    Ok(window
        .iter()
        .position(|byte| *byte == b'\n')
        .filter(|first| first + 1 < window.len())
        .map_or(at, |first| at + first as u64 + 1))
}

fn read_window(file: &File, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut window = vec![0; usize::try_from(length).unwrap_or(ALIGN).min(ALIGN)];
    let mut filled = 0;
    while let Some(free) = window.get_mut(filled..).filter(|free| !free.is_empty()) {
        match file.read_at(free, from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    window.truncate(filled);
    Ok(window)
}

/// A file with the digest of what was written to it.
pub struct Digesting {
    file: BufWriter<File>,
    digest: Sha256,
    size: u64,
}

impl Digesting {
    pub fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(CHUNK, file), digest: Sha256::new(), size: 0 }
    }

    /// Size and digest, once everything was written.
    pub fn finish(mut self) -> io::Result<(u64, String)> {
        self.file.flush()?;
        Ok((self.size, self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
