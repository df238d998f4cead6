//! Finds published images and tells whether they are still what was published.
//!
//! ```text
//! images/<name>@sha256:<digest>/{manifest.toml,vmlinuz,initramfs,rootfs.erofs,sbom.spdx.json,boot-test.json}
//! images/<name>.current            the reference that <name> alone stands for
//! ```
//!
//! Finding an image checks that its files exist with the right sizes (cheap, at every start); `verify` hashes them all.
//! A finished candidate is published here, whole or not at all; nothing else here changes an image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::ImageError;
use crate::gate::{BOOT_TEST_FILE, BootRecord};
use crate::guest_programs::BUILD_ID;
use crate::manifest::{FORMAT, Manifest};
use crate::recipe::LoadedRecipe;
use crate::sbom::{self, SBOM_FILE};
use crate::state_dir::{UNFINISHED, publish_directory, replace_file};
use crate::tree::remove;

/// File name of the manifest in an image.
pub(crate) const MANIFEST_FILE: &str = "manifest.toml";
/// The shortest digest that may stand for a whole one.
const SHORTEST_DIGEST: usize = 12;

/// The published images of a state directory.
#[derive(Debug, Clone)]
pub struct Registry {
    images: PathBuf,
}

/// `name@sha256:digest` of something published, with what can be read of it or why it cannot.
pub type Found = (String, Result<GoldenImage, ImageError>);

/// One published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenImage {
    /// Name of the recipe.
    pub name: String,
    /// SHA-256 of the manifest in hex.
    pub digest: String,
    /// Where its files are.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

impl GoldenImage {
    /// `name@sha256:digest`.
    pub fn reference(&self) -> String {
        format!("{}@sha256:{}", self.name, self.digest)
    }

    /// Whether a build of `loaded` by this program would make the same image, newer packages aside.
    pub fn is_up_to_date(&self, loaded: &LoadedRecipe) -> Result<bool, ImageError> {
        Ok(self.manifest.build_id == BUILD_ID && self.manifest.recipe_digest == loaded.digest()?)
    }

    /// How it booted before it was published; none if it never did: it is unverified.
    pub fn boot_record(&self) -> Option<BootRecord> {
        BootRecord::read(&self.dir)
    }

    /// The kernel (bzImage).
    pub fn kernel_path(&self) -> PathBuf {
        self.dir.join(&self.manifest.files.kernel.name)
    }

    /// The kernel as an ELF file, if that is another file.
    pub fn kernel_elf_path(&self) -> Option<PathBuf> {
        self.manifest.files.vmlinux.as_ref().map(|file| self.dir.join(&file.name))
    }

    /// The initramfs.
    pub fn initramfs_path(&self) -> PathBuf {
        self.dir.join(&self.manifest.files.initramfs.name)
    }

    /// The root filesystem.
    pub fn rootfs_path(&self) -> PathBuf {
        self.dir.join(&self.manifest.files.rootfs.name)
    }
}

impl Registry {
    /// The images of a state directory, which is created if it does not exist.
    pub fn open(state_dir: &Path) -> Result<Self, ImageError> {
        let images = state_dir.join("images");
        fs::create_dir_all(&images).map_err(ImageError::io("create directory", &images))?;
        Ok(Self { images })
    }

    pub(crate) fn at(images: PathBuf) -> Self {
        Self { images }
    }

    /// Makes a candidate the current image of its name. `known`: the same image is published and intact already.
    pub(crate) fn publish(
        &self,
        candidate: &GoldenImage,
        known: bool,
        booted: Option<&BootRecord>,
    ) -> Result<GoldenImage, ImageError> {
        let reference = candidate.reference();
        let dir = self.images.join(&reference);
        let record = booted.map(BootRecord::to_bytes).transpose()?;
        let place = if known { &dir } else { &candidate.dir };
        if let Some(record) = &record {
            replace_file(&place.join(BOOT_TEST_FILE), record)?;
        }
        if !known {
            replace_directory(&candidate.dir, &dir)?;
        }
        replace_file(&self.current_file(&candidate.name), format!("{reference}\n").as_bytes())?;
        self.find(&reference)
    }

