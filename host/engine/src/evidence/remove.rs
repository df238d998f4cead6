//! Removing bundles: one that is asked for, those beyond the limits, and what a daemon that was killed left half done.
//!
//! A bundle is renamed to a hidden name first, so that nobody sees half of one; the hidden rest of a removal that was cut short
//! is removed the next time.

use std::collections::HashSet;
use std::fs;
use std::io;

use airlock_domain::evidence::{BundleFacts, to_remove};
use airlock_domain::{EvidenceId, VmId};

use super::{Bundles, EvidenceError, RUN};
use crate::error::chain;

impl Bundles {
    /// Removes one bundle.
    pub fn remove(&self, id: EvidenceId) -> Result<(), EvidenceError> {
        let hidden = self.hidden(id, "gone");
        match fs::rename(self.path(id), &hidden) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(EvidenceError::Missing(id)),
            renamed => renamed.map_err(|source| EvidenceError::Remove { id, source })?,
        }
        fs::remove_dir_all(&hidden).map_err(|source| EvidenceError::Remove { id, source })
    }

    /// Removes what is beyond the limits, and what is half done and of no living run. `held` are VMs that are not destroyed yet:
    /// theirs stay. One that cannot be removed is logged and does not hold up the others. Returns what was removed.
    pub fn retain(&self, held: &HashSet<VmId>, now_ms: i64) -> Result<Vec<EvidenceId>, EvidenceError> {
        self.sweep().map_err(|source| EvidenceError::List { dir: self.dir.clone(), source })?;
        let facts: Vec<BundleFacts> = self
            .list()?
            .into_iter()
            .map(|summary| BundleFacts { id: summary.id, saved_ms: summary.saved_ms, bytes: summary.bytes })
            .collect();
        let mut removed = Vec::new();
        for id in to_remove(&facts, self.limits, held, now_ms) {
            match self.remove(id) {
                Ok(()) => removed.push(id),
                Err(EvidenceError::Missing(_)) => {}
                Err(error) => tracing::warn!(%id, error = chain(&error), "evidence not removed"),
            }
        }
        if !removed.is_empty() {
            tracing::info!(count = removed.len(), ?removed, "evidence beyond its limits removed");
        }
        Ok(removed)
    }

    /// Removes hidden remains, but not what this run is saving.
    fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let ours = format!(".saving-{}-", &*RUN);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".ev-")
                && !name.contains(&ours)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%name, %error, "remains of evidence not removed");
            }
        }
        Ok(())
    }
}
