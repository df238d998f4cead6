//! The kernel of a recipe and its modules, as a cache entry: `vmlinuz`, `config`, `modules/*.ko`, `kernel.toml`.
//!
//! The distribution's package is unpacked, none of its scripts run, and only the modules that the recipe needs are kept,
//! decompressed. A kernel in the wrong form or a module that does not exist is refused here.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::ImageError;
use crate::modules::ModuleIndex;
use crate::plan;
use crate::recipe::LoadedRecipe;
use crate::reporter::Reporter;
use crate::state_dir::Scratch;
use crate::tool::ToolRun;

/// File name of the kernel, in the cache and in an image.
pub(crate) const KERNEL_FILE: &str = "vmlinuz";
const RECORD: &str = "kernel.toml";

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct KernelEntry {
    dir: PathBuf,
    record: KernelRecord,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KernelRecord {
    release: String,
    /// Of the kernel: an image shares the file with the cache, damage to one is damage to both.
    sha256: String,
    modules: Vec<String>,
}

impl KernelEntry {
    /// The entry at `dir`, if a build completed it and the kernel is still the same.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(RECORD)).ok()?;
        let record: KernelRecord = toml::from_str(&text).ok()?;
        let (actual, _) = digest::of_file(&dir.join(KERNEL_FILE)).ok()?;
        (actual == record.sha256).then(|| Self { dir: dir.to_owned(), record })
    }

    /// Fetches the kernel of a recipe into `dir`.
    pub(crate) fn build(
        loaded: &LoadedRecipe,
        dir: &Path,
        scratch: &Scratch,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let root = scratch.join("kernel");
        let run = plan::fetch_kernel(loaded, &root.to_string_lossy(), &scratch.path().to_string_lossy());
        run.run(reporter).map_err(|err| package_unknown(loaded, err))?;
        let release = find_release(&root, &loaded.recipe.kernel_package)?;
        let vmlinuz = root.join(format!("boot/vmlinuz-{release}"));
        check_format(&vmlinuz)?;
        copy(&vmlinuz, &dir.join(KERNEL_FILE))?;
        copy(&root.join(format!("boot/config-{release}")), &dir.join("config"))?;

        let modules = collect_modules(loaded, &root, &release, &dir.join("modules"), reporter)?;
        let (sha256, _) = digest::of_file(&vmlinuz).map_err(ImageError::io("read", &vmlinuz))?;
        let record = KernelRecord { release, sha256, modules };
        let text = toml::to_string(&record).map_err(ImageError::EncodeManifest)?;
        fs::write(dir.join(RECORD), text).map_err(ImageError::io("write", &dir.join(RECORD)))?;
        fs::remove_dir_all(&root).map_err(ImageError::io("remove", &root))
    }

    /// What `uname -r` will print.
    pub(crate) fn release(&self) -> &str {
        &self.record.release
    }

    /// File names of the modules, in load order.
    pub(crate) fn modules(&self) -> &[String] {
        &self.record.modules
    }

    /// The kernel itself.
    pub(crate) fn kernel_path(&self) -> PathBuf {
        self.dir.join(KERNEL_FILE)
    }

    /// The text of the kernel's configuration.
    pub(crate) fn config(&self) -> Result<String, ImageError> {
        let path = self.dir.join("config");
        fs::read_to_string(&path).map_err(ImageError::io("read", &path))
    }

    /// Content of one module.
    pub(crate) fn read_module(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.dir.join("modules").join(name);
        fs::read(&path).map_err(ImageError::io("read", &path))
    }
}

/// apt's own line, if it was a package name that it did not know.
pub(crate) fn package_unknown(loaded: &LoadedRecipe, err: ImageError) -> ImageError {
    const UNKNOWN: &[&str] = &["E: Unable to locate package", "E: Package '", "has no installation candidate"];
    let ImageError::ToolFailed { tail, .. } = &err else { return err };
    match tail.iter().find(|line| UNKNOWN.iter().any(|text| line.contains(text))) {
        Some(line) => ImageError::PackageUnknown { recipe: loaded.recipe.name.clone(), line: line.clone() },
        None => err,
    }
}

