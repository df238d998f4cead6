//! What must hold of a kernel: its form, its age, the options that a boot under a VMM needs.

use std::collections::BTreeMap;

use airlock_protocol::Stage;
use airlock_protocol::guest_config::{NetworkOwner, RootFs};

use super::{Facts, Problem};
use crate::manifest::{VSOCK_MODULE, lacking_for_owner};
use crate::modules::normalize;

/// The oldest kernel that the VMMs support (Firecracker's kernel policy), and that knows 64-bit DMA over virtio-mmio.
const OLDEST: (u32, u32) = (4, 14);
/// From here on getrandom(2) does not wait for a device (commit 50ee7529ec45).
const NEVER_WAITS: (u32, u32) = (5, 6);

/// The form of a kernel file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// For QEMU: x86 boot protocol (`Documentation/arch/x86/boot.rst`).
    BzImage,
    /// For Firecracker: ELF-64 for x86-64.
    Elf,
    /// One of them, but cut: bytes that its header promises, and bytes that are there.
    Truncated {
        /// By the header.
        wanted: u64,
        /// In the file.
        actual: u64,
    },
    /// ELF for another machine.
    OtherMachine(u16),
    /// Neither.
    Unknown,
}

impl KernelFormat {
    /// Reads the form of a whole kernel file.
    pub fn of(bytes: &[u8]) -> Self {
        let actual = bytes.len() as u64;
        if bytes.starts_with(b"\x7fELF") {
            let Some(machine) = bytes.get(18..20).map(|pair| u16::from_le_bytes([pair[0], pair[1]])) else {
                return Self::Truncated { wanted: 64, actual };
            };
            if machine != 62 {
                return Self::OtherMachine(machine);
            }
            let wanted = super::elf_seen::loaded_end(bytes);
            return match wanted {
                Some(wanted) if wanted <= actual => Self::Elf,
                wanted => Self::Truncated { wanted: wanted.unwrap_or(64), actual },
            };
        }
        let marked = bytes.get(0x1fe..0x200) == Some(b"\x55\xaa") && bytes.get(0x202..0x206) == Some(b"HdrS");
        if !marked {
            return Self::Unknown;
        }
        // setup_sects at 0x1f1 (0 means 4) in sectors behind the first, syssize at 0x1f4 in paragraphs.
        let sectors = u64::from(bytes.get(0x1f1).copied().map_or(4, |count| if count == 0 { 4 } else { count }));
        let paragraphs = bytes.get(0x1f4..0x1f8).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
        let wanted = (sectors + 1) * 512 + u64::from(paragraphs) * 16;
        if wanted <= actual { Self::BzImage } else { Self::Truncated { wanted, actual } }
    }
}

/// What a boot needs of the kernel: the option, the module that is as good, the code and stage where it is missing.
struct Need {
    option: &'static str,
    module: Option<&'static str>,
    code: &'static str,
    stage: Stage,
    /// For what, in words.
    what: &'static str,
}

const fn need(
    option: &'static str,
    module: Option<&'static str>,
    code: &'static str,
    stage: Stage,
    what: &'static str,
) -> Need {
    Need { option, module, code, stage, what }
}

const NEEDS: &[Need] = &[
    need("CONFIG_64BIT", None, "kernel_panic", Stage::KernelStarted, "64-bit programs, which init is"),
    need("CONFIG_SERIAL_8250_CONSOLE", None, "no_console_output", Stage::KernelStarted, "a console on ttyS0"),
    need("CONFIG_BLK_DEV_INITRD", None, "root_device_missing", Stage::InitStarted, "an initramfs"),
    need("CONFIG_BINFMT_ELF", None, "init_missing", Stage::InitStarted, "running init at all"),
    need("CONFIG_DEVTMPFS", None, "root_device_missing", Stage::InitStarted, "/dev"),
    need("CONFIG_TMPFS", None, "root_fs_unsupported", Stage::InitStarted, "the writable layer of the root"),
    need("CONFIG_VIRTIO_NET", Some("virtio_net"), "link_missing", Stage::LinkFound, "the network interface"),
    need("CONFIG_VIRTIO_BLK", Some("virtio_blk"), "root_device_missing", Stage::RootMounted, "the root device"),
    need(
        "CONFIG_OVERLAY_FS",
        Some("overlay"),
        "root_fs_unsupported",
        Stage::RootMounted,
        "the writable layer of the root",
    ),
    need(
        "CONFIG_VIRTIO_CONSOLE",
        Some("virtio_console"),
        "agent_not_installed",
        Stage::AgentUp,
        "the agent's control channel",
    ),
];

/// Everything wrong with the kernel.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let mut problems = Vec::new();
    let file = &facts.manifest.files.kernel.name;
    let build_other =
        "take the kernel of a kernel image package (linux-image-cloud-amd64), or a vmlinux of the same build";
    let refused = match facts.kernel {
        KernelFormat::BzImage | KernelFormat::Elf => None,
        KernelFormat::Truncated { wanted, actual } => {
            Some(format!("{file} is cut: its header names {wanted} bytes, it has {actual}"))
        }
        KernelFormat::OtherMachine(machine) => Some(format!("{file} is for ELF machine {machine}, not x86-64 (62)")),
        KernelFormat::Unknown => Some(format!("{file} is neither a bzImage nor an ELF kernel")),
    };
    problems.extend(refused.map(|what| Problem::new("no_console_output", Stage::KernelStarted, what, build_other)));

    let release = &facts.manifest.kernel.release;
    let age = version(release);
    if age.is_some_and(|age| age < OLDEST) {
        let what = format!("kernel {release} is older than {}.{}", OLDEST.0, OLDEST.1);
        problems.push(Problem::new("virtio_dma_failed", Stage::KernelStarted, what, "take a newer kernel"));
    }
    if let Some(config) = &facts.config {
        problems.extend(option_problems(facts, config, age));
    }
    problems
}

