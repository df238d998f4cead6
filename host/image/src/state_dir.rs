//! Where things lie below the state directory, the build lock, and the scratch space of one build.
//!
//! Everything that is not finished has a name of its own that the next build removes, so a build that was killed at any
//! point leaves nothing that counts as an image or a cache entry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::digest;
use crate::error::ImageError;
use crate::tree::remove;

/// Start of the names of unfinished directories.
pub(crate) const UNFINISHED: &str = ".building-";
/// Scratch space on memory is used when this much is free, in bytes: the largest recipe's root with its packages.
const SCRATCH_NEEDS: u64 = 4 << 30;

/// The part of the state directory that belongs to images.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Creates what is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        for dir in ["images", "cache"] {
            let dir = path.join(dir);
            fs::create_dir_all(&dir).map_err(ImageError::io("create directory", &dir))?;
        }
        let path = path.canonicalize().map_err(ImageError::io("resolve", path))?;
        Ok(Self { path })
    }

    /// Published images.
    pub(crate) fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// What a build may reuse.
    pub(crate) fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The log of the latest build of `name`.
    pub(crate) fn build_log(&self, name: &str) -> PathBuf {
        self.cache().join(format!("build-{name}.log"))
    }

    /// The lock that keeps two builds apart.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.cache().join("build.lock")
    }

    /// Removes what earlier builds left unfinished. Only for the holder of the lock.
    pub(crate) fn sweep(&self) -> Result<(), ImageError> {
        for dir in [self.images(), self.cache()] {
            for entry in fs::read_dir(&dir).map_err(ImageError::io("list", &dir))? {
                let entry = entry.map_err(ImageError::io("list", &dir))?;
                if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    remove(&entry.path())?;
                }
            }
        }
        remove(&self.memory_scratch())
    }

    /// An empty directory for one build: on memory if there is room, else in the cache.
    pub(crate) fn scratch(&self) -> Result<Scratch, ImageError> {
        let memory = self.memory_scratch();
        let free = memory.parent().and_then(|dir| statvfs(dir).ok());
        let roomy = free.is_some_and(|fs| fs.blocks_available() * fs.fragment_size() >= SCRATCH_NEEDS)
            && memory_available().is_some_and(|bytes| bytes >= SCRATCH_NEEDS);
        let path = if roomy { memory } else { self.cache().join(format!("{UNFINISHED}scratch")) };
        fs::create_dir_all(&path).map_err(ImageError::io("create directory", &path))?;
        Ok(Scratch { path })
    }

    fn memory_scratch(&self) -> PathBuf {
        let tag = digest::of_bytes(self.path.as_os_str().as_encoded_bytes());
        PathBuf::from(format!("/dev/shm/airlock-build-{}", &tag[..12]))
    }
}

/// `MemAvailable` of proc(5), in bytes.
fn memory_available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

/// A directory that goes away with its build.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept by the next build.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a finished directory durable and visible under its final name, all or nothing.
pub(crate) fn publish_directory(unfinished: &Path, final_path: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(unfinished).map_err(ImageError::io("list", unfinished))? {
        sync(&entry.map_err(ImageError::io("list", unfinished))?.path())?;
    }
    sync(unfinished)?;
    fs::rename(unfinished, final_path).map_err(ImageError::io("publish", final_path))?;
    sync(final_path.parent().unwrap_or(final_path))
}

/// Writes `content` to `path` so that a reader sees the old or the new content, never a part.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!("{UNFINISHED}{name}"));
    fs::write(&unfinished, content).map_err(ImageError::io("write", &unfinished))?;
    sync(&unfinished)?;
    fs::rename(&unfinished, path).map_err(ImageError::io("publish", path))?;
    sync(path.parent().unwrap_or(path))
}

fn sync(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(ImageError::io("write back", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_is_swept_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let dead = state.images().join(format!("{UNFINISHED}base"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("vmlinuz"), "half").unwrap();
        fs::create_dir_all(state.memory_scratch().join("root")).unwrap();
        fs::write(state.images().join("base.current"), "x").unwrap();
        state.sweep().unwrap();
        assert!(!dead.exists() && !state.memory_scratch().exists());
        assert!(state.images().join("base.current").exists());
    }
}
