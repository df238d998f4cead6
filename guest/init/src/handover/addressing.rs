//! The lease in the words of the manager that owns the interface, when that is not airlock-init.
//!
//! The address is the same as ever, that of `ip=`: written down for the manager, or ([`Addressing::Dhcp`]) what the host's DHCP
//! server answers when the manager asks, together with everything else of the lease. Names are written where the manager has
//! no other way, and the interface then keeps its name; wherever it can, the manager matches by MAC.

use std::net::Ipv4Addr;

use airlock_protocol::BootConfig;
use airlock_protocol::boot_config::NetworkKeys;
use airlock_protocol::guest_config::{Addressing, NetworkOwner};
use airlock_protocol::ip_param::Netmask;

use super::{Interface, Placed, RootFacts};
use crate::boot::classful_prefix;
use crate::identity::servers;

const UNITS: &str = "/run/systemd/system";

/// The files that make `owner` configure the interface. Nothing without an address, or if the owner reads `ip=` itself.
pub fn files(
    facts: &RootFacts,
    (owner, addressing): (NetworkOwner, Addressing),
    (boot, keys): (&BootConfig, &NetworkKeys),
    interface: &Interface,
) -> Vec<Placed> {
    let mut placed = match (addressing, Lease::of(boot, keys)) {
        (Addressing::Dhcp, _) => made_to_ask(facts, owner, interface),
        (Addressing::Static, Some(lease)) => in_the_words_of(facts, owner, &lease, interface),
        (Addressing::Static, None) => return Vec::new(),
    };
    if knows_it_by_name(owner) {
        // Before udev gives it another name (systemd.link(5)).
        let Interface { dev, mac } = interface;
        let link = format!("[Match]\nMACAddress={mac}\n\n[Link]\nName={dev}\n");
        placed.push(Placed::text("/run/systemd/network/00-airlock.link", link));
    }
    placed
}

/// Whether `owner` finds the interface by its name only, which must stay what it was then.
const fn knows_it_by_name(owner: NetworkOwner) -> bool {
    use NetworkOwner as Owner;
    matches!(owner, Owner::Dhcpcd | Owner::Ifupdown) || owner.reads_ip()
}

fn in_the_words_of(facts: &RootFacts, owner: NetworkOwner, lease: &Lease, interface: &Interface) -> Vec<Placed> {
    match owner {
        NetworkOwner::Airlock | NetworkOwner::Script | NetworkOwner::Kernel => Vec::new(),
        // It is given its address by DHCP only.
        NetworkOwner::NetworkManager => Vec::new(),
        NetworkOwner::SystemdNetworkdGenerator => {
            let generator = "systemd-network-generator.service";
            [enabled(facts, generator, "sysinit.target"), networkd_enabled(facts)].concat()
        }
        NetworkOwner::SystemdNetworkd => {
            let file = Placed::text("/run/systemd/network/00-airlock.network", lease.networkd(interface));
            [vec![file], networkd_enabled(facts)].concat()
        }
        NetworkOwner::Netplan => {
            let file = Placed::text("/run/netplan/90-airlock.yaml", lease.netplan(interface));
            [vec![file], networkd_enabled(facts)].concat()
        }
        // It reads a drive that the host made.
        NetworkOwner::CloudInit => Vec::new(),
        NetworkOwner::Dhcpcd => {
            let existing = facts.texts.get("/etc/dhcpcd.conf").map_or("", String::as_str);
            vec![Placed::text("/etc/dhcpcd.conf", format!("{existing}\n{}", lease.dhcpcd(interface)))]
        }
        NetworkOwner::Ifupdown => vec![Placed::text("/etc/network/interfaces", lease.ifupdown(interface))],
    }
}

/// What makes `owner` ask the host's DHCP server over our interface, and nobody else for anything.
fn made_to_ask(facts: &RootFacts, owner: NetworkOwner, Interface { dev, mac }: &Interface) -> Vec<Placed> {
    match owner {
        NetworkOwner::SystemdNetworkd => {
            let text = format!(
                "[Match]\nMACAddress={mac}\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\n\
                 [DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\n"
            );
            [vec![Placed::text("/run/systemd/network/00-airlock.network", text)], networkd_enabled(facts)].concat()
        }
        NetworkOwner::Dhcpcd => {
            let existing = facts.texts.get("/etc/dhcpcd.conf").map_or("", String::as_str);
            let text = format!("{existing}\ninterface {dev}\nnoipv6\nnoipv4ll\nnoarp\n");
            vec![Placed::text("/etc/dhcpcd.conf", text)]
        }
        NetworkOwner::Ifupdown => {
            let text = format!("auto lo\niface lo inet loopback\n\nauto {dev}\niface {dev} inet dhcp\n");
            vec![Placed::text("/etc/network/interfaces", text)]
        }
        // It asks on every interface that nobody configured. Its own way of doing so needs no file that only root may read.
        NetworkOwner::NetworkManager => {
            let text = format!(
                "[main]\nno-auto-default=except:mac:{mac}\n\n[connection-airlock]\nipv6.method=disabled\n\
                 ipv4.link-local=2\n\n[device-airlock]\nmatch-device=mac:{mac}\nmanaged=1\n"
            );
            vec![Placed::text("/run/NetworkManager/conf.d/00-airlock.conf", text)]
        }
        // Recipes with these are refused.
        NetworkOwner::Airlock
        | NetworkOwner::SystemdNetworkdGenerator
        | NetworkOwner::CloudInit
        | NetworkOwner::Netplan
        | NetworkOwner::Script
        | NetworkOwner::Kernel => Vec::new(),
    }
}

