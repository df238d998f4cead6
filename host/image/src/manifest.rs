//! The manifest of a golden image: what is in it, by digest. The image's own digest is the SHA-256 of this file's bytes.

use std::collections::BTreeMap;

use airlock_protocol::Stage;
use airlock_protocol::guest_config::{Display, Handover, RootFs, Service};
use serde::{Deserialize, Serialize};

use crate::modules;
use crate::recipe::{Addressing, NetworkOwner, OnConflict};
use crate::source::Origin;

/// Version of the manifest's form. A manifest of another version is refused.
pub const FORMAT: u32 = 1;

/// What an image is and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the recipe.
    pub name: String,
    /// Digest of the recipe and the files it names.
    pub recipe_digest: String,
    /// Build id of init and agent.
    pub build_id: String,
    /// Time stamp of every file in the image, seconds since the Unix epoch.
    pub epoch: u64,
    /// Distribution suite.
    pub suite: String,
    /// Guest memory in MiB that the image needs.
    pub memory_mib: u32,
    /// Virtual CPUs that the image is made for.
    pub vcpus: u8,
    /// Who configures the guest's network.
    pub network_owner: NetworkOwner,
    /// Where that owner has the address from.
    #[serde(default, skip_serializing_if = "Addressing::is_default")]
    pub network_addressing: Addressing,
    /// What follows when somebody else changes the guest's address.
    #[serde(default, skip_serializing_if = "OnConflict::is_default")]
    pub on_address_conflict: OnConflict,
    /// Who is PID 1 after the root is mounted.
    #[serde(default, skip_serializing_if = "Handover::is_default")]
    pub handover: Handover,
    /// Stages that must be reached before the image counts as ready, in order.
    pub readiness: Vec<Stage>,
    /// Filesystem of the root.
    pub root_fs: RootFs,
    /// Modules in the initramfs, in load order.
    pub modules: Vec<String>,
    /// The kernel.
    pub kernel: KernelFacts,
    /// The image's files.
    pub files: Files,
    /// The display, if the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// Supervised services, in start order.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Installed packages with their versions.
    pub packages: BTreeMap<String, String>,
    /// Packages of the npm registry with their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub npm: BTreeMap<String, String>,
    /// What the root was made from.
    #[serde(default, skip_serializing_if = "Origin::is_default")]
    pub origin: Origin,
}

/// The module of a guest's vsock, and the option that builds it into a kernel.
pub const VSOCK_MODULE: &str = "vmw_vsock_virtio_transport";
const VSOCK_OPTION: &str = "CONFIG_VIRTIO_VSOCKETS";

impl Manifest {
    /// Whether a guest of this image has a vsock where its machine has one: by a module, or built in. A kernel that does not tell
    /// and has no modules is given the benefit of the doubt.
    pub fn has_vsock(&self) -> bool {
        let loaded = self.modules.iter().any(|file| modules::normalize(file) == VSOCK_MODULE);
        let config = &self.kernel.config;
        let built_in = config.get(VSOCK_OPTION).is_some_and(|value| value == "y");
        loaded || built_in || (config.is_empty() && self.modules.is_empty())
    }
}

/// What is known of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFacts {
    /// The package asked for.
    pub package: String,
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Form of the file that QEMU boots.
    #[serde(default, skip_serializing_if = "KernelFormat::is_default")]
    pub format: KernelFormat,
    /// Options of the kernel's configuration that decide whether an image boots: `y`, `m`, a value, or `n` if not set. Empty if
    /// the kernel does not tell.
    pub config: BTreeMap<String, String>,
}

/// Form of a kernel's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFormat {
    /// As distributions ship it, packed.
    #[default]
    Bzimage,
    /// `vmlinux`.
    Elf,
}

impl KernelFormat {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The files beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Kernel for QEMU.
    pub kernel: FileFacts,
    /// The same kernel as an ELF file, for Firecracker, if that is another file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmlinux: Option<FileFacts>,
    /// Initramfs, uncompressed.
    pub initramfs: FileFacts,
    /// Root filesystem.
    pub rootfs: FileFacts,
}

