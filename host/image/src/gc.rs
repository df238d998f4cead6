//! Decides which images and cache entries nobody needs any more, and removes them.
//!
//! ```text
//! plan (pure) ─ image out of sight (renamed) ─ asked again who uses it ─┬─ nobody ──> removed
//!                                                                       └─ somebody > put back
//! ```
//!
//! Kept are images that a session or a machine uses, the current one of every name, and where a name has no current one its
//! newest. Cache entries are kept as long as an image that stays was made of them. Killed in the middle, what was out of sight
//! is removed by the next build or the next collection.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::lock::BuildLock;
use crate::registry::Registry;
use crate::state_dir::{StateDir, UNFINISHED};
use crate::tree::remove;

/// One image as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSeen {
    /// `name@sha256:digest`.
    pub reference: String,
    /// When it was published, seconds since the Unix epoch.
    pub published_s: i64,
    /// Its name alone stands for it.
    pub is_current: bool,
    /// Digests of its kernel and its root; empty if its manifest cannot be read.
    pub made_of: BTreeSet<String>,
}

/// One entry of the cache that images are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySeen {
    /// Name of its directory.
    pub name: String,
    /// Digest of its file; none if it cannot be read.
    pub sha256: Option<String>,
}

/// Why something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A session or a machine uses it.
    InUse,
    /// Its name alone stands for it.
    Current,
    /// Its name has no current one, and this is the newest.
    Newest,
}

/// What a collection does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcPlan {
    /// Images that go.
    pub remove: Vec<String>,
    /// Images that stay, and why.
    pub keep: BTreeMap<String, Kept>,
    /// Cache entries that go.
    pub remove_cache: Vec<String>,
}

/// Decides what goes.
pub fn plan(images: &[ImageSeen], entries: &[EntrySeen], in_use: &BTreeSet<String>) -> GcPlan {
    let name_of = |image: &ImageSeen| image.reference.split('@').next().unwrap_or_default().to_owned();
    let mut plan = GcPlan::default();
    for image in images {
        let name = name_of(image);
        let others = || images.iter().filter(|other| name_of(other) == name);
        let newest = others().max_by_key(|other| (other.published_s, &other.reference));
        let kept = if in_use.contains(&image.reference) {
            Some(Kept::InUse)
        } else if image.is_current {
            Some(Kept::Current)
        } else if !others().any(|other| other.is_current) && newest == Some(image) {
            Some(Kept::Newest)
        } else {
            None
        };
        match kept {
            Some(why) => {
                plan.keep.insert(image.reference.clone(), why);
            }
            None => plan.remove.push(image.reference.clone()),
        }
    }
    let stays = images.iter().filter(|image| plan.keep.contains_key(&image.reference));
    let needed: BTreeSet<&String> = stays.flat_map(|image| &image.made_of).collect();
    let unused = |entry: &&EntrySeen| entry.sha256.as_ref().is_none_or(|sha256| !needed.contains(sha256));
    plan.remove_cache = entries.iter().filter(unused).map(|entry| entry.name.clone()).collect();
    plan
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Images.
    pub images: Vec<String>,
    /// Cache entries.
    pub cache: Vec<String>,
    /// Images that somebody began to use meanwhile.
    pub put_back: Vec<String>,
    /// Bytes that no other file shares.
    pub freed_bytes: u64,
}

/// What a collection would do now.
pub fn plan_now(state_dir: &Path, in_use: &BTreeSet<String>) -> Result<GcPlan, ImageError> {
    let state = StateDir::open(state_dir)?;
    Ok(plan(&images_seen(&state)?, &entries_seen(&state)?, in_use))
}

