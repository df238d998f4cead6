//! Layers in the cache, by the digest of what they were made of: unpacked once, whoever needs them.
//!
//! ```text
//! cache/layer-<first 32 digits of the digest>/{layer.tar,layer.toml}
//! ```
//!
//! An entry is complete or absent. Its plain tar is hashed again when it is used: damage means that it is made anew.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::ImageError;
use crate::registry::replace_directory;
use crate::state_dir::{StateDir, UNFINISHED};
use crate::tarball::{Limits, Unpacked, unpack};
use crate::tree::remove;

const PLAIN_FILE: &str = "layer.tar";
const RECORD: &str = "layer.toml";
/// Digits of a digest that name an entry.
const KEY_DIGITS: usize = 32;

/// Where unpacked layers are kept.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    dir: PathBuf,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Its plain tar.
    pub(crate) plain: PathBuf,
    /// SHA-256 of that (the "diff id").
    pub(crate) plain_sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Of what it was unpacked from.
    sha256: String,
    size: u64,
    plain_sha256: String,
    plain_size: u64,
}

impl LayerCache {
    /// The cache of a state directory.
    pub(crate) fn of(state: &StateDir) -> Self {
        Self { dir: state.cache() }
    }

    /// The layer whose packed form has this digest, if it was unpacked before and is still the same.
    pub(crate) fn find(&self, sha256: &str) -> Option<Layer> {
        let dir = self.entry(sha256);
        let record: Record = toml::from_str(&fs::read_to_string(dir.join(RECORD)).ok()?).ok()?;
        let plain = dir.join(PLAIN_FILE);
        let intact = record.sha256 == sha256
            && digest::of_file(&plain).ok()? == (record.plain_sha256.clone(), record.plain_size);
        intact.then_some(Layer { plain, plain_sha256: record.plain_sha256 })
    }

    /// Unpacks a layer and keeps it, unless `check` refuses what came out. `what` names it in errors.
    pub(crate) fn add(
        &self,
        packed: impl Read,
        what: &str,
        limits: Limits,
        check: impl FnOnce(&Unpacked) -> Result<(), ImageError>,
    ) -> Result<Layer, ImageError> {
        let unfinished = self.dir.join(format!("{UNFINISHED}layer"));
        let kept = self.add_in(&unfinished, packed, what, limits, check);
        if kept.is_err() {
            // What stays is swept by the next build.
            let _ = remove(&unfinished);
        }
        kept
    }

    fn add_in(
        &self,
        unfinished: &Path,
        packed: impl Read,
        what: &str,
        limits: Limits,
        check: impl FnOnce(&Unpacked) -> Result<(), ImageError>,
    ) -> Result<Layer, ImageError> {
        fs::create_dir(unfinished).map_err(ImageError::io("create directory", unfinished))?;
        let plain = unfinished.join(PLAIN_FILE);
        let mut out = fs::File::create(&plain).map_err(ImageError::io("create", &plain))?;
        let unpacked = unpack(packed, what, &mut out, limits)
            .map_err(|source| ImageError::Archive { archive: what.to_owned(), source })?;
        check(&unpacked)?;
        let Unpacked { sha256, size, plain_sha256, plain_size } = unpacked;
        let dir = self.entry(&sha256);
        let record = Record { sha256, size, plain_sha256: plain_sha256.clone(), plain_size };
        let text = toml::to_string(&record).map_err(ImageError::EncodeManifest)?;
        let path = unfinished.join(RECORD);
        fs::write(&path, text).map_err(ImageError::io("write", &path))?;
        replace_directory(unfinished, &dir)?;
        Ok(Layer { plain: dir.join(PLAIN_FILE), plain_sha256 })
    }

    fn entry(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("layer-{}", sha256.get(..KEY_DIGITS).unwrap_or(sha256)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_check(_: &Unpacked) -> Result<(), ImageError> {
        Ok(())
    }

    #[test]
    fn a_layer_is_found_until_it_is_damaged_and_a_refused_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let cache = LayerCache::of(&state);
        let bytes = crate::tarball::testing::Tar::new().file("a", b"x").finish();
        let packed = zstd::encode_all(&bytes[..], 3).unwrap();
        let sha256 = digest::of_bytes(&packed);
        assert_eq!(cache.find(&sha256), None);
        let refuse = |_: &Unpacked| Err(ImageError::Cancelled);
        assert!(cache.add(&packed[..], "a layer", Limits::DEFAULT, refuse).is_err());
        assert_eq!(fs::read_dir(state.cache()).unwrap().count(), 0);

        let layer = cache.add(&packed[..], "a layer", Limits::DEFAULT, no_check).unwrap();
        assert_eq!(layer.plain_sha256, digest::of_bytes(&bytes));
        assert_eq!(cache.find(&sha256), Some(layer.clone()));
        let mut damaged = bytes;
        damaged[600] ^= 1;
        fs::write(&layer.plain, damaged).unwrap();
        assert_eq!(cache.find(&sha256), None);
        assert_eq!(cache.add(&packed[..], "a layer", Limits::DEFAULT, no_check).unwrap(), layer);
        assert!(cache.find(&sha256).is_some());
    }
}