impl Files {
    /// All of them.
    pub fn all(&self) -> Vec<&FileFacts> {
        [&self.kernel, &self.initramfs, &self.rootfs].into_iter().chain(&self.vmlinux).collect()
    }

    /// The kernel as an ELF file.
    pub fn elf_kernel(&self, format: KernelFormat) -> Option<&FileFacts> {
        match format {
            KernelFormat::Elf => Some(&self.kernel),
            KernelFormat::Bzimage => self.vmlinux.as_ref(),
        }
    }
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// File name in the image's directory.
    pub name: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// The options of a kernel's `.config` that are recorded.
const CONFIG_FACTS: &[&str] = &[
    "CONFIG_64BIT",
    "CONFIG_ACPI",
    "CONFIG_BINFMT_ELF",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEVTMPFS",
    "CONFIG_EROFS_FS",
    "CONFIG_EXT4_FS",
    "CONFIG_HW_RANDOM_VIRTIO",
    "CONFIG_INET",
    "CONFIG_IP_PNP",
    "CONFIG_MODULES",
    "CONFIG_MODULE_COMPRESS_NONE",
    "CONFIG_MODULE_DECOMPRESS",
    "CONFIG_MODULE_SIG_FORCE",
    "CONFIG_OVERLAY_FS",
    "CONFIG_PACKET",
    "CONFIG_PCI",
    "CONFIG_PROC_FS",
    "CONFIG_PVH",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_SQUASHFS",
    "CONFIG_SYSFS",
    "CONFIG_TMPFS",
    "CONFIG_UNIX",
    "CONFIG_VIRTIO_BLK",
    "CONFIG_VIRTIO_CONSOLE",
    "CONFIG_VIRTIO_MMIO",
    "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES",
    "CONFIG_VIRTIO_NET",
    "CONFIG_VIRTIO_PCI",
    "CONFIG_VIRTIO_VSOCKETS",
    "CONFIG_VMGENID",
    "CONFIG_VSOCKETS",
];

/// Picks the recorded options out of a kernel's configuration file.
pub fn config_facts(config: &str) -> BTreeMap<String, String> {
    let set: BTreeMap<&str, &str> =
        config.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.split_once('=')).collect();
    if set.is_empty() {
        return BTreeMap::new();
    }
    CONFIG_FACTS.iter().map(|name| ((*name).to_owned(), (*set.get(name).unwrap_or(&"n")).to_owned())).collect()
}

/// The first option that a kernel which configures its own network (nfsroot document, `ip=`) lacks. Modules are too late:
/// it does so before anything is loaded.
pub fn lacking_for_owner(owner: NetworkOwner, config: &BTreeMap<String, String>) -> Option<(&'static str, String)> {
    const NEEDED: [&str; 3] = ["CONFIG_IP_PNP", "CONFIG_VIRTIO_NET", "CONFIG_VIRTIO_PCI"];
    // A kernel that does not tell is given the benefit of the doubt: its boot test says the rest.
    let needed = NEEDED.iter().filter(|_| owner == NetworkOwner::Kernel && !config.is_empty());
    let actual = |option: &str| config.get(option).map_or("n", String::as_str).to_owned();
    needed.map(|option| (*option, actual(option))).find(|(_, actual)| actual != "y")
}