/// Collects. `in_use` is asked at the start and again before each removal. Refused while a build runs.
pub fn collect<E: From<ImageError>>(
    state_dir: &Path,
    mut in_use: impl FnMut() -> Result<BTreeSet<String>, E>,
) -> Result<Collected, E> {
    let state = StateDir::open(state_dir)?;
    let _lock = lock(&state, "collection")?;
    state.sweep()?;
    let plan = plan(&images_seen(&state)?, &entries_seen(&state)?, &in_use()?);
    let mut done = Collected::default();
    for reference in plan.remove {
        match take_away(&state, &reference, &mut in_use)? {
            Some(bytes) => {
                done.freed_bytes += bytes;
                done.images.push(reference);
            }
            None => done.put_back.push(reference),
        }
    }
    for name in plan.remove_cache {
        let dir = state.cache().join(&name);
        done.freed_bytes += own_bytes(&dir);
        remove(&dir)?;
        done.cache.push(name);
    }
    Ok(done)
}

/// Removes one image, current or not. Refused while something uses it.
pub fn remove_image<E: From<ImageError>>(
    state_dir: &Path,
    reference: &str,
    mut in_use: impl FnMut() -> Result<BTreeSet<String>, E>,
) -> Result<u64, E> {
    let state = StateDir::open(state_dir)?;
    let _lock = lock(&state, "removal")?;
    let used = || ImageError::ImageInUse { image: reference.to_owned() };
    if in_use()?.contains(reference) {
        return Err(used().into());
    }
    let freed = take_away(&state, reference, &mut in_use)?.ok_or_else(used)?;
    let name = reference.split('@').next().unwrap_or(reference);
    let current = Registry::at(state.images()).current_file(name);
    if fs::read_to_string(&current).is_ok_and(|text| text.trim() == reference) {
        remove(&current)?;
    }
    Ok(freed)
}

fn lock(state: &StateDir, what: &str) -> Result<BuildLock, ImageError> {
    BuildLock::take(&state.lock_file(), what, false, &crate::cancel::Cancel::new(), |_| ())
}

/// `None` if somebody uses it after all.
fn take_away<E: From<ImageError>>(
    state: &StateDir,
    reference: &str,
    in_use: &mut impl FnMut() -> Result<BTreeSet<String>, E>,
) -> Result<Option<u64>, E> {
    let dir = state.images().join(reference);
    let gone = state.images().join(format!("{UNFINISHED}gone-{reference}"));
    fs::rename(&dir, &gone).map_err(ImageError::io("move away", &dir))?;
    // A start that found the image before this moment has told who it is by now, or will not find it any more.
    let used = in_use();
    if !matches!(&used, Ok(used) if !used.contains(reference)) {
        fs::rename(&gone, &dir).map_err(ImageError::io("put back", &dir))?;
        return used.map(|_| None);
    }
    let bytes = own_bytes(&gone);
    remove(&gone)?;
    Ok(Some(bytes))
}

fn images_seen(state: &StateDir) -> Result<Vec<ImageSeen>, ImageError> {
    let registry = Registry::at(state.images());
    let mut seen = Vec::new();
    for reference in registry.references()? {
        let published = fs::metadata(state.images().join(&reference)).map_or(0, |meta| meta.ctime());
        let image = registry.read(&reference).ok();
        let files = image.iter().flat_map(|image| image.manifest.files.all());
        seen.push(ImageSeen {
            published_s: published,
            is_current: registry.is_current_reference(&reference),
            made_of: files.map(|file| file.sha256.clone()).collect(),
            reference,
        });
    }
    Ok(seen)
}

/// Only what stands for one kernel or one root: what else the cache holds has its own rules.
fn entries_seen(state: &StateDir) -> Result<Vec<EntrySeen>, ImageError> {
    #[derive(Deserialize)]
    struct Record {
        sha256: String,
    }
    let cache = state.cache();
    let mut seen = Vec::new();
    for entry in fs::read_dir(&cache).map_err(ImageError::io("list", &cache))? {
        let entry = entry.map_err(ImageError::io("list", &cache))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let record = match name.split('-').next() {
            Some("kernel") => "kernel.toml",
            Some("rootfs") => "rootfs.toml",
            // No image has a file that is one: they serve only the next build.
            Some("layer") => "layer.toml",
            _ => continue,
        };
        let text = fs::read_to_string(entry.path().join(record)).ok();
        let record = text.and_then(|text| toml::from_str::<Record>(&text).ok());
        seen.push(EntrySeen { name, sha256: record.map(|record| record.sha256) });
    }
    Ok(seen)
}

