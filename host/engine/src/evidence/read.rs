//! Reading bundles: all of them in short, one with what a person looks at first. A bundle that is not described, or that another
//! version made, is read as far as it can be.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::diagnosis::Verdict;
use airlock_domain::{Cause, EvidenceId, SessionId};
use airlock_protocol::Stage;
use serde::de::DeserializeOwned;

use super::{Bundles, CONSOLE, DIAGNOSIS, EvidenceError, FAILURE, FileRecord, LeftOut, RECORD, Record, TIMELINE};

/// A description or a timeline is no longer than this.
const MAX_JSON: u64 = 1 << 20;
/// How much of a console's end is shown: lines, and bytes that they may have.
const LAST_LINES: usize = 20;
const LAST_BYTES: u64 = 8 * 1024;

/// A bundle in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id, which names its VM.
    pub id: EvidenceId,
    /// The session that held the VM.
    pub session_id: Option<SessionId>,
    /// Why the VM failed.
    pub cause: Option<Cause>,
    /// First stage that failed.
    pub stage: Option<Stage>,
    /// Milliseconds since the Unix epoch.
    pub saved_ms: i64,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// A bundle as a person looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// In short.
    pub summary: Summary,
    /// What was seen.
    pub detail: Option<String>,
    /// Daemon and guest programs of that time.
    pub made_by: Option<(String, String)>,
    /// Every stage.
    pub timeline: Vec<TimelineEntry>,
    /// Its files.
    pub files: Vec<FileRecord>,
    /// What is missing.
    pub left_out: Vec<LeftOut>,
    /// The last lines of the console.
    pub console_end: Vec<String>,
}

impl Bundles {
    /// Every bundle, newest first.
    pub fn list(&self) -> Result<Vec<Summary>, EvidenceError> {
        let ids = self.ids().map_err(|source| EvidenceError::List { dir: self.dir.clone(), source })?;
        // One that vanishes meanwhile is none.
        let mut found: Vec<Summary> = ids.into_iter().filter_map(|id| self.summary(id).ok()).collect();
        found.sort_by_key(|summary| (std::cmp::Reverse(summary.saved_ms), summary.id));
        Ok(found)
    }

    /// One bundle.
    pub fn read(&self, id: EvidenceId) -> Result<Bundle, EvidenceError> {
        let summary = self.summary(id).map_err(|error| missing_or(error, id))?;
        let dir = self.path(id);
        let record: Option<Record> = read_json(&dir.join(RECORD));
        let failure: Option<Failure> = read_json(&dir.join(FAILURE));
        let (made_by, files, left_out) = match record {
            Some(record) => (Some((record.airlock_version, record.guest_build_id)), record.files, record.left_out),
            None => (None, self.undescribed(id).map_err(|error| missing_or(error, id))?, Vec::new()),
        };
        Ok(Bundle {
            summary,
            detail: failure.map(|failure| failure.detail),
            made_by,
            timeline: read_json(&dir.join(TIMELINE)).unwrap_or_default(),
            files,
            left_out,
            console_end: last_lines(&dir.join(CONSOLE)).unwrap_or_default(),
        })
    }

    /// The verdict that was kept with a bundle.
    pub fn diagnosis(&self, id: EvidenceId) -> Option<Verdict> {
        read_json(&self.path(id).join(DIAGNOSIS))
    }

    fn ids(&self) -> io::Result<Vec<EvidenceId>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<EvidenceId>().ok()));
        }
        Ok(ids)
    }

    pub(super) fn summary(&self, id: EvidenceId) -> io::Result<Summary> {
        let dir = self.path(id);
        let facts = fs::symlink_metadata(&dir)?;
        if !facts.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut bytes = 0;
        for (_, file) in self.files(id)? {
            bytes += file.len();
        }
        if let Some(record) = read_json::<Record>(&dir.join(RECORD)) {
            return Ok(Summary {
                id,
                session_id: record.session_id,
                cause: record.cause.parse().ok(),
                stage: record.stage.and_then(|stage| stage.parse().ok()),
                saved_ms: record.saved_ms,
                bytes,
            });
        }
        let failure: Option<Failure> = read_json(&dir.join(FAILURE));
        let changed = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Summary {
            id,
            session_id: None,
            cause: failure.as_ref().map(|failure| failure.cause),
            stage: failure.and_then(|failure| failure.stage),
            saved_ms: i64::try_from(changed.as_millis()).unwrap_or(i64::MAX),
            bytes,
        })
    }

    /// The regular files of a bundle, by name.
    pub(super) fn files(&self, id: EvidenceId) -> io::Result<Vec<(String, fs::Metadata)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path(id))? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if let (true, Ok(name)) = (facts.is_file(), entry.file_name().into_string()) {
                files.push((name, facts));
            }
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(files)
    }

    fn undescribed(&self, id: EvidenceId) -> io::Result<Vec<FileRecord>> {
        let record = |(name, facts): (String, fs::Metadata)| FileRecord {
            name,
            size: facts.len(),
            sha256: String::new(),
            redacted: 0,
            cut: None,
        };
        Ok(self.files(id)?.into_iter().map(record).collect())
    }
}

/// What is not there is missing, everything else is an error.
pub(super) fn missing_or(source: io::Error, id: EvidenceId) -> EvidenceError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => EvidenceError::Missing(id),
        _ => EvidenceError::Read { id, source },
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    open(path).ok()?.take(MAX_JSON).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn last_lines(path: &Path) -> io::Result<Vec<String>> {
    let mut file = open(path)?;
    let from = file.metadata()?.len().saturating_sub(LAST_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    // The first one is cut, unless it is the file's first.
    let whole = lines.get(usize::from(from > 0 && lines.len() > 1)..).unwrap_or_default();
    let last = whole.get(whole.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
    Ok(last.iter().map(|line| (*line).to_owned()).collect())
}

/// Opens a regular file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        let path: PathBuf = path.to_owned();
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display())));
    }
    File::open(path)
}
