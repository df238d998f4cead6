//! Saving a bundle: what is worth most first, under a hidden name that is renamed when it is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use airlock_domain::EvidenceId;
use airlock_domain::evidence::Excerpt;
use airlock_domain::redaction::{MARK, redact_json};
use airlock_effects::files::{PRIVATE_FILE, create_private_dir};
use serde::Serialize;
use serde_json::{Value, json};

use super::excerpt::{Digesting, copy_redacted};
use super::{
    Bundles, CONSOLE, Cut, DIAGNOSIS, EvidenceError, FAILURE, FileRecord, HOST, LeftOut, RECORD, Record, Subject,
    TIMELINE, VM, VMM_LOG,
};

/// Space that is taken for `bundle.json` before anything else may fill the disk.
const RESERVED: usize = 8 * 1024;
/// A VM's configuration is no longer than this.
const MAX_JSON: u64 = 1 << 20;

impl Bundles {
    /// Saves the bundle of a VM; a bundle that it has already is left as it is. An error means that nothing could be kept.
    pub fn save(&self, subject: &Subject, now_ms: i64) -> Result<EvidenceId, EvidenceError> {
        let id = EvidenceId::of(subject.vm_id);
        if self.path(id).exists() {
            return Ok(id);
        }
        self.save_new(id, subject, now_ms).map_err(|source| EvidenceError::Save { id, source })?;
        Ok(id)
    }

    fn save_new(&self, id: EvidenceId, subject: &Subject, now_ms: i64) -> io::Result<()> {
        create_private_dir(&self.dir).map_err(io::Error::other)?;
        let mut saving = Saving::begin(self.hidden(id, "saving"))?;
        let mut failure = subject.failure.clone();
        failure.evidence_id = Some(id.to_string());
        saving.add_json(FAILURE, &failure);
        if let Some(diagnosis) = &subject.diagnosis {
            saving.add_json(DIAGNOSIS, diagnosis);
        }
        saving.add_json(TIMELINE, &subject.timeline);
        saving.add_text(CONSOLE, &subject.vm_dir, Excerpt::CONSOLE);
        match &subject.host {
            Some(host) => saving.add_json(HOST, host),
            None => saving.leave_out(HOST, "nothing was observed"),
        }
        saving.add_spec(&subject.vm_dir);
        saving.add_text(VMM_LOG, &subject.vm_dir, Excerpt::LOG);
        if saving.files.is_empty() {
            return Err(saving.first_error.take().unwrap_or_else(|| io::Error::other("nothing to keep")));
        }
        let record = Record {
            format: 1,
            id,
            vm_id: subject.vm_id,
            session_id: subject.session_id,
            cause: failure.cause.code().to_owned(),
            stage: failure.stage.map(|stage| stage.to_string()),
            saved_ms: now_ms,
            airlock_version: env!("CARGO_PKG_VERSION").to_owned(),
            guest_build_id: airlock_image::guest_programs::BUILD_ID.to_owned(),
            files: std::mem::take(&mut saving.files),
            left_out: std::mem::take(&mut saving.left_out),
        };
        saving.describe(&record);
        match fs::rename(&saving.dir, self.path(id)) {
            // Another one came first: it is as good.
            Err(_) if self.path(id).exists() => Ok(()),
            renamed => renamed,
        }
    }
}

/// A bundle that is being made. Dropped, it is removed, unless it was renamed.
struct Saving {
    dir: PathBuf,
    files: Vec<FileRecord>,
    left_out: Vec<LeftOut>,
    first_error: Option<io::Error>,
}

impl Drop for Saving {
    fn drop(&mut self) {
        // Renamed is the rule. What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Saving {
    fn begin(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let saving = Self { dir, files: Vec::new(), left_out: Vec::new(), first_error: None };
        // Where this does not fit, little else will, and the rest is tried all the same.
        let _ = saving.create(RECORD).and_then(|mut file| file.write_all(&[b' '; RESERVED]));
        Ok(saving)
    }

    fn create(&self, name: &str) -> io::Result<fs::File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(self.dir.join(name))
    }

    fn leave_out(&mut self, name: &str, reason: &str) {
        self.left_out.push(LeftOut { name: name.to_owned(), reason: reason.to_owned() });
    }

    /// A file could not be written: nothing of it stays.
    fn fail(&mut self, name: &str, error: io::Error) {
        let _ = fs::remove_file(self.dir.join(name));
        tracing::warn!(dir = %self.dir.display(), name, %error, "not kept as evidence");
        self.leave_out(name, &error.to_string());
        self.first_error.get_or_insert(error);
    }

    fn add_json(&mut self, name: &str, value: &impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => self.add_value(name, value),
            Err(error) => self.fail(name, error.into()),
        }
    }

    fn add_value(&mut self, name: &str, mut value: Value) {
        redact_json(&mut value);
        let text = format!("{value:#}\n");
        let redacted = text.matches(MARK).count() as u64;
        let written = self.create(name).and_then(|file| {
            let mut out = Digesting::new(file);
            out.write_all(text.as_bytes())?;
            out.finish()
        });
        match written {
            Ok((size, sha256)) => {
                self.files.push(FileRecord { name: name.to_owned(), size, sha256, redacted, cut: None });
            }
            Err(error) => self.fail(name, error),
        }
    }

    /// What the VMM was asked to start; as a text if it is no JSON.
    fn add_spec(&mut self, vm_dir: &Path) {
        let path = vm_dir.join(VM);
        let short = fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_file() && facts.len() <= MAX_JSON);
        let parsed =
            short.then(|| fs::read(&path).ok()).flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match parsed {
            Some(value) => self.add_value(VM, value),
            None => self.add_text(VM, vm_dir, Excerpt::LOG),
        }
    }

    /// A text of the VM's directory. When it does not fit on the disk, less and less of its end is tried.
    fn add_text(&mut self, name: &str, vm_dir: &Path, mut excerpt: Excerpt) {
        let (source, target) = (vm_dir.join(name), self.dir.join(name));
        let mut reason = format!("only {} MiB of a file are kept", (excerpt.head + excerpt.tail) >> 20);
        loop {
            let error = match copy_redacted(&source, &target, excerpt, &reason) {
                Ok(copied) => {
                    let cut = (copied.cut > 0).then_some(Cut { bytes: copied.cut, reason });
                    let (size, sha256, redacted) = (copied.size, copied.sha256, copied.redacted);
                    return self.files.push(FileRecord { name: name.to_owned(), size, sha256, redacted, cut });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return self.leave_out(name, "the VM has none");
                }
                Err(error) => error,
            };
            let length = fs::metadata(&source).map_or(0, |facts| facts.len());
            match excerpt.smaller(length).filter(|_| is_full(&error)) {
                Some(smaller) => excerpt = smaller,
                None => return self.fail(name, error),
            }
            reason = error.to_string();
        }
    }

    /// Writes `bundle.json` into the space that was taken for it. Without it the files still speak for themselves.
    fn describe(&self, record: &Record) {
        let text = format!("{:#}\n", json!(record));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(self.dir.join(RECORD))
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.set_len(text.len() as u64)
            });
        if let Err(error) = written {
            tracing::warn!(id = %record.id, %error, "evidence bundle not described");
            let _ = fs::remove_file(self.dir.join(RECORD));
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