/// A unit of the image, wanted by a target without touching what the image has enabled.
fn enabled(facts: &RootFacts, unit: &str, target: &str) -> Vec<Placed> {
    let dir = if facts.present("/usr/lib/systemd/system/systemd-networkd.service") { "/usr/lib" } else { "/lib" };
    vec![Placed::link(format!("{UNITS}/{target}.wants/{unit}"), format!("{dir}/systemd/system/{unit}"))]
}

fn networkd_enabled(facts: &RootFacts) -> Vec<Placed> {
    enabled(facts, "systemd-networkd.service", "multi-user.target")
}

/// The lease of this VM, ready to be written.
struct Lease {
    addr: Ipv4Addr,
    mask: Netmask,
    gateway: Option<Ipv4Addr>,
    servers: Vec<String>,
    search: Vec<String>,
    mtu: Option<u16>,
}

impl Lease {
    fn of(boot: &BootConfig, keys: &NetworkKeys) -> Option<Self> {
        let addr = boot.ip.client?;
        let mask = boot.ip.netmask.or_else(|| Netmask::from_prefix(classful_prefix(addr)))?;
        let servers = servers(boot, keys).iter().map(ToString::to_string).collect();
        Some(Self { addr, mask, gateway: boot.ip.gateway, servers, search: keys.search.clone(), mtu: keys.mtu })
    }

    fn cidr(&self) -> String {
        format!("{}/{}", self.addr, self.mask.prefix())
    }

    fn networkd(&self, interface: &Interface) -> String {
        let mut text = format!("[Match]\nMACAddress={}\n\n", interface.mac);
        text += &optional("[Link]\nMTUBytes=", self.mtu, "\n\n");
        text += &format!("[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nAddress={}\n", self.cidr());
        text += &optional("Gateway=", self.gateway, "\n");
        text += &optional("DNS=", joined(&self.servers, " "), "\n");
        text + &optional("Domains=", joined(&self.search, " "), "\n")
    }

    fn netplan(&self, Interface { dev, mac }: &Interface) -> String {
        let mut text = format!("network:\n  version: 2\n  ethernets:\n    {dev}:\n");
        text += &format!("      match: {{macaddress: \"{mac}\"}}\n      addresses: [\"{}\"]\n", self.cidr());
        text += &optional("      mtu: ", self.mtu, "\n");
        text += &optional("      routes: [{to: \"0.0.0.0/0\", via: \"", self.gateway, "\"}]\n");
        let quoted = |list: &[String]| list.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        let (servers, search) = (quoted(&self.servers), quoted(&self.search));
        let names = format!("{{addresses: [{servers}], search: [{search}]}}");
        let any = !servers.is_empty() || !search.is_empty();
        text + &optional("      nameservers: ", any.then_some(names), "\n")
    }

    fn dhcpcd(&self, interface: &Interface) -> String {
        let mut text =
            format!("interface {}\nnoipv6\nnoipv4ll\nnoarp\nstatic ip_address={}\n", interface.dev, self.cidr());
        text += &optional("mtu ", self.mtu, "\n");
        text += &optional("static routers=", self.gateway, "\n");
        text += &optional("static domain_name_servers=", joined(&self.servers, " "), "\n");
        text + &optional("static domain_search=", joined(&self.search, " "), "\n")
    }

    fn ifupdown(&self, interface: &Interface) -> String {
        let dev = &interface.dev;
        let mut text = format!("auto lo\niface lo inet loopback\n\nauto {dev}\niface {dev} inet static\n");
        text += &format!("  address {}\n  netmask {}\n", self.addr, self.mask.mask());
        text += &optional("  gateway ", self.gateway, "\n");
        text += &optional("  mtu ", self.mtu, "\n");
        text += &optional("  dns-nameservers ", joined(&self.servers, " "), "\n");
        text + &optional("  dns-search ", joined(&self.search, " "), "\n")
    }
}

fn joined(list: &[String], between: &str) -> Option<String> {
    (!list.is_empty()).then(|| list.join(between))
}

/// A line of the configuration, if there is a value for it.
fn optional(before: &str, value: Option<impl std::fmt::Display>, after: &str) -> String {
    value.map(|value| format!("{before}{value}{after}")).unwrap_or_default()
}
