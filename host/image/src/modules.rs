//! Decides which kernel modules an initramfs carries and in which order they load.
//!
//! Pure: the text of `modules.dep` and `modules.builtin` (kmod's `modules.dep(5)`) goes in, a load order comes out.
//! A module that exists neither as a file nor in the kernel is refused by name, before anything is built.

use std::collections::{BTreeMap, BTreeSet};

/// The modules that belong to one kernel.
#[derive(Debug, Default)]
pub struct ModuleIndex {
    /// Normalized name to file and the files it depends on, both below the kernel's module directory.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

/// A module that neither exists as a file nor is built into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no module {name:?}")]
pub struct UnknownModule {
    /// The name that was asked for.
    pub name: String,
}

impl ModuleIndex {
    /// Reads kmod's two files.
    pub fn parse(modules_dep: &str, modules_builtin: &str) -> Self {
        let mut files = BTreeMap::new();
        for line in modules_dep.lines() {
            let Some((file, dependencies)) = line.split_once(':') else { continue };
            let dependencies = dependencies.split_whitespace().map(str::to_owned).collect();
            files.insert(normalize(file), (file.to_owned(), dependencies));
        }
        Self { files, builtin: modules_builtin.lines().map(normalize).collect() }
    }

    /// The files to load, dependencies first, each once. A module that is built in needs no file.
    pub fn load_order<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, UnknownModule> {
        let mut order: Vec<String> = Vec::new();
        for name in wanted {
            let Some((file, dependencies)) = self.files.get(&normalize(name)) else {
                if self.builtin.contains(&normalize(name)) {
                    continue;
                }
                return Err(UnknownModule { name: name.to_owned() });
            };
            // modules.dep lists all of them, direct or not, so that loading from the right end satisfies everyone.
            for file in dependencies.iter().rev().chain([file]) {
                if !order.contains(file) {
                    order.push(file.clone());
                }
            }
        }
        Ok(order)
    }
}

/// The name by which a module's file is known: no directory, no suffixes, `_` for `-`.
pub fn normalize(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_legacy_dev.ko kernel/drivers/virtio/virtio_pci_modern_dev.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_legacy_dev.ko:
kernel/drivers/virtio/virtio_pci_modern_dev.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
";

    #[test]
    fn dependencies_come_first_and_once() {
        let index = ModuleIndex::parse(DEP, "kernel/fs/ext4/ext4.ko\n");
        let order = index.load_order(["virtio_pci", "virtio_rng", "ext4", "virtio-pci"]).unwrap();
        let names: Vec<String> = order.iter().map(|file| normalize(file)).collect();
        let wanted =
            ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_rng"];
        assert_eq!(names, wanted);
    }

    #[test]
    fn a_missing_module_is_named() {
        let index = ModuleIndex::parse(DEP, "");
        assert_eq!(index.load_order(["virtio", "erofs"]), Err(UnknownModule { name: "erofs".into() }));
    }
}