    pub(crate) fn current_file(&self, name: &str) -> PathBuf {
        self.images.join(format!("{name}.current"))
    }

    /// Every image whose manifest can be read, by reference; [`Registry::references`] has the others too.
    pub fn list(&self) -> Result<Vec<GoldenImage>, ImageError> {
        Ok(self.references()?.iter().filter_map(|reference| self.read(reference).ok()).collect())
    }

    /// Whether `image` is the one its name alone stands for.
    pub fn is_current(&self, image: &GoldenImage) -> bool {
        self.is_current_reference(&image.reference())
    }

    pub(crate) fn is_current_reference(&self, reference: &str) -> bool {
        let name = reference.split('@').next().unwrap_or(reference);
        self.current(name).as_deref() == Some(reference)
    }

    /// Every image with its state: what can be read, or why it cannot.
    pub fn all(&self) -> Result<Vec<Found>, ImageError> {
        let read = |reference: String| {
            let image = self.read(&reference);
            (reference, image)
        };
        Ok(self.references()?.into_iter().map(read).collect())
    }

    /// The image of `base`, `base@sha256:<digest>`, or of the digest's first 12 digits or more.
    /// Checks existence and size of its files.
    pub fn find(&self, reference: &str) -> Result<GoldenImage, ImageError> {
        let image = self.read(&self.resolve(reference)?)?;
        self.check_sizes(&image)?;
        Ok(image)
    }

    /// The whole reference that a name, or a digest's first digits, stands for; the image may be damaged.
    pub fn resolve(&self, reference: &str) -> Result<String, ImageError> {
        let known = self.references()?;
        let missing = || ImageError::ImageMissing { reference: reference.to_owned(), known: known.clone() };
        let wanted = match reference.split_once("@sha256:") {
            None => self.current(reference).ok_or_else(missing)?,
            Some((_, digest)) if digest.len() < SHORTEST_DIGEST => return Err(missing()),
            Some(_) => {
                let mut matching = known.iter().filter(|known| known.starts_with(reference));
                let first = matching.next().ok_or_else(missing)?;
                if matching.next().is_some() {
                    return Err(missing());
                }
                first.clone()
            }
        };
        if !known.contains(&wanted) {
            return Err(missing());
        }
        Ok(wanted)
    }

    /// Hashes the manifest and every file of an image.
    pub fn verify(&self, image: &GoldenImage) -> Result<(), ImageError> {
        let manifest = read_file(image.dir.join(MANIFEST_FILE), &image.reference())?;
        expect(image, MANIFEST_FILE, &image.digest, &digest::of_bytes(&manifest))?;
        for file in image.manifest.files.all() {
            let path = image.dir.join(&file.name);
            let (actual, _) = digest::of_file(&path).map_err(|source| ImageError::ImageFileMissing {
                image: image.reference(),
                path: path.clone(),
                source,
            })?;
            expect(image, &file.name, &file.sha256, &actual)?;
        }
        // Images of an earlier version have none beside their manifest.
        if let Ok(found) = fs::read(image.dir.join(SBOM_FILE)) {
            let wanted = digest::of_bytes(&sbom::to_bytes(&image.manifest, &image.digest));
            expect(image, SBOM_FILE, &wanted, &digest::of_bytes(&found))?;
        }
        Ok(())
    }

    fn check_sizes(&self, image: &GoldenImage) -> Result<(), ImageError> {
        for file in image.manifest.files.all() {
            let path = image.dir.join(&file.name);
            let meta = fs::metadata(&path).map_err(|source| ImageError::ImageFileMissing {
                image: image.reference(),
                path: path.clone(),
                source,
            })?;
            expect(image, &file.name, &format!("{} bytes", file.size), &format!("{} bytes", meta.len()))?;
        }
        Ok(())
    }

