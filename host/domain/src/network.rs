//! The private network of an installation: one namespace, one bridge, one pool of addresses, one way out.

pub mod dhcp;
mod egress;

use std::net::{IpAddr, Ipv4Addr};

use airlock_protocol::boot_config::NetworkKeys;
use airlock_protocol::ip_param::{Autoconf, IpParam, Netmask};
use airlock_protocol::{BootConfig, MacAddr};
use serde::{Deserialize, Serialize};

use crate::ids::VmId;

pub use egress::{CLOSED, EgressError, EgressSpec, Ipv4Net, Transit, UPLINK_LINK, Uplink, uplink_alias, uplink_peer};

/// What the daemon makes once per installation. Pool and bridge share one source, so they cannot disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name of the network namespace (`/run/netns/<name>`).
    pub namespace: String,
    /// Name of the bridge inside it.
    pub bridge: String,
    /// Subnet with the bridge's own address.
    pub subnet: Subnet,
    /// How guests reach the outside.
    pub egress: EgressSpec,
    /// What guests are told besides their address.
    pub guest: GuestNetwork,
    /// TCP ports of the gateway that guests may reach. Not in the file: the port of the demonstration server is the only one,
    /// and it is open whether or not that runs, because `airlock up` switches it on after the file was read.
    #[serde(skip)]
    pub served_ports: Vec<u16>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        let subnet = Subnet { gateway: Ipv4Addr::new(192, 168, 100, 1), prefix: 24 };
        Self {
            namespace: "airlock".into(),
            bridge: "br0".into(),
            subnet,
            egress: EgressSpec::default(),
            guest: GuestNetwork::default(),
            served_ports: vec![4080],
        }
    }
}

/// What guests are told of their network besides the lease, `[network.guest]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestNetwork {
    /// DNS servers in the order in which they are asked. Guests reach them only where `egress` lets them.
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are looked for.
    pub search: Vec<String>,
    /// MTU of the guests' interface in bytes; the driver's own (1500) if absent.
    pub mtu: Option<u16>,
}

impl GuestNetwork {
    /// As keys of the kernel command line.
    pub fn keys(&self) -> NetworkKeys {
        NetworkKeys { dns: self.dns.clone(), search: self.search.clone(), mtu: self.mtu }
    }

    /// Whether a guest's init reads back what it is told.
    pub fn is_sound(&self) -> bool {
        NetworkKeys::parse(&self.keys().to_cmdline()) == Ok(self.keys())
    }
}

/// An IPv4 subnet and the gateway's address in it, written `192.168.100.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    gateway: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a usable subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not `a.b.c.d/n`.
    #[error("{text:?} is not a gateway address with prefix length, like 192.168.100.1/24")]
    Syntax {
        /// The text that was given.
        text: String,
    },
    /// Too small for one guest or too large for a bridge.
    #[error("{text:?}: the prefix length must be between 16 and 29")]
    Prefix {
        /// The text that was given.
        text: String,
    },
    /// The gateway is the network or broadcast address.
    #[error("{text:?}: the gateway must be a host address of its subnet")]
    Gateway {
        /// The text that was given.
        text: String,
    },
    /// Guests live in private ranges only (RFC 1918).
    #[error("{text:?} is not a private range (RFC 1918)")]
    NotPrivate {
        /// The text that was given.
        text: String,
    },
}

impl Subnet {
    /// The bridge's address, the guests' gateway.
    pub fn gateway(self) -> Ipv4Addr {
        self.gateway
    }

    /// Prefix length.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The net it is.
    pub fn net(self) -> Ipv4Net {
        Ipv4Net::around(self.gateway, self.prefix)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// Every address a guest may lease, ascending: the hosts of the subnet but the gateway.
    pub fn guest_addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let network = u32::from(self.gateway) & self.mask();
        let broadcast = network | !self.mask();
        let gateway = self.gateway;
        (network + 1..broadcast).map(Ipv4Addr::from).filter(move |addr| *addr != gateway)
    }

    /// Whether a guest may lease `addr`.
    pub fn contains_guest(self, addr: Ipv4Addr) -> bool {
        let (bits, network) = (u32::from(addr), u32::from(self.gateway) & self.mask());
        bits & self.mask() == network && bits != network && bits != network | !self.mask() && addr != self.gateway
    }
}

