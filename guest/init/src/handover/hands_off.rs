//! One owner of addressing: what tells every network manager of the image but the owner to leave our interface alone.
//!
//! | manager | told by |
//! |---|---|
//! | systemd-networkd (and netplan above it) | the first `.network` file: `Unmanaged=yes` for our MAC; nobody waits for it to be online |
//! | NetworkManager | a device section and `unmanaged-devices` for our MAC |
//! | dhcpcd | `denyinterfaces` before everything else of its configuration |
//! | ifupdown, also BusyBox's | its state says that the interface is configured already |
//! | cloud-init | `network: {config: disabled}` |
//!
//! Written only where the manager is installed. A manager that is not listed is not prevented; the agent sees what it does.

use airlock_protocol::guest_config::NetworkOwner;

use super::{Interface, Placed, RootFacts};

/// The network managers that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// systemd-networkd.
    Networkd,
    /// NetworkManager.
    NetworkManager,
    /// dhcpcd.
    Dhcpcd,
    /// ifupdown.
    Ifupdown,
    /// cloud-init.
    CloudInit,
}

impl Manager {
    const ALL: [Self; 5] = [Self::Networkd, Self::NetworkManager, Self::Dhcpcd, Self::Ifupdown, Self::CloudInit];

    /// Whether the root has it.
    pub fn installed(self, facts: &RootFacts) -> bool {
        facts.any(match self {
            Self::Networkd => &["/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"],
            Self::NetworkManager => &["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"],
            Self::Dhcpcd => &["/usr/sbin/dhcpcd", "/sbin/dhcpcd"],
            Self::Ifupdown => &["/usr/sbin/ifup", "/sbin/ifup"],
            Self::CloudInit => &["/usr/bin/cloud-init"],
        })
    }

    /// Whether `owner` works through it.
    fn serves(self, owner: NetworkOwner) -> bool {
        use NetworkOwner as Owner;
        match owner {
            Owner::Airlock | Owner::Script | Owner::Kernel => false,
            Owner::SystemdNetworkd | Owner::SystemdNetworkdGenerator => self == Self::Networkd,
            Owner::NetworkManager => self == Self::NetworkManager,
            Owner::Netplan => matches!(self, Self::Networkd | Self::NetworkManager),
            Owner::Dhcpcd => self == Self::Dhcpcd,
            Owner::Ifupdown => self == Self::Ifupdown,
            // It writes the configuration of whichever of these it finds.
            Owner::CloudInit => self != Self::Dhcpcd,
        }
    }

    fn told(self, facts: &RootFacts, Interface { dev, mac }: &Interface) -> Vec<Placed> {
        match self {
            Self::Networkd => vec![
                Placed::text(
                    "/run/systemd/network/00-airlock.network",
                    format!("[Match]\nMACAddress={mac}\n\n[Link]\nUnmanaged=yes\n"),
                ),
                // With no interface to manage it would wait until its timeout, and network-online.target with it.
                Placed::link("/run/systemd/system/systemd-networkd-wait-online.service", "/dev/null"),
            ],
            Self::NetworkManager => vec![Placed::text(
                "/run/NetworkManager/conf.d/00-airlock.conf",
                format!(
                    "[main]\nrc-manager=unmanaged\n\n[keyfile]\nunmanaged-devices=mac:{mac}\n\n\
                     [device-airlock]\nmatch-device=mac:{mac}\nmanaged=0\n"
                ),
            )],
            Self::Dhcpcd => {
                let existing = facts.texts.get("/etc/dhcpcd.conf").map_or("", String::as_str);
                vec![Placed::text("/etc/dhcpcd.conf", format!("denyinterfaces {dev}\n{existing}"))]
            }
            Self::Ifupdown => ["/run/network/ifstate", &format!("/run/network/ifstate.{dev}"), "/run/ifstate"]
                .map(|path| {
                    Placed::text(path, if path.ends_with(dev) { format!("{dev}\n") } else { format!("{dev}={dev}\n") })
                })
                .into(),
            Self::CloudInit => {
                vec![Placed::text("/etc/cloud/cloud.cfg.d/99_airlock.cfg", "network: {config: disabled}\n")]
            }
        }
    }
}

/// What is written so that nobody but `owner` touches the interface.
pub fn files(facts: &RootFacts, owner: NetworkOwner, interface: &Interface) -> Vec<Placed> {
    let others = Manager::ALL.into_iter().filter(|manager| manager.installed(facts) && !manager.serves(owner));
    others.flat_map(|manager| manager.told(facts, interface)).collect()
}
