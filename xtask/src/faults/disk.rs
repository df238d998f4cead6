//! A disk of 8 MiB, in memory, for a state directory that runs out of space. Unmounted when it is dropped.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// See the head of this file.
#[derive(Debug)]
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts an empty one.
    pub fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("airlock-faults-disk-").tempdir().context("make a mount point")?;
        run::run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path()))?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves no byte free.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.path().join("filler")).context("create the filler")?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }

    /// Takes that back.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.path().join("filler")).context("remove the filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run::run(Command::new("umount").arg("--lazy").arg(self.path())) {
            eprintln!("left behind: {}: {error:#}", self.path().display());
        }
    }
}
