//! Where a root comes from if not from a recipe's packages, and the recipe that stands for it.
//!
//! A foreign image says nothing of kernel, memory and readiness: it gets the kernel of the recipe `base`, and what the caller
//! asks for. Whatever init it has takes over; one without an init is supervised, its program as a service.

use std::path::{Path, PathBuf};

use airlock_protocol::guest_config::{Handover, RootFs};
use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::recipe::LoadedRecipe;

/// What a foreign root may need; the desktop images say more in their recipes.
const FOREIGN_MEMORY_MIB: u32 = 512;
/// The recipe whose kernel a foreign root gets.
const KERNEL_OF: &str = "base";

/// Where a root comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RootSource {
    /// The recipe's packages.
    #[default]
    Packages,
    /// An OCI image: an archive, a layout, or a reference of a registry.
    Oci(String),
    /// A tar of a whole root, plain or compressed.
    Tar(PathBuf),
    /// A finished ext4 filesystem, taken over as it is.
    Ext4(PathBuf),
}

/// A kernel that is given as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// An ELF `vmlinux` or a bzImage.
    pub path: PathBuf,
    /// The directory with `modules.dep` of its release, if it has modules.
    pub modules: Option<PathBuf>,
}

/// What an image was made from, for its manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// A recipe's packages.
    #[default]
    Packages,
    /// An OCI image.
    Oci {
        /// What was given.
        reference: String,
        /// SHA-256 of its configuration, which names its layers.
        image: String,
    },
    /// A tar.
    RootfsTar {
        /// SHA-256 of the plain tar.
        sha256: String,
    },
    /// A finished filesystem.
    Imported {
        /// SHA-256 of the filesystem.
        sha256: String,
    },
}

impl Origin {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What decides what the root will be, for the cache's key.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Packages => "packages".to_owned(),
            // The same image by another name is the same root.
            Self::Oci { image, .. } => format!("oci {image}"),
            Self::RootfsTar { sha256 } => format!("tar {sha256}"),
            Self::Imported { sha256 } => format!("ext4 {sha256}"),
        }
    }
}

impl LoadedRecipe {
    /// The recipe of a foreign root; `name` is the image's.
    pub fn foreign(name: &str, source: RootSource) -> Result<Self, ImageError> {
        let mut loaded = Self::load(KERNEL_OF)?;
        let recipe = &mut loaded.recipe;
        recipe.name = name.to_owned();
        recipe.packages.clear();
        recipe.users.clear();
        recipe.files.clear();
        recipe.run.clear();
        recipe.services.clear();
        recipe.display = None;
        recipe.handover = Handover::Init;
        recipe.memory_mib = FOREIGN_MEMORY_MIB;
        if matches!(source, RootSource::Ext4(_)) {
            recipe.root_fs = RootFs::Ext4;
        }
        loaded.contents.clear();
        loaded.source = source;
        loaded.check()?;
        Ok(loaded)
    }

    /// A name for the image of a reference or path that has none: `registry.example/a/app:1` and `/tmp/app.tar.gz` are `app`.
    pub fn name_of(source: &str) -> String {
        let last = Path::new(source).file_name().map_or(source.into(), |name| name.to_string_lossy());
        let last = last.split(['@', ':']).next().unwrap_or_default().to_lowercase();
        let stem = last.split(".tar").next().unwrap_or_default();
        let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "+-._".contains(c) { c } else { '-' };
        let name: String = stem.chars().map(fits).collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        if name.is_empty() { "foreign".to_owned() } else { name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_what_was_given() {
        for (source, name) in [
            ("registry.example/a/app:1", "app"),
            ("registry.example/a/App@sha256:00", "app"),
            ("/tmp/my root.tar.gz", "my-root"),
            ("./layout", "layout"),
            ("___", "foreign"),
            ("/tmp/layout:v1", "layout"),
        ] {
            assert_eq!(LoadedRecipe::name_of(source), name, "{source}");
        }
    }

    #[test]
    fn a_foreign_root_brings_its_own_init_and_gets_the_kernel_of_base() {
        let base = LoadedRecipe::load("base").unwrap();
        let loaded = LoadedRecipe::foreign("app", RootSource::Oci("x".into())).unwrap();
        assert_eq!(loaded.recipe.kernel_package, base.recipe.kernel_package);
        assert_eq!(loaded.recipe.modules, base.recipe.modules);
        assert_eq!(loaded.recipe.handover, Handover::Init);
        assert!(loaded.recipe.packages.is_empty() && loaded.recipe.users.is_empty());
        let name = LoadedRecipe::foreign("../x", RootSource::Packages).unwrap_err();
        assert_eq!(name.code(), "recipe_invalid");
    }
}
