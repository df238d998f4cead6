//! The root filesystem of a recipe or of a foreign image, as a cache entry: `rootfs.erofs` or `rootfs.ext4`, and `rootfs.toml`.
//!
//! Packages are installed into a directory on memory, the recipe's users, files and commands are applied, everything
//! that belongs to the build host is removed, and the directory becomes a read-only filesystem image. The same recipe and
//! the same packages give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use airlock_protocol::guest_config::{RootFs, Service};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::downloads::Downloads;
use crate::error::ImageError;
use crate::ext4;
use crate::files;
use crate::inventory::INVENTORY_FILE;
use crate::kernel::package_unknown;
use crate::plan::{self, BuildPlan};
use crate::preflight::RootSeen;
use crate::progress::BuildStage;
use crate::recipe::LoadedRecipe;
use crate::reporter::Reporter;
use crate::state_dir::Scratch;
use crate::tree::{Tree, installed_packages, remove};

const EROFS_FILE: &str = "rootfs.erofs";
const EXT4_FILE: &str = "rootfs.ext4";
const RECORD: &str = "rootfs.toml";

/// File name of a root filesystem, in the cache and in an image.
pub(crate) fn rootfs_file(root_fs: RootFs) -> &'static str {
    if root_fs == RootFs::Ext4 { EXT4_FILE } else { EROFS_FILE }
}

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
    #[serde(default = "erofs", skip_serializing_if = "is_erofs")]
    root_fs: RootFs,
    executables: Vec<String>,
    packages: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    npm: BTreeMap<String, String>,
    /// What a foreign root wants to have run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<Service>,
}

const fn erofs() -> RootFs {
    RootFs::Erofs
}

fn is_erofs(root_fs: &RootFs) -> bool {
    *root_fs == RootFs::Erofs
}

impl RootfsEntry {
    /// The entry at `dir`, if a build completed it and its content is still what that build wrote.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(RECORD)).ok()?;
        let record: RootfsRecord = toml::from_str(&text).ok()?;
        let actual = digest::of_file(&dir.join(rootfs_file(record.root_fs))).ok()?;
        (actual == (record.sha256.clone(), record.size)).then(|| Self { dir: dir.to_owned(), record })
    }

    /// Builds the root filesystem of a recipe into `dir`. Runs the stages from packages to root image; `downloads` keeps what
    /// was fetched for the next one.
    pub(crate) fn build(
        loaded: &LoadedRecipe,
        plan: &BuildPlan,
        dir: &Path,
        scratch: &Scratch,
        downloads: &Downloads,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let root = scratch.join("root");
        let root_text = root.to_string_lossy().into_owned();
        reporter.stage(BuildStage::Packages, |reporter| {
            reporter.line(&format!("working in {}", scratch.path().display()));
            let run = plan::install_packages(loaded, &root_text, &scratch.path().to_string_lossy());
            downloads.offer(run, reporter)?.run(reporter).map_err(|err| package_unknown(loaded, err))?;
            if !loaded.recipe.npm.is_empty() {
                downloads.npm(plan::install_npm(loaded, &downloads.npm_cache(), &root_text))?.run(reporter)?;
            }
            Ok(((), false))
        })?;
        let (executables, packages) = reporter.stage(BuildStage::Customize, |reporter| {
            let facts = customize(loaded, &root, reporter)?;
            Ok((facts, false))
        })?;
        let npm = npm_packages(&loaded.recipe.npm);
        reporter.stage(BuildStage::RootImage, |reporter| {
            let facts = RootFacts { executables, packages, npm, services: Vec::new() };
            write_root(loaded, plan, facts, &root, dir, reporter)?;
            Ok(((), false))
        })
    }

    /// Writes a foreign root, which lies in `root`, into `dir` as it is. Its program becomes a service unless it has an init.
    pub(crate) fn build_foreign(
        loaded: &LoadedRecipe,
        plan: &BuildPlan,
        root: &Path,
        program: impl FnOnce(&Tree<'_>) -> Result<Option<Service>, ImageError>,
        dir: &Path,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let tree = Tree::new(root);
        let services = match tree.init() {
            Some(init) => {
                reporter.line(&format!("the root's own init is {init}"));
                Vec::new()
            }
            None => program(&tree)?.into_iter().collect(),
        };
        for service in &services {
            reporter.line(&format!("service {}: {}", service.name, service.command.join(" ")));
        }
        tree.set_times(loaded.recipe.epoch)?;
        let status = tree.resolve("/var/lib/dpkg/status").and_then(fs::read_to_string).unwrap_or_default();
        let executables = tree.executables()?;
        let packages = installed_packages(&status);
        let facts = RootFacts { executables, packages, npm: BTreeMap::new(), services };
        write_root(loaded, plan, facts, root, dir, reporter)
    }

    /// Takes a finished ext4 filesystem over into `dir`.
    pub(crate) fn take_over(filesystem: &Path, dir: &Path) -> Result<(), ImageError> {
        let image = dir.join(EXT4_FILE);
        files::copy_sparse(filesystem, &image).map_err(ImageError::io("copy into", &image))?;
        write_record(dir, RootFs::Ext4, RootFacts::default())
    }

    /// The filesystem image.
    pub(crate) fn rootfs_path(&self) -> PathBuf {
        self.dir.join(self.file_name())
    }

    /// Its name.
    pub(crate) fn file_name(&self) -> &'static str {
        rootfs_file(self.record.root_fs)
    }

    /// The recipe with the services that a foreign root brings.
    pub(crate) fn complete(&self, loaded: &LoadedRecipe) -> LoadedRecipe {
        let mut complete = loaded.clone();
        complete.recipe.services.extend(self.record.services.iter().cloned());
        complete
    }

    /// Packages of npm with their versions.
    pub(crate) fn npm(&self) -> &BTreeMap<String, String> {
        &self.record.npm
    }

    /// Its digest and size.
    pub(crate) fn facts(&self) -> (String, u64) {
        (self.record.sha256.clone(), self.record.size)
    }

    /// Installed packages with their versions.
    pub(crate) fn packages(&self) -> &BTreeMap<String, String> {
        &self.record.packages
    }

    /// Puts the list of everything in it into an image's directory, if there is one.
    pub(crate) fn place_inventory(&self, dir: &Path) -> Result<(), ImageError> {
        let from = self.dir.join(INVENTORY_FILE);
        if !from.exists() {
            return Ok(());
        }
        let to = dir.join(INVENTORY_FILE);
        fs::copy(&from, &to).map(drop).map_err(ImageError::io("copy into", &to))
    }

    /// What is in it, if somebody looked when it was made.
    pub(crate) fn root_seen(&self) -> Option<RootSeen> {
        RootSeen::kept(&self.dir)
    }
}

