//! The root filesystem of a recipe, as a cache entry: `rootfs.erofs` and `rootfs.toml`.
//!
//! Packages are installed into a directory on memory, the recipe's users, files and commands are applied, everything
//! that belongs to the build host is removed, and the directory becomes a read-only filesystem image. The same recipe and
//! the same packages give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::ImageError;
use crate::kernel::package_unknown;
use crate::plan::{self, BuildPlan};
use crate::preflight::RootSeen;
use crate::progress::BuildStage;
use crate::recipe::LoadedRecipe;
use crate::reporter::Reporter;
use crate::state_dir::Scratch;
use crate::tree::{Tree, installed_packages, remove};

/// File name of the root filesystem, in the cache and in an image.
pub(crate) const ROOTFS_FILE: &str = "rootfs.erofs";
const RECORD: &str = "rootfs.toml";

/// A root filesystem in the cache.
#[derive(Debug, Clone)]
pub(crate) struct RootfsEntry {
    dir: PathBuf,
    record: RootfsRecord,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RootfsRecord {
    sha256: String,
    size: u64,
    executables: Vec<String>,
    packages: BTreeMap<String, String>,
}

impl RootfsEntry {
    /// The entry at `dir`, if a build completed it and its content is still what that build wrote.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(RECORD)).ok()?;
        let record: RootfsRecord = toml::from_str(&text).ok()?;
        let actual = digest::of_file(&dir.join(ROOTFS_FILE)).ok()?;
        (actual == (record.sha256.clone(), record.size)).then(|| Self { dir: dir.to_owned(), record })
    }

    /// Builds the root filesystem of a recipe into `dir`. Runs the stages from packages to root image.
    pub(crate) fn build(
        loaded: &LoadedRecipe,
        plan: &BuildPlan,
        dir: &Path,
        scratch: &Scratch,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let root = scratch.join("root");
        let root_text = root.to_string_lossy().into_owned();
        reporter.stage(BuildStage::Packages, |reporter| {
            reporter.line(&format!("working in {}", scratch.path().display()));
            let run = plan::install_packages(loaded, &root_text, &scratch.path().to_string_lossy());
            run.run(reporter).map_err(|err| package_unknown(loaded, err))?;
            Ok(((), false))
        })?;
        let (executables, packages) = reporter.stage(BuildStage::Customize, |reporter| {
            let facts = customize(loaded, &root, reporter)?;
            Ok((facts, false))
        })?;
        reporter.stage(BuildStage::RootImage, |reporter| {
            RootSeen::keep(&root, dir)?;
            let image = dir.join(ROOTFS_FILE);
            plan::write_erofs(loaded, &plan.rootfs_uuid, &image.to_string_lossy(), &root_text).run(reporter)?;
            remove(&root)?;
            let (sha256, size) = digest::of_file(&image).map_err(ImageError::io("read", &image))?;
            let record = RootfsRecord { sha256, size, executables, packages };
            let text = toml::to_string(&record).map_err(ImageError::EncodeManifest)?;
            fs::write(dir.join(RECORD), text).map_err(ImageError::io("write", &dir.join(RECORD)))?;
            Ok(((), false))
        })
    }

    /// The filesystem image.
    pub(crate) fn rootfs_path(&self) -> PathBuf {
        self.dir.join(ROOTFS_FILE)
    }

    /// Its digest and size.
    pub(crate) fn facts(&self) -> (String, u64) {
        (self.record.sha256.clone(), self.record.size)
    }

    /// Installed packages with their versions.
    pub(crate) fn packages(&self) -> &BTreeMap<String, String> {
        &self.record.packages
    }

    /// What is in it, if somebody looked when it was made.
    pub(crate) fn root_seen(&self) -> Option<RootSeen> {
        RootSeen::kept(&self.dir)
    }
}

type TreeFacts = (Vec<String>, BTreeMap<String, String>);

fn customize(loaded: &LoadedRecipe, root: &Path, reporter: &mut Reporter<'_>) -> Result<TreeFacts, ImageError> {
    let tree = Tree::new(root);
    tree.neutralize()?;
    tree.apply(loaded)?;
    tree.set_times(loaded.recipe.epoch)?;
    for command in &loaded.recipe.run {
        reporter.line(&format!("run {}", command.join(" ")));
        plan::run_in_root(loaded, command, &root.to_string_lossy()).run(reporter)?;
    }
    let status = root.join("var/lib/dpkg/status");
    let status = fs::read_to_string(&status).map_err(ImageError::io("read", &status))?;
    Ok((tree.executables()?, installed_packages(&status)))
}