impl std::str::FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let syntax = || SubnetError::Syntax { text: text.to_owned() };
        let (addr, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let gateway: Ipv4Addr = addr.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        if !(16..=29).contains(&prefix) {
            return Err(SubnetError::Prefix { text: text.to_owned() });
        }
        if !gateway.is_private() {
            return Err(SubnetError::NotPrivate { text: text.to_owned() });
        }
        let subnet = Self { gateway, prefix };
        let host = u32::from(gateway) & !subnet.mask();
        if host == 0 || host == !subnet.mask() {
            Err(SubnetError::Gateway { text: text.to_owned() })
        } else {
            Ok(subnet)
        }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.gateway, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// A TAP as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Interface name, see [`VmId::tap_name`].
    pub name: String,
    /// Interface alias: the whole VM id, the proof of ownership.
    pub alias: String,
    /// User id that may attach to it.
    pub owner_uid: u32,
}

impl TapSpec {
    /// The TAP of a VM.
    pub fn of_vm(vm_id: VmId, owner_uid: u32) -> Self {
        Self { name: vm_id.tap_name(), alias: vm_id.to_string(), owner_uid }
    }
}

/// Name of a guest.
pub fn host_name(vm_id: VmId) -> String {
    format!("airlock-{}", &vm_id.to_string()[..8])
}

/// What the guest of one lease is told on its kernel command line.
pub fn boot_config(vm_id: VmId, subnet: Subnet, addr: Ipv4Addr) -> BootConfig {
    let id = vm_id.to_string();
    BootConfig {
        ip: IpParam {
            client: Some(addr),
            gateway: Some(subnet.gateway()),
            netmask: Netmask::from_prefix(subnet.prefix()),
            hostname: Some(host_name(vm_id)),
            device: Some("eth0".into()),
            autoconf: Some(Autoconf::Off),
            ..IpParam::default()
        },
        vm_id: id,
        mac: Some(MacAddr::from_lease(addr)),
        root: "/dev/vda".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_every_host_but_the_gateway() {
        let subnet: Subnet = "192.168.100.1/24".parse().unwrap();
        let all: Vec<_> = subnet.guest_addresses().collect();
        assert_eq!(all.len(), 253);
        assert_eq!(all[0], Ipv4Addr::new(192, 168, 100, 2));
        assert_eq!(all[252], Ipv4Addr::new(192, 168, 100, 254));
        assert!(all.iter().all(|addr| subnet.contains_guest(*addr)));
        assert!(!subnet.contains_guest(Ipv4Addr::new(192, 168, 101, 2)));
    }

    #[test]
    fn refuses_unusable_subnets() {
        for (text, error) in [
            ("192.168.100.1", SubnetError::Syntax { text: "192.168.100.1".into() }),
            ("192.168.100.1/33", SubnetError::Prefix { text: "192.168.100.1/33".into() }),
            ("192.168.100.1/30", SubnetError::Prefix { text: "192.168.100.1/30".into() }),
            ("192.168.100.0/24", SubnetError::Gateway { text: "192.168.100.0/24".into() }),
            ("192.168.100.255/24", SubnetError::Gateway { text: "192.168.100.255/24".into() }),
            ("8.8.8.1/24", SubnetError::NotPrivate { text: "8.8.8.1/24".into() }),
        ] {
            assert_eq!(text.parse::<Subnet>(), Err(error));
        }
    }

    #[test]
    fn the_guest_is_told_its_lease() {
        let id: VmId = "01234567-89ab-4def-8123-456789abcdef".parse().unwrap();
        let config = boot_config(id, "192.168.100.1/24".parse().unwrap(), Ipv4Addr::new(192, 168, 100, 8));
        assert_eq!(
            config.to_cmdline(),
            "ip=192.168.100.8::192.168.100.1:255.255.255.0:airlock-01234567:eth0:off \
             airlock.vm=01234567-89ab-4def-8123-456789abcdef airlock.mac=06:00:c0:a8:64:08 airlock.root=/dev/vda"
        );
        assert_eq!(BootConfig::parse(&config.to_cmdline()), Ok(config));
    }
}