/// What is known of a root.
#[derive(Default)]
struct RootFacts {
    executables: Vec<String>,
    packages: BTreeMap<String, String>,
    npm: BTreeMap<String, String>,
    services: Vec<Service>,
}

fn write_root(
    loaded: &LoadedRecipe,
    plan: &BuildPlan,
    facts: RootFacts,
    root: &Path,
    dir: &Path,
    reporter: &mut Reporter<'_>,
) -> Result<(), ImageError> {
    RootSeen::keep(root, dir)?;
    let recipe = &loaded.recipe;
    let image = dir.join(rootfs_file(recipe.root_fs));
    if recipe.root_fs == RootFs::Ext4 {
        let size = recipe.root_size_mib.map(|mib| mib << 20);
        let wanted = ext4::Wanted { uuid: &plan.rootfs_uuid, epoch: recipe.epoch, size };
        ext4::write(&wanted, root, &image, reporter)?;
        remove(&root.with_extension("ordered"))?;
    } else {
        let (image, root) = (image.to_string_lossy(), root.to_string_lossy());
        plan::write_erofs(loaded, &plan.rootfs_uuid, &image, &root).run(reporter)?;
        remove(Path::new(root.as_ref()))?;
    }
    write_record(dir, recipe.root_fs, facts)
}

fn write_record(dir: &Path, root_fs: RootFs, facts: RootFacts) -> Result<(), ImageError> {
    let image = dir.join(rootfs_file(root_fs));
    let (sha256, size) = digest::of_file(&image).map_err(ImageError::io("read", &image))?;
    let RootFacts { executables, packages, npm, services } = facts;
    let record = RootfsRecord { sha256, size, root_fs, executables, packages, npm, services };
    let text = toml::to_string(&record).map_err(ImageError::EncodeManifest)?;
    fs::write(dir.join(RECORD), text).map_err(ImageError::io("write", &dir.join(RECORD)))
}

/// `name@version` in two.
fn npm_packages(packages: &[String]) -> BTreeMap<String, String> {
    let pairs = packages.iter().filter_map(|package| package.rsplit_once('@'));
    pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
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