    pub(crate) fn read(&self, reference: &str) -> Result<GoldenImage, ImageError> {
        let dir = self.images.join(reference);
        let bytes = read_file(dir.join(MANIFEST_FILE), reference)?;
        let (name, digest) = reference.split_once("@sha256:").unwrap_or((reference, ""));
        let actual = digest::of_bytes(&bytes);
        let corrupt = |wanted: &str, actual: String| ImageError::ImageCorrupt {
            image: reference.to_owned(),
            file: MANIFEST_FILE.to_owned(),
            wanted: wanted.to_owned(),
            actual,
        };
        if actual != digest {
            return Err(corrupt(digest, actual));
        }
        let manifest: Manifest = toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|source| {
            ImageError::ManifestMalformed { image: reference.to_owned(), source: Box::new(source) }
        })?;
        if manifest.format != FORMAT {
            return Err(corrupt(&format!("format {FORMAT}"), format!("format {}", manifest.format)));
        }
        Ok(GoldenImage { name: name.to_owned(), digest: digest.to_owned(), dir, manifest })
    }

    fn current(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(self.current_file(name)).ok()?.trim().to_owned())
    }

    /// `name@sha256:digest` of everything published, damaged or not; [`Registry::find`] says what is wrong with one.
    pub fn references(&self) -> Result<Vec<String>, ImageError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.images).map_err(ImageError::io("list", &self.images))? {
            let entry = entry.map_err(ImageError::io("list", &self.images))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("@sha256:") && !name.starts_with(UNFINISHED) {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Writes the manifest beside the files it names, and makes them all read-only: what is published is never changed.
pub(crate) fn prepare(manifest: &Manifest, dir: &Path) -> Result<GoldenImage, ImageError> {
    let text = toml::to_string(manifest).map_err(ImageError::EncodeManifest)?;
    let path = dir.join(MANIFEST_FILE);
    fs::write(&path, &text).map_err(ImageError::io("write", &path))?;
    let digest = digest::of_bytes(text.as_bytes());
    let path = dir.join(SBOM_FILE);
    fs::write(&path, sbom::to_bytes(manifest, &digest)).map_err(ImageError::io("write", &path))?;
    for file in manifest.files.all().into_iter().map(|file| file.name.as_str()).chain([MANIFEST_FILE, SBOM_FILE]) {
        let path = dir.join(file);
        let read_only = fs::Permissions::from_mode(0o444);
        fs::set_permissions(&path, read_only).map_err(ImageError::io("change the mode of", &path))?;
    }
    Ok(GoldenImage { name: manifest.name.clone(), digest, dir: dir.to_owned(), manifest: manifest.clone() })
}

/// Puts a finished directory in the place of another; the other is out of sight before it is removed.
pub(crate) fn replace_directory(unfinished: &Path, dir: &Path) -> Result<(), ImageError> {
    if dir.exists() {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let old = dir.with_file_name(format!("{UNFINISHED}old-{name}"));
        fs::rename(dir, &old).map_err(ImageError::io("move away", dir))?;
        publish_directory(unfinished, dir)?;
        return remove(&old);
    }
    publish_directory(unfinished, dir)
}

fn read_file(path: PathBuf, image: &str) -> Result<Vec<u8>, ImageError> {
    fs::read(&path).map_err(|source| ImageError::ImageFileMissing { image: image.to_owned(), path, source })
}

fn expect(image: &GoldenImage, file: &str, wanted: &str, actual: &str) -> Result<(), ImageError> {
    if wanted == actual {
        return Ok(());
    }
    Err(ImageError::ImageCorrupt {
        image: image.reference(),
        file: file.to_owned(),
        wanted: wanted.to_owned(),
        actual: actual.to_owned(),
    })
}
