//! Reads a candidate's files into facts. Nothing is judged here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;

use airlock_protocol::guest_config::{GuestConfig, RootFs};
use airlock_protocol::paths::{INITRAMFS_BIN, INITRAMFS_CONFIG, INITRAMFS_MODULES};

use super::{Facts, KernelFormat, RootSeen, newc};
use crate::elf::{self, ElfFault};
use crate::error::ImageError;
use crate::guest_programs::INIT;
use crate::registry::GoldenImage;

/// As much of a filesystem image as its superblock needs.
const FIRST: u64 = 4096;

/// A kernel module in an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSeen {
    /// File name.
    pub name: String,
    /// Its `vermagic`, which begins with the release it was built for; none if it is no module.
    pub vermagic: Option<String>,
    /// Modules that it depends on.
    pub depends: Vec<String>,
}

/// A program of ours in an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurProgram {
    /// Whether it has an executable bit.
    pub executable: bool,
    /// Why it cannot run there.
    pub fault: Option<ElfFault>,
}

/// What an initramfs holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitramfsSeen {
    /// Our programs, by name.
    pub programs: BTreeMap<String, OurProgram>,
    /// The modules.
    pub modules: Vec<ModuleSeen>,
    /// In which order init loads them.
    pub load_order: Vec<String>,
}

/// What the first blocks of a root filesystem say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperblockSeen {
    /// A filesystem of this kind.
    Of {
        /// Which.
        kind: RootFs,
        /// Its size in bytes.
        wanted: u64,
        /// The file's size in bytes.
        actual: u64,
    },
    /// None that is known.
    Unknown,
}

/// Reads a candidate. `config` is the text of the kernel's configuration, `root` what was seen in the root when it was made.
pub fn collect(candidate: &GoldenImage, config: Option<&str>, root: Option<RootSeen>) -> Result<Facts, ImageError> {
    let read = |path: &std::path::Path| fs::read(path).map_err(ImageError::io("read", path));
    let rootfs = candidate.rootfs_path();
    let file = File::open(&rootfs).map_err(ImageError::io("open", &rootfs))?;
    let size = file.metadata().map_err(ImageError::io("read", &rootfs))?.len();
    let mut first = Vec::new();
    file.take(FIRST).read_to_end(&mut first).map_err(ImageError::io("read", &rootfs))?;
    Ok(Facts {
        manifest: candidate.manifest.clone(),
        kernel: KernelFormat::of(&read(&candidate.kernel_path())?),
        config: config.map(options),
        initramfs: initramfs(&read(&candidate.initramfs_path())?),
        superblock: SuperblockSeen::of(&first, size),
        root,
    })
}

/// Every option that is set in a `.config`.
fn options(text: &str) -> BTreeMap<String, String> {
    let set = text.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.split_once('='));
    set.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn initramfs(archive: &[u8]) -> Result<InitramfsSeen, String> {
    let mut seen = InitramfsSeen::default();
    let below = |path: &str, dir: &str| {
        let dir = dir.trim_start_matches('/');
        path.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned)
    };
    for entry in newc::entries(archive)? {
        if let Some(name) = below(entry.path, INITRAMFS_MODULES) {
            seen.modules.push(module(name, entry.content));
        } else if entry.path == INITRAMFS_CONFIG.trim_start_matches('/') {
            let config: GuestConfig = serde_json::from_slice(entry.content)
                .map_err(|error| format!("{INITRAMFS_CONFIG} is no guest configuration: {error}"))?;
            seen.load_order = [config.modules, config.later_modules].concat();
        } else {
            let name = if entry.path == "init" { Some(INIT.to_owned()) } else { below(entry.path, INITRAMFS_BIN) };
            if let Some(name) = name {
                let fault = elf::check_static(entry.content).err();
                seen.programs.insert(name, OurProgram { executable: entry.mode & 0o111 != 0, fault });
            }
        }
    }
    Ok(seen)
}

/// `.modinfo` is a list of `key=value`, each with a NUL behind it (include/linux/module.h).
fn module(name: String, content: &[u8]) -> ModuleSeen {
    let value = |key: &[u8]| {
        let marked = [b"\0", key, b"="].concat();
        let at = content.windows(marked.len()).position(|window| window == marked)? + marked.len();
        let rest = content.get(at..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let is_elf = content.starts_with(b"\x7fELF");
    let depends = value(b"depends").unwrap_or_default();
    ModuleSeen {
        name,
        vermagic: value(b"vermagic").filter(|_| is_elf),
        depends: depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}
