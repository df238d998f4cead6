//! The reference's copy of its 8 GiB image, one per VM.
//!
//! Measured as a plain full copy: every one of the 8 GiB is written (`--sparse=never`, no reflink), as that system did,
//! and no sync is waited for. What `cp` does by itself with the holes of a sparse image is measured beside it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::run;

/// Times of a copy, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct CopyTimes {
    /// All 8 GiB.
    pub full_ms: u64,
    /// Holes kept.
    pub sparse_ms: u64,
}

/// Copies `image` inside its own directory, twice, and removes the copies.
pub fn measure(image: &Path) -> Result<CopyTimes> {
    let dir = image.parent().context("an image without a directory")?;
    let size = std::fs::metadata(image).with_context(|| format!("look at {}", image.display()))?.len();
    let free = free_bytes(dir)?;
    if free < size + size / 8 {
        bail!("{} has {} MiB free; the copy needs {} MiB", dir.display(), free >> 20, size >> 20);
    }
    Ok(CopyTimes { sparse_ms: copy(image, dir, "always")?, full_ms: copy(image, dir, "never")? })
}

fn copy(image: &Path, dir: &Path, sparse: &str) -> Result<u64> {
    let target = tempfile::Builder::new().prefix("copy-").tempdir_in(dir).context("make a directory for the copy")?;
    let start = Instant::now();
    run::run(
        Command::new("cp")
            .args(["--reflink=never", &format!("--sparse={sparse}")])
            .arg(image)
            .arg(target.path().join("rootfs.ext4")),
    )?;
    Ok(super::millis_since(start))
}

/// Bytes free for us in the file system of `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = statvfs(dir).with_context(|| format!("look at the file system of {}", dir.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}
