//! Puts the initramfs together: init, the other guest programs, the modules, the guest configuration. Pure.

use airlock_protocol::guest_config::GuestConfig;
use airlock_protocol::paths::{INITRAMFS_BIN, INITRAMFS_CONFIG, INITRAMFS_MODULES};

use crate::cpio::Archive;
use crate::elf;
use crate::error::ImageError;
use crate::guest_programs::{GuestProgram, INIT};
use crate::recipe::Recipe;

/// Mount points and directories that init expects.
const DIRECTORIES: &[&str] =
    &["/dev", "/proc", "/sys", "/run", "/newroot", "/airlock", INITRAMFS_BIN, INITRAMFS_MODULES];

/// The guest configuration of a recipe.
pub(crate) fn guest_config(
    recipe: &Recipe,
    build_id: &str,
    kernel_release: &str,
    modules: &[String],
    later_modules: &[String],
) -> GuestConfig {
    GuestConfig {
        build_id: build_id.to_owned(),
        kernel_release: kernel_release.to_owned(),
        modules: modules.to_vec(),
        later_modules: later_modules.to_vec(),
        root_fs: recipe.root_fs,
        handover: recipe.handover,
        network_owner: recipe.network_owner,
        network_addressing: recipe.network_addressing,
        on_address_conflict: recipe.on_address_conflict,
        services: recipe.services.clone(),
        display: recipe.display.clone(),
    }
}

/// The archive: `programs` are the guest programs, `modules` are names and contents in load order.
pub(crate) fn assemble(
    config: &GuestConfig,
    programs: &[GuestProgram],
    modules: &[(String, Vec<u8>)],
) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new();
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    // The kernel opens this for init before devtmpfs is mounted.
    archive.character_device("/dev/console", 5, 1)?;
    for program in programs {
        elf::check_static(program.bytes)
            .map_err(|source| ImageError::GuestProgram { program: program.name.to_owned(), source })?;
        if program.name == INIT {
            archive.file("/init", 0o755, program.bytes)?;
        } else {
            archive.file(&format!("{INITRAMFS_BIN}/{}", program.name), 0o755, program.bytes)?;
        }
    }
    for (name, content) in modules {
        archive.file(&format!("{INITRAMFS_MODULES}/{name}"), 0o644, content)?;
    }
    let config = serde_json::to_vec_pretty(config).map_err(ImageError::Encode)?;
    archive.file(INITRAMFS_CONFIG, 0o644, &config)?;
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_programs::{AGENT, guest_programs};
    use crate::recipe::LoadedRecipe;
    use std::process::Command;

    /// Unpacks what we assembled with the reference tool and reads the configuration back.
    #[test]
    fn everything_is_where_init_looks_for_it() {
        let recipe = LoadedRecipe::load("base").unwrap().recipe;
        let config = guest_config(&recipe, "build", "6.1.0", &["virtio.ko".to_owned()], &[]);
        let modules = [("virtio.ko".to_owned(), b"module".to_vec())];
        let bytes = assemble(&config, guest_programs(), &modules).unwrap();
        assert_eq!(bytes, assemble(&config, guest_programs(), &modules).unwrap());

        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("initramfs");
        std::fs::write(&archive, bytes).unwrap();
        let unpacked = dir.path().join("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        // Without the device node, which only root could make.
        let status = Command::new("cpio")
            .args(["-id", "--quiet", "--no-absolute-filenames", "-F"])
            .arg(&archive)
            .args(["init", "airlock*"])
            .current_dir(&unpacked)
            .status()
            .unwrap();
        assert!(status.success());
        let init = guest_programs().iter().find(|program| program.name == INIT).unwrap();
        assert_eq!(std::fs::read(unpacked.join("init")).unwrap(), init.bytes);
        let inside = |path: &str| unpacked.join(&path[1..]);
        assert_eq!(std::fs::read(inside(INITRAMFS_MODULES).join("virtio.ko")).unwrap(), b"module");
        assert!(inside(INITRAMFS_BIN).join(AGENT).is_file());
        let read: GuestConfig = serde_json::from_slice(&std::fs::read(inside(INITRAMFS_CONFIG)).unwrap()).unwrap();
        assert_eq!(read, config);
    }
}