fn option_problems(facts: &Facts, config: &BTreeMap<String, String>, age: Option<(u32, u32)>) -> Vec<Problem> {
    let manifest = &facts.manifest;
    let value = |option: &str| config.get(option).map_or("n", String::as_str);
    let loaded = |module: &str| manifest.modules.iter().any(|file| normalize(file) == module);
    let missing = |need: &Need| {
        let as_module = need.module.is_some_and(|module| value(need.option) == "m" && loaded(module));
        if value(need.option) == "y" || as_module {
            return None;
        }
        let (what, remedy) = match need.module.filter(|_| value(need.option) == "m") {
            Some(module) => (
                format!("{} is m and the module {module} is not in the initramfs: no {}", need.option, need.what),
                format!("add {module} to the recipe's modules"),
            ),
            None => (
                format!("{} is {}: no {}", need.option, value(need.option), need.what),
                format!("take a kernel with {}=y", need.option),
            ),
        };
        Some(Problem::new(need.code, need.stage, what, remedy))
    };
    let mut problems: Vec<Problem> = NEEDS.iter().filter_map(missing).collect();

    let (option, module) = match manifest.root_fs {
        RootFs::Erofs => ("CONFIG_EROFS_FS", "erofs"),
        RootFs::Ext4 => ("CONFIG_EXT4_FS", "ext4"),
        RootFs::Squashfs => ("CONFIG_SQUASHFS", "squashfs"),
    };
    problems.extend(missing(&need(
        option,
        Some(module),
        "root_fs_unsupported",
        Stage::RootMounted,
        "the root's filesystem",
    )));

    let transports = [
        need("CONFIG_VIRTIO_PCI", Some("virtio_pci"), "root_device_missing", Stage::LinkFound, "devices on PCI"),
        need(
            "CONFIG_VIRTIO_MMIO",
            Some("virtio_mmio"),
            "root_device_missing",
            Stage::LinkFound,
            "devices at memory addresses",
        ),
    ];
    let lacking: Vec<Problem> = transports.iter().filter_map(missing).collect();
    // One is enough for a boot, but not for every VMM.
    let both = lacking.len() == transports.len();
    problems.extend(lacking.into_iter().map(|problem| if both { problem } else { problem.warning() }));
    let vsock = need(
        "CONFIG_VIRTIO_VSOCKETS",
        Some(VSOCK_MODULE),
        "agent_not_installed",
        Stage::AgentUp,
        "control channel over vsock (Firecracker)",
    );
    problems.extend(missing(&vsock).map(Problem::warning));
    let rng =
        need("CONFIG_HW_RANDOM_VIRTIO", Some("virtio_rng"), "entropy_blocked", Stage::AgentUp, "entropy from the host");
    let waits = age.is_none_or(|age| age < NEVER_WAITS);
    problems.extend(missing(&rng).map(|problem| if waits { problem } else { problem.warning() }));

    if let Some((option, actual)) = lacking_for_owner(manifest.network_owner, config) {
        let what =
            format!("the kernel is to configure the network (network_owner = \"kernel\") and {option} is {actual}");
        let remedy = "take a kernel that has it built in, or another network_owner (airlock needs none of it)";
        problems.push(Problem::new("kernel_option_missing", Stage::AddressSet, what, remedy));
    }
    problems.extend(command_line_problems(value("CONFIG_CMDLINE"), value("CONFIG_CMDLINE_OVERRIDE") == "y"));
    problems
}

/// A command line that is built into the kernel stands before ours, or in its place.
fn command_line_problems(built_in: &str, overrides: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    if overrides {
        let what =
            "CONFIG_CMDLINE_OVERRIDE is y: the kernel ignores ip= and every other word of the VMM's command line";
        problems.push(Problem::new(
            "cmdline_ip_missing",
            Stage::ConfigRead,
            what,
            "take a kernel with CONFIG_CMDLINE_OVERRIDE=n",
        ));
    }
    let words = built_in.trim_matches('"').split_whitespace();
    if words.clone().any(|word| word == "rootwait") {
        let what = "CONFIG_CMDLINE has rootwait: a missing root device is waited for without end";
        problems.push(Problem::new(
            "root_wait_forever",
            Stage::RootMounted,
            what,
            "take a kernel without it in CONFIG_CMDLINE",
        ));
    }
    problems
}

/// Major and minor of a release like `6.1.0-56-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether an owner of the network is a program of the image, which only an init starts.
pub(super) fn needs_init(owner: NetworkOwner) -> bool {
    !matches!(owner, NetworkOwner::Airlock | NetworkOwner::Kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_kernels() {
        assert_eq!(KernelFormat::of(b""), KernelFormat::Unknown);
        assert_eq!(KernelFormat::of(b"\x1f\x8b gzip"), KernelFormat::Unknown);
        assert_eq!(KernelFormat::of(b"\x7fELF"), KernelFormat::Truncated { wanted: 64, actual: 4 });
        let mut image = vec![0; 0x1000];
        image[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        image[0x1f4] = 0xc0;
        assert_eq!(KernelFormat::of(&image), KernelFormat::BzImage);
        image.pop();
        assert_eq!(KernelFormat::of(&image), KernelFormat::Truncated { wanted: 0x1000, actual: 0xfff });
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("4.9.337"), Some((4, 9)));
        assert!(version("4.9").unwrap() < OLDEST && version("5.10-x").unwrap() > OLDEST);
        assert_eq!(version("next"), None);
    }
}
