//! Publishes files that were made elsewhere, through the same checks as a build's.

use std::fs;
use std::path::Path;

use crate::builder::{BuildOptions, publish};
use crate::error::ImageError;
use crate::lock::BuildLock;
use crate::manifest::Manifest;
use crate::preflight::{self, RootSeen};
use crate::progress::{BuildEvent, BuildStage};
use crate::registry::{GoldenImage, prepare};
use crate::reporter::Reporter;
use crate::state_dir::{StateDir, UNFINISHED};
use crate::tree::remove;

/// What is known of an image besides its files.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What it is; the files that it names lie in one directory.
    pub manifest: Manifest,
    /// The kernel's configuration; empty if it is not known.
    pub config: String,
    /// What is in its root, if somebody looked.
    pub root: Option<RootSeen>,
}

/// Copies the files of a candidate from `files`, checks it, boots it if `options` say so, and makes it the current image of its
/// name. A failure publishes nothing.
pub fn publish_candidate(
    candidate: &Candidate,
    files: &Path,
    options: &BuildOptions,
    observe: &mut dyn FnMut(BuildEvent),
) -> Result<GoldenImage, ImageError> {
    let manifest = &candidate.manifest;
    let state = StateDir::open(&options.state_dir)?;
    let mut reporter = Reporter::new(observe, options.cancel.clone());
    let _lock = reporter.stage(BuildStage::Lock, |reporter| {
        let what = format!("publication of {}", manifest.name);
        let lock = BuildLock::take(&state.lock_file(), &what, options.wait, &options.cancel, |other| {
            reporter.line(&format!("waiting for another build in this state directory: {other}"));
        })?;
        reporter.log_to(&state.build_log(&manifest.name))?;
        state.sweep()?;
        Ok((lock, false))
    })?;
    let unfinished = state.images().join(format!("{UNFINISHED}{}", manifest.name));
    let published = reporter
        .stage(BuildStage::Preflight, |reporter| {
            fs::create_dir(&unfinished).map_err(ImageError::io("create directory", &unfinished))?;
            for file in manifest.files.all() {
                let to = unfinished.join(&file.name);
                fs::copy(files.join(&file.name), &to).map_err(ImageError::io("copy into", &to))?;
            }
            let prepared = prepare(manifest, &unfinished)?;
            preflight::check(&prepared, &candidate.config, candidate.root.clone(), reporter)?;
            Ok((prepared, false))
        })
        .and_then(|prepared| publish(&prepared, options.boot_test.as_ref(), &state, &mut reporter));
    // Gone already if it was published.
    remove(&unfinished)?;
    published
}
