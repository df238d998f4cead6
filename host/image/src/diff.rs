//! What is different between two images, from their manifests and the lists of what is in their roots.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::inventory;
use crate::manifest::Manifest;
use crate::registry::GoldenImage;

/// Things that only one of two images has, and things that both have in another form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Only the second has them, with their value.
    pub added: BTreeMap<String, String>,
    /// Only the first has them, with their value.
    pub removed: BTreeMap<String, String>,
    /// Both have them, with the value of the first and of the second.
    pub changed: BTreeMap<String, (String, String)>,
}

impl Changes {
    /// From the first to the second.
    pub fn between(first: &BTreeMap<String, String>, second: &BTreeMap<String, String>) -> Self {
        let mut changes = Self::default();
        for name in first.keys().chain(second.keys()).collect::<BTreeSet<_>>() {
            match (first.get(name), second.get(name)) {
                (Some(was), Some(is)) if was != is => {
                    changes.changed.insert(name.clone(), (was.clone(), is.clone()));
                }
                (Some(was), None) => {
                    changes.removed.insert(name.clone(), was.clone());
                }
                (None, Some(is)) => {
                    changes.added.insert(name.clone(), is.clone());
                }
                _ => {}
            }
        }
        changes
    }

    /// Whether both are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// The difference between two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDiff {
    /// Name, suite, agent, memory, network owner, readiness and the like.
    pub facts: Changes,
    /// Installed packages with versions.
    pub packages: Changes,
    /// Options of the kernel's configuration that decide whether an image boots.
    pub kernel_config: Changes,
    /// Modules of the initramfs.
    pub modules: Changes,
    /// Supervised services with their commands.
    pub services: Changes,
    /// The image's own files: size and digest.
    pub files: Changes,
    /// What is in the root: mode, owner and digest; none if one of the two has no list.
    pub root: Option<Changes>,
    /// How many bytes larger the second is.
    pub grown_bytes: i128,
}

/// From the first to the second.
pub fn diff(first: &GoldenImage, second: &GoldenImage) -> ImageDiff {
    let lists = inventory::read(&first.dir).zip(inventory::read(&second.dir));
    ImageDiff {
        root: lists.map(|(first, second)| Changes::between(&first, &second)),
        ..of_manifests(&first.manifest, &second.manifest)
    }
}

fn of_manifests(first: &Manifest, second: &Manifest) -> ImageDiff {
    let changes = |of: fn(&Manifest) -> BTreeMap<String, String>| Changes::between(&of(first), &of(second));
    let size = |manifest: &Manifest| manifest.files.all().iter().map(|file| i128::from(file.size)).sum::<i128>();
    ImageDiff {
        facts: changes(facts),
        packages: changes(|manifest| {
            let npm = manifest.npm.iter().map(|(name, version)| (format!("npm {name}"), version.clone()));
            manifest.packages.clone().into_iter().chain(npm).collect()
        }),
        kernel_config: changes(|manifest| manifest.kernel.config.clone()),
        modules: changes(|manifest| manifest.modules.iter().map(|name| (name.clone(), String::new())).collect()),
        services: changes(|manifest| {
            manifest.services.iter().map(|service| (service.name.clone(), service.command.join(" "))).collect()
        }),
        files: changes(|manifest| {
            let facts = |file: &crate::manifest::FileFacts| format!("{} bytes, sha256:{}", file.size, file.sha256);
            manifest.files.all().iter().map(|file| (file.name.clone(), facts(file))).collect()
        }),
        root: None,
        grown_bytes: size(second) - size(first),
    }
}

fn facts(manifest: &Manifest) -> BTreeMap<String, String> {
    let readiness: Vec<_> = manifest.readiness.iter().map(|stage| stage.name()).collect();
    let all = [
        ("name", manifest.name.clone()),
        ("suite", manifest.suite.clone()),
        ("recipe", manifest.recipe_digest.clone()),
        ("agent", manifest.build_id.clone()),
        ("epoch", manifest.epoch.to_string()),
        ("memory_mib", manifest.memory_mib.to_string()),
        ("vcpus", manifest.vcpus.to_string()),
        ("network_owner", manifest.network_owner.name().to_owned()),
        ("readiness", readiness.join(" ")),
        ("kernel", manifest.kernel.release.clone()),
        ("kernel_package", manifest.kernel.package.clone()),
        ("origin", serde_json::to_string(&manifest.origin).unwrap_or_default()),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_not_told() {
        let first = crate::manifest::sample();
        assert!(of_manifests(&first, &first).packages.is_empty() && of_manifests(&first, &first).facts.is_empty());
        let mut second = first.clone();
        second.packages.insert("libc6".into(), "2.36-10".into());
        second.packages.insert("new".into(), "1".into());
        second.modules.clear();
        second.memory_mib += 1;
        second.files.rootfs.size += 9;
        let found = of_manifests(&first, &second);
        assert_eq!(found.packages.changed["libc6"], ("2.36-9".to_owned(), "2.36-10".to_owned()));
        assert_eq!(found.packages.added.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(found.modules.removed.len(), 1);
        assert_eq!(found.facts.changed.keys().collect::<Vec<_>>(), ["memory_mib"]);
        assert_eq!((found.files.changed.len(), found.grown_bytes), (1, 9));
        assert!(found.kernel_config.is_empty() && found.services.is_empty());
    }
}
