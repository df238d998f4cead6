//! The kernel of a recipe and its modules, as a cache entry: `vmlinuz`, `vmlinux`, `config`, `modules/*.ko`, `kernel.toml`.
//!
//! The distribution's package is unpacked, none of its scripts run, and only the modules that the recipe needs are kept,
//! decompressed. A kernel that is given as a file tells its release and its configuration itself, if it does at all. A kernel in
//! the wrong form or a module that does not exist is refused here.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::downloads::Downloads;
use crate::elf;
use crate::error::ImageError;
use crate::manifest::KernelFormat;
use crate::modules::{ModuleIndex, UnknownModule, normalize};
use crate::plan;
use crate::recipe::LoadedRecipe;
use crate::reporter::Reporter;
use crate::source::KernelFile;
use crate::state_dir::Scratch;
use crate::tool::ToolRun;
use crate::vmlinux;

/// File names of the kernel's two forms, in the cache and in an image.
const BZIMAGE_FILE: &str = "vmlinuz";
const ELF_FILE: &str = "vmlinux";
const RECORD: &str = "kernel.toml";
/// The option that builds a module into the kernel, for a kernel that comes without a list of those.
const BUILT_IN: &[(&str, &str)] = &[
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
    ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    ("virtio_blk", "CONFIG_VIRTIO_BLK"),
    ("virtio_net", "CONFIG_VIRTIO_NET"),
    ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
    ("virtio_rng", "CONFIG_HW_RANDOM_VIRTIO"),
    ("overlay", "CONFIG_OVERLAY_FS"),
    ("erofs", "CONFIG_EROFS_FS"),
    ("ext4", "CONFIG_EXT4_FS"),
    ("squashfs", "CONFIG_SQUASHFS"),
    ("vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"),
];

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct KernelEntry {
    dir: PathBuf,
    record: KernelRecord,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KernelRecord {
    release: String,
    format: KernelFormat,
    /// Of the kernel's files: an image shares them with the cache, damage to one is damage to both.
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vmlinux_sha256: Option<String>,
    modules: Vec<String>,
}

impl KernelEntry {
    /// The entry at `dir`, if a build completed it and the kernel is still the same.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(RECORD)).ok()?;
        let record: KernelRecord = toml::from_str(&text).ok()?;
        let entry = Self { dir: dir.to_owned(), record };
        let (actual, _) = digest::of_file(&entry.dir.join(entry.kernel_file())).ok()?;
        let elf = match (entry.elf_file(), &entry.record.vmlinux_sha256) {
            (Some(file), Some(wanted)) => digest::of_file(&entry.dir.join(file)).ok()?.0 == *wanted,
            _ => true,
        };
        (elf && actual == entry.record.sha256).then_some(entry)
    }

    /// Fetches the kernel of a recipe into `dir`.
    pub(crate) fn build(
        loaded: &LoadedRecipe,
        dir: &Path,
        scratch: &Scratch,
        downloads: &Downloads,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let root = scratch.join("kernel");
        let run = plan::fetch_kernel(loaded, &root.to_string_lossy(), &scratch.path().to_string_lossy());
        downloads.offer(run, reporter)?.run(reporter).map_err(|err| package_unknown(loaded, err))?;
        let release = find_release(&root, &loaded.recipe.kernel_package)?;
        let vmlinuz = root.join(format!("boot/vmlinuz-{release}"));
        let bytes = fs::read(&vmlinuz).map_err(ImageError::io("read", &vmlinuz))?;
        if !is_boot_image(&bytes) {
            return Err(ImageError::KernelFormat { path: vmlinuz });
        }
        copy(&vmlinuz, &dir.join(BZIMAGE_FILE))?;
        let elf =
            vmlinux::of_bzimage(&bytes).map_err(|source| ImageError::KernelElf { path: vmlinuz.clone(), source })?;
        let elf_path = dir.join(ELF_FILE);
        fs::write(&elf_path, &elf).map_err(ImageError::io("write", &elf_path))?;
        copy(&root.join(format!("boot/config-{release}")), &dir.join("config"))?;

        let modules = collect_modules(loaded, &root, &release, &dir.join("modules"), reporter)?;
        let record = KernelRecord {
            release,
            format: KernelFormat::Bzimage,
            sha256: digest::of_bytes(&bytes),
            vmlinux_sha256: Some(digest::of_bytes(&elf)),
            modules,
        };
        write_record(dir, &record)?;
        fs::remove_dir_all(&root).map_err(ImageError::io("remove", &root))
    }

    /// Takes a kernel from a file into `dir`. Its modules are those of `file.modules`, unless they are built in.
    pub(crate) fn build_from_file(
        loaded: &LoadedRecipe,
        file: &KernelFile,
        dir: &Path,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), ImageError> {
        let bytes = fs::read(&file.path).map_err(ImageError::io("read", &file.path))?;
        let (format, elf) = if elf::is_x86_64(&bytes) {
            (KernelFormat::Elf, None)
        } else if is_boot_image(&bytes) {
            let elf = vmlinux::of_bzimage(&bytes);
            (
                KernelFormat::Bzimage,
                Some(elf.map_err(|source| ImageError::KernelElf { path: file.path.clone(), source })?),
            )
        } else {
            return Err(ImageError::KernelFormat { path: file.path.clone() });
        };
        let vmlinux = elf.as_ref().unwrap_or(&bytes);
        let release = vmlinux::release(vmlinux).ok_or_else(|| ImageError::KernelFormat { path: file.path.clone() })?;
        let config = vmlinux::config(vmlinux).unwrap_or_default();
        let write = |name: &str, bytes: &[u8]| {
            fs::write(dir.join(name), bytes).map_err(ImageError::io("write", &dir.join(name)))
        };
        write("config", config.as_bytes())?;
        write(if format == KernelFormat::Elf { ELF_FILE } else { BZIMAGE_FILE }, &bytes)?;
        if let Some(elf) = &elf {
            write(ELF_FILE, elf)?;
        }
        let wanted = not_built_in(&loaded.recipe.initramfs_modules(), &config);
        let modules = dir.join("modules");
        let modules = match &file.modules {
            // A kernel that tells nothing and has no modules has everything built in, or it does not boot; the test boot says.
            None if config.is_empty() || wanted.is_empty() => {
                fs::create_dir(&modules).map_err(ImageError::io("create directory", &modules))?;
                Vec::new()
            }
            None => {
                let source = UnknownModule { name: wanted.first().cloned().unwrap_or_default() };
                return Err(ImageError::ModuleMissing { release, source });
            }
            Some(from) => take_modules(&wanted, from, &release, &modules, reporter)?,
        };
        reporter.line(&format!("kernel {release} of {}, modules {}", file.path.display(), modules.join(" ")));
        let record = KernelRecord {
            release,
            format,
            sha256: digest::of_bytes(&bytes),
            vmlinux_sha256: elf.as_deref().map(digest::of_bytes),
            modules,
        };
        write_record(dir, &record)
    }

    /// Form of the file that QEMU boots.
    pub(crate) fn format(&self) -> KernelFormat {
        self.record.format
    }

    /// Name of the file that QEMU boots.
    pub(crate) fn kernel_file(&self) -> &'static str {
        match self.record.format {
            KernelFormat::Bzimage => BZIMAGE_FILE,
            KernelFormat::Elf => ELF_FILE,
        }
    }

    /// Name of the ELF form, if that is another file.
    pub(crate) fn elf_file(&self) -> Option<&'static str> {
        self.record.vmlinux_sha256.as_ref().map(|_| ELF_FILE)
    }

    /// A file of the entry.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// What `uname -r` will print.
    pub(crate) fn release(&self) -> &str {
        &self.record.release
    }

    /// File names of the modules, in load order.
    pub(crate) fn modules(&self) -> &[String] {
        &self.record.modules
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

fn write_record(dir: &Path, record: &KernelRecord) -> Result<(), ImageError> {
    let text = toml::to_string(record).map_err(ImageError::EncodeManifest)?;
    fs::write(dir.join(RECORD), text).map_err(ImageError::io("write", &dir.join(RECORD)))
}

/// Modules that a kernel of this configuration does not have built in. Of a kernel that tells nothing, all.
fn not_built_in(modules: &[String], config: &str) -> Vec<String> {
    let is_built_in = |name: &str| {
        let option = BUILT_IN.iter().find(|(module, _)| *module == normalize(name)).map(|(_, option)| option);
        option.is_some_and(|option| config.lines().any(|line| line.strip_prefix(option) == Some("=y")))
    };
    modules.iter().filter(|name| !is_built_in(name)).cloned().collect()
}

/// The x86 boot protocol's marks: 0xAA55 at 0x1FE and `HdrS` at 0x202 (`Documentation/arch/x86/boot.rst`).
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
    let names = take_modules(
        &loaded.recipe.initramfs_modules(),
        &root.join("lib/modules").join(release),
        release,
        target,
        reporter,
    )?;
    reporter.line(&format!("kernel {release}, modules {}", names.join(" ")));
    Ok(names)
}

