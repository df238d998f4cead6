//! Images of another system that lie in a directory: a root filesystem `golden-rootfs.ext4` and a kernel `vmlinux`.
//!
//! They are taken over as they are: the root's own init takes over, and this system's init goes before it in an initramfs. A
//! filesystem that is not whole or was not unmounted is refused.

use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::recipe::LoadedRecipe;
use crate::source::{KernelFile, RootSource};

/// Names under which such systems keep them, the usual first.
const ROOTS: &[&str] = &["golden-rootfs.ext4", "rootfs.ext4"];
const KERNELS: &[&str] = &["vmlinux", "vmlinux.bin", "vmlinuz", "bzImage"];

impl LoadedRecipe {
    /// The recipe that takes the images in `dir` over as `name`.
    pub fn import(dir: &Path, name: &str) -> Result<Self, ImageError> {
        let mut loaded = Self::foreign(name, RootSource::Ext4(find(dir, ROOTS)?))?;
        let modules = Some(dir.join("modules")).filter(|modules| modules.join("modules.dep").is_file());
        loaded.kernel = Some(KernelFile { path: find(dir, KERNELS)?, modules });
        loaded.recipe.suite = "imported".to_owned();
        loaded.recipe.kernel_package = "imported".to_owned();
        Ok(loaded)
    }
}

fn find(dir: &Path, wanted: &'static [&'static str]) -> Result<PathBuf, ImageError> {
    let found = wanted.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| ImageError::ImportLacks { dir: dir.to_owned(), wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::guest_config::RootFs;
    use std::fs;

    #[test]
    fn the_two_files_are_found_and_one_that_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let lacks = |name: &str| {
            let err = LoadedRecipe::import(dir.path(), "seed").unwrap_err();
            assert!(err.code() == "import_incomplete" && err.to_string().contains(name), "{err}");
        };
        lacks("golden-rootfs.ext4");
        fs::write(dir.path().join("golden-rootfs.ext4"), "").unwrap();
        lacks("vmlinux");
        fs::write(dir.path().join("vmlinux"), "").unwrap();
        let loaded = LoadedRecipe::import(dir.path(), "seed").unwrap();
        assert_eq!(loaded.source, RootSource::Ext4(dir.path().join("golden-rootfs.ext4")));
        assert_eq!(loaded.recipe.root_fs, RootFs::Ext4);
        assert!(loaded.recipe.initramfs_modules().contains(&"ext4".to_owned()));
    }
}