/// A manifest for tests.
#[cfg(test)]
pub(crate) fn sample() -> Manifest {
    use airlock_protocol::guest_config::Restart;

    let file = |name: &str| FileFacts { name: name.into(), sha256: "00".repeat(32), size: 1 };
    Manifest {
        format: FORMAT,
        name: "base".into(),
        recipe_digest: "11".repeat(32),
        build_id: "22".repeat(8),
        epoch: 1,
        suite: "bookworm".into(),
        memory_mib: 256,
        vcpus: 1,
        network_owner: NetworkOwner::Airlock,
        network_addressing: Addressing::Static,
        on_address_conflict: OnConflict::Restore,
        handover: Handover::Supervise,
        readiness: vec![Stage::AgentUp, Stage::Reachable],
        root_fs: RootFs::Erofs,
        modules: vec!["virtio.ko".into()],
        kernel: KernelFacts {
            package: "linux".into(),
            release: "6.1".into(),
            format: KernelFormat::Bzimage,
            config: config_facts("CONFIG_TMPFS=y"),
        },
        files: Files {
            kernel: file("vmlinuz"),
            vmlinux: Some(file("vmlinux")),
            initramfs: file("initramfs"),
            rootfs: file("rootfs.erofs"),
        },
        display: Some(Display {
            number: 1,
            browser_class: "Firefox-esr".into(),
            user: "user".into(),
            open_command: vec!["/usr/bin/firefox-esr".into()],
        }),
        services: vec![Service {
            name: "xvnc".into(),
            command: vec!["/usr/bin/Xtigervnc".into(), ":1".into()],
            user: Some("user".into()),
            env: BTreeMap::from([("A".into(), "b".into())]),
            working_dir: None,
            ports: Vec::new(),
            wait_for_socket: None,
            restart: Restart::Always,
        }],
        packages: BTreeMap::from([("libc6".into(), "2.36-9".into())]),
        npm: BTreeMap::from([("@openai/codex".into(), "0.169.0".into())]),
        origin: Origin::Oci { reference: "r.example/a:1".into(), image: "33".repeat(32) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_through_toml() {
        let text = toml::to_string(&sample()).unwrap();
        assert_eq!(toml::from_str::<Manifest>(&text).unwrap(), sample());
        assert!(toml::from_str::<Manifest>(&format!("unheard_of = 1\n{text}")).is_err());
    }

    #[test]
    fn an_option_that_is_not_set_is_recorded_as_n() {
        let facts = config_facts("# CONFIG_IP_PNP is not set\nCONFIG_EROFS_FS=m\nCONFIG_OTHER=y\n");
        assert_eq!(facts["CONFIG_IP_PNP"], "n");
        assert_eq!(facts["CONFIG_EROFS_FS"], "m");
        assert!(!facts.contains_key("CONFIG_OTHER"));
    }

    #[test]
    fn a_vsock_is_a_module_built_in_or_unknown() {
        let image = |modules: &[&str], config: &str| {
            let mut manifest = sample();
            manifest.modules = modules.iter().map(|file| (*file).to_owned()).collect();
            manifest.kernel.config = config_facts(config);
            manifest.has_vsock()
        };
        let modular = "CONFIG_VIRTIO_VSOCKETS=m\n";
        assert!(image(&["vsock.ko", "vmw_vsock_virtio_transport.ko"], modular));
        assert!(image(&[], "CONFIG_VIRTIO_VSOCKETS=y\n"));
        assert!(image(&[], ""));
        assert!(!image(&[], modular));
        assert!(!image(&["virtio_net.ko", "vmw_vsock_virtio_transport_common.ko"], modular));
        assert!(!image(&["virtio_net.ko"], ""));
    }

    #[test]
    fn a_kernel_that_cannot_own_the_network_is_named_with_what_it_lacks() {
        let lacking = |owner, config: &str| lacking_for_owner(owner, &config_facts(config));
        let debian = "CONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_PCI=m\n# CONFIG_IP_PNP is not set\n";
        assert_eq!(lacking(NetworkOwner::Airlock, debian), None);
        assert_eq!(lacking(NetworkOwner::Kernel, debian), Some(("CONFIG_IP_PNP", "n".to_owned())));
        let modular = "CONFIG_IP_PNP=y\nCONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_PCI=y\n";
        assert_eq!(lacking(NetworkOwner::Kernel, modular), Some(("CONFIG_VIRTIO_NET", "m".to_owned())));
        assert_eq!(lacking(NetworkOwner::Kernel, &modular.replace('m', "y")), None);
    }
}