/// Bytes below `dir` in files that have no other name.
fn own_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { own_bytes(&entry.path()) } else { meta.blocks() * 512 * u64::from(meta.nlink() == 1) })
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, published_s: i64, is_current: bool, made_of: &[&str]) -> ImageSeen {
        let made_of = made_of.iter().map(|text| (*text).to_owned()).collect();
        ImageSeen { reference: reference.to_owned(), published_s, is_current, made_of }
    }

    #[test]
    fn what_is_used_current_or_newest_stays_with_what_it_is_made_of() {
        let images = [
            image("base@1", 1, false, &["k1", "r1"]),
            image("base@2", 2, false, &["k1", "r2"]),
            image("base@3", 3, true, &["k1", "r3"]),
            image("base@4", 4, false, &["k2", "r4"]),
            image("lone@1", 1, false, &["k1", "r5"]),
            image("lone@2", 2, false, &[]),
        ];
        let entry =
            |name: &str, sha256: Option<&str>| EntrySeen { name: name.to_owned(), sha256: sha256.map(str::to_owned) };
        let entries = [
            entry("kernel-1", Some("k1")),
            entry("kernel-2", Some("k2")),
            entry("rootfs-1", Some("r1")),
            entry("rootfs-3", Some("r3")),
            entry("rootfs-x", None),
        ];
        let found = plan(&images, &entries, &BTreeSet::from(["base@1".to_owned()]));
        assert_eq!(found.remove, ["base@2", "base@4", "lone@1"]);
        assert_eq!(found.keep["base@1"], Kept::InUse);
        assert_eq!(found.keep["base@3"], Kept::Current);
        assert_eq!(found.keep["lone@2"], Kept::Newest);
        assert_eq!(found.remove_cache, ["kernel-2", "rootfs-x"]);
    }

    fn published(state: &Path, reference: &str) {
        let dir = state.join("images").join(reference);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("manifest.toml"), "torn").unwrap();
    }

    #[test]
    fn an_image_that_is_taken_meanwhile_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        for reference in ["base@sha256:1", "base@sha256:2", "base@sha256:3"] {
            published(dir.path(), reference);
        }
        fs::write(dir.path().join("images/base.current"), "base@sha256:2\n").unwrap();
        let mut asked = 0;
        let done = collect::<ImageError>(dir.path(), || {
            asked += 1;
            // From the second time on somebody has begun a session.
            Ok(if asked > 1 { BTreeSet::from(["base@sha256:1".to_owned()]) } else { BTreeSet::new() })
        })
        .unwrap();
        assert_eq!((done.images, done.put_back), (vec!["base@sha256:3".to_owned()], vec!["base@sha256:1".to_owned()]));
        let mut left: Vec<_> = fs::read_dir(dir.path().join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["base.current", "base@sha256:1", "base@sha256:2"]);

        let free = || Ok(BTreeSet::new());
        let used = || Ok(BTreeSet::from(["base@sha256:2".to_owned()]));
        let err = remove_image::<ImageError>(dir.path(), "base@sha256:2", used).unwrap_err();
        assert_eq!(err.code(), "image_in_use");
        remove_image::<ImageError>(dir.path(), "base@sha256:2", free).unwrap();
        assert!(!dir.path().join("images/base.current").exists());
    }

    #[test]
    fn nothing_is_collected_under_a_build() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let _build = lock(&state, "build of base").unwrap();
        let err = collect::<ImageError>(dir.path(), || Ok(BTreeSet::new())).unwrap_err();
        assert_eq!(err.code(), "build_running");
    }
}
