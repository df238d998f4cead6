//! What an image needs from init and agent: one JSON file in the initramfs, written by the image builder from the manifest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The guest configuration, [`crate::paths::INITRAMFS_CONFIG`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Build id of the agent and init in this initramfs.
    pub build_id: String,
    /// Kernel release the modules belong to.
    pub kernel_release: String,
    /// File names below [`crate::paths::INITRAMFS_MODULES`], in load order: those that the network needs.
    pub modules: Vec<String>,
    /// The others, loaded when the network is up.
    #[serde(default)]
    pub later_modules: Vec<String>,
    /// Filesystem of the root device.
    pub root_fs: RootFs,
    /// Who is PID 1 after the root is mounted.
    pub handover: Handover,
    /// Who configures the interface.
    #[serde(default, skip_serializing_if = "NetworkOwner::is_default")]
    pub network_owner: NetworkOwner,
    /// Where that owner has the address from.
    #[serde(default, skip_serializing_if = "Addressing::is_default")]
    pub network_addressing: Addressing,
    /// What follows when somebody else changes the address.
    #[serde(default, skip_serializing_if = "OnConflict::is_default")]
    pub on_address_conflict: OnConflict,
    /// Services that init supervises, in start order. The agent is not listed: init always supervises it.
    pub services: Vec<Service>,
    /// The display to watch, if the image has one.
    pub display: Option<Display>,
}

/// What follows when somebody in the guest changes or removes its address, or adds another one. It is reported either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The agent puts it back.
    #[default]
    Restore,
    /// It stays as it is and the VM has failed (`address_owner_conflict`).
    Fail,
}

impl OnConflict {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Filesystem of the root device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// Read-only, compressed or not.
    Erofs,
    /// Read-only as we mount it.
    Ext4,
    /// Read-only, compressed.
    Squashfs,
}

impl RootFs {
    /// The name that mount(2) takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
        }
    }
}

/// Who is PID 1 after the root is mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// airlock-init stays PID 1 and supervises.
    #[default]
    Supervise,
    /// The image's own init, whatever it is; the agent runs beside it. A root without an init is supervised after all.
    Init,
}

impl Handover {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who configures the guest's interface. Everybody else is kept off it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkOwner {
    /// airlock-init, before the root is mounted.
    #[default]
    Airlock,
    /// systemd-network-generator makes files of `ip=`, systemd-networkd follows them.
    SystemdNetworkdGenerator,
    /// systemd-networkd with a file of its own.
    SystemdNetworkd,
    /// dhcpcd.
    Dhcpcd,
    /// ifupdown with `/etc/network/interfaces`.
    Ifupdown,
    /// cloud-init with the data source NoCloud and network configuration version 2.
    CloudInit,
    /// netplan.
    Netplan,
    /// NetworkManager.
    NetworkManager,
    /// A script of the image that reads `ip=` itself.
    Script,
    /// The kernel itself (`CONFIG_IP_PNP`).
    Kernel,
}

impl NetworkOwner {
    /// The name in recipes, manifests and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Airlock => "airlock",
            Self::SystemdNetworkdGenerator => "systemd-networkd-generator",
            Self::SystemdNetworkd => "systemd-networkd",
            Self::Dhcpcd => "dhcpcd",
            Self::Ifupdown => "ifupdown",
            Self::CloudInit => "cloud-init",
            Self::Netplan => "netplan",
            Self::NetworkManager => "network-manager",
            Self::Script => "script",
            Self::Kernel => "kernel",
        }
    }

    /// Whether it reads `ip=` in the running guest, and finds the interface by the name that stands there.
    pub const fn reads_ip(self) -> bool {
        matches!(self, Self::Script | Self::SystemdNetworkdGenerator)
    }

    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the owner of the interface has its address from. It is the leased one either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// airlock-init writes it down for the owner.
    #[default]
    Static,
    /// The owner asks for it; the daemon's DHCP server answers.
    Dhcp,
}

impl Addressing {
    /// Whether this is what is meant when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One supervised program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name in logs.
    pub name: String,
    /// Absolute path of the program, and its arguments.
    pub command: Vec<String>,
    /// User to run as, a name or `<uid>[:<gid>]`; `root` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Environment besides `PATH`, `HOME`, `USER`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Directory it starts in; its user's home if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// TCP ports it listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Unix socket that must accept connections before this service is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for_socket: Option<String>,
    /// What follows an exit.
    #[serde(default)]
    pub restart: Restart,
}

/// What follows an exit of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Start again, with a growing pause.
    #[default]
    Always,
    /// Leave it.
    Never,
}

/// The display that the agent watches for `display_up`, `browser_up` and `page_painted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Display {
    /// X display number: socket `/tmp/.X11-unix/X<number>`.
    pub number: u8,
    /// Second part of the browser window's `WM_CLASS`.
    pub browser_class: String,
    /// User who owns the browser.
    pub user: String,
    /// Command that opens a page in the running browser; the URL is added as last argument.
    pub open_command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_the_names_of_the_documentation() {
        use NetworkOwner::*;
        for owner in [
            Airlock,
            SystemdNetworkdGenerator,
            SystemdNetworkd,
            Dhcpcd,
            Ifupdown,
            CloudInit,
            Netplan,
            NetworkManager,
            Script,
            Kernel,
        ] {
            assert_eq!(serde_json::to_string(&owner).unwrap(), format!("\"{}\"", owner.name()));
        }
        assert_eq!(SystemdNetworkdGenerator.name(), "systemd-networkd-generator");
    }

    #[test]
    fn a_configuration_of_before_is_still_read() {
        let text = r#"{"build_id":"b","kernel_release":"6","modules":[],"root_fs":"erofs","handover":"supervise",
            "services":[],"display":null}"#;
        let config: GuestConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.handover, config.network_owner), (Handover::Supervise, NetworkOwner::Airlock));
        assert_eq!(config.network_addressing, Addressing::Static);
        assert!(!serde_json::to_string(&config).unwrap().contains("network_"));
    }
}