fn find_release(root: &Path, package: &str) -> Result<String, ImageError> {
    let boot = root.join("boot");
    let mut releases: Vec<String> = match fs::read_dir(&boot) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().strip_prefix("vmlinuz-")?.to_owned()))
            .collect(),
        Err(_) => Vec::new(),
    };
    releases.sort();
    releases.pop().ok_or_else(|| ImageError::KernelMissing { package: package.to_owned() })
}

/// The x86 boot protocol's marks: 0xAA55 at 0x1FE and `HdrS` at 0x202 (`Documentation/arch/x86/boot.rst`).
pub(crate) fn check_format(vmlinuz: &Path) -> Result<(), ImageError> {
    let bytes = fs::read(vmlinuz).map_err(ImageError::io("read", vmlinuz))?;
    if is_boot_image(&bytes) { Ok(()) } else { Err(ImageError::KernelFormat { path: vmlinuz.to_owned() }) }
}

fn is_boot_image(bytes: &[u8]) -> bool {
    // Between the two marks stands a jump whose distance is the kernel's own affair.
    bytes.get(0x1fe..0x200) == Some(b"\x55\xaa") && bytes.get(0x202..0x206) == Some(b"HdrS")
}

fn collect_modules(
    loaded: &LoadedRecipe,
    root: &Path,
    release: &str,
    target: &Path,
    reporter: &mut Reporter<'_>,
) -> Result<Vec<String>, ImageError> {
    // Suites with merged /usr ship the modules below usr/lib; depmod looks below lib.
    if !root.join("lib/modules").exists() {
        let link = root.join("lib");
        std::os::unix::fs::symlink("usr/lib", &link).map_err(ImageError::io("link", &link))?;
    }
    ToolRun::new("depmod", ["-b", &root.to_string_lossy(), release]).run(reporter)?;
    let dir = root.join("lib/modules").join(release);
    let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(ImageError::io("read", &dir.join(name)));
    let index = ModuleIndex::parse(&read("modules.dep")?, &read("modules.builtin")?);
    let order = index
        .load_order(loaded.recipe.modules.iter().map(String::as_str))
        .map_err(|source| ImageError::ModuleMissing { release: release.to_owned(), source })?;

    fs::create_dir(target).map_err(ImageError::io("create directory", target))?;
    let mut names = Vec::new();
    for file in order {
        let plain = decompress(&dir.join(&file), reporter)?;
        let name = plain.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copy(&plain, &target.join(&name))?;
        names.push(name);
    }
    reporter.line(&format!("kernel {release}, modules {}", names.join(" ")));
    Ok(names)
}

/// The module without its `.xz`, `.zst` or `.gz`: the guest has nothing to decompress it with.
fn decompress(module: &Path, reporter: &mut Reporter<'_>) -> Result<PathBuf, ImageError> {
    let tool = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(module.to_owned()),
    };
    ToolRun::new(tool, ["-d", "-k", "-f", &module.to_string_lossy()]).run(reporter)?;
    Ok(module.with_extension(""))
}

fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::copy(from, to).map(|_| ()).map_err(ImageError::io("copy into", to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn knows_a_kernel_by_its_marks() {
        let mut bytes = vec![0; 0x300];
        assert!(!is_boot_image(&bytes));
        bytes[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        assert!(!is_boot_image(&bytes));
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(is_boot_image(&bytes));
        assert!(!is_boot_image(b"\x7fELF"));
    }

    #[test]
    fn an_unknown_package_is_told_from_other_failures() {
        let loaded = LoadedRecipe::load("base").unwrap();
        let failed = |line: &str| ImageError::ToolFailed {
            tool: "mmdebstrap".into(),
            status: std::process::ExitStatus::from_raw(256),
            tail: vec![line.to_owned(), "E: setup failed".to_owned()],
        };
        let err = package_unknown(&loaded, failed("E: Unable to locate package no-such"));
        assert!(err.to_string().contains("no-such") && err.code() == "package_unknown");
        assert_eq!(package_unknown(&loaded, failed("E: Connection failed")).code(), "image_build_failed");
    }
}