/// Takes modules and what they depend on out of a directory that depmod has described.
fn take_modules(
    wanted: &[String],
    dir: &Path,
    release: &str,
    target: &Path,
    reporter: &mut Reporter<'_>,
) -> Result<Vec<String>, ImageError> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(ImageError::io("read", &dir.join(name)));
    // A directory of modules that somebody put together may have no list of what is built in.
    let built_in = read("modules.builtin").unwrap_or_default();
    let index = ModuleIndex::parse(&read("modules.dep")?, &built_in);
    let order = index
        .load_order(wanted.iter().map(String::as_str))
        .map_err(|source| ImageError::ModuleMissing { release: release.to_owned(), source })?;

    fs::create_dir(target).map_err(ImageError::io("create directory", target))?;
    let mut names = Vec::new();
    for file in order {
        let packed = Path::new(&file).file_name().unwrap_or_default();
        // Copied first: the directory may be the operator's.
        let copied = target.join(packed);
        copy(&dir.join(&file), &copied)?;
        let plain = decompress(&copied, reporter)?;
        if plain != copied {
            fs::remove_file(&copied).map_err(ImageError::io("remove", &copied))?;
        }
        names.push(plain.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
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
    fn what_a_kernel_has_built_in_needs_no_module() {
        let wanted = ["virtio_pci", "virtio-rng", "erofs", "unheard_of"].map(str::to_owned);
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_HW_RANDOM_VIRTIO=y\nCONFIG_EROFS_FS=m\n";
        assert_eq!(not_built_in(&wanted, config), ["erofs", "unheard_of"]);
        assert_eq!(not_built_in(&wanted, "").len(), 4);
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
