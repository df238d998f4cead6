//! The guest's network as `/proc/net` and `/sys/class/net` show it (proc(5)). Lines that cannot be read are skipped.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use airlock_protocol::facts::{GuestLink, GuestNeighbour, GuestRoute, Listening};
use airlock_protocol::health::GuestAddress;
use nix::libc::{IFF_LOOPBACK, IFF_UP};

/// The longest list of anything.
pub const MAX_LISTED: usize = 64;
/// The longest name of an interface (IFNAMSIZ), a program or a unit that is passed on, in bytes.
pub const MAX_NAME: usize = 64;
/// State of a listening socket in `/proc/net/tcp`.
const TCP_LISTEN: &str = "0A";
/// A complete entry of the neighbour table (ATF_COM).
const ATF_COM: u32 = 0x02;
/// Flag of a route that is used (RTF_UP).
const RTF_UP: u32 = 0x01;

/// Every interface but `lo`, with its addresses.
pub fn links(sys: &Path, addresses: &[GuestAddress]) -> Option<Vec<GuestLink>> {
    let mut links: Vec<GuestLink> = fs::read_dir(sys)
        .ok()?
        .flatten()
        .take(MAX_LISTED)
        .filter_map(|entry| link(&entry.path(), &printable(&entry.file_name().to_string_lossy()), addresses))
        .collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    Some(links)
}

fn link(dir: &Path, name: &str, addresses: &[GuestAddress]) -> Option<GuestLink> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).ok().map(|text| text.trim().to_owned());
    // A plain file in that directory (bonding_masters) is no interface.
    let flags = read("flags").and_then(|text| i32::from_str_radix(text.trim_start_matches("0x"), 16).ok())?;
    if flags & IFF_LOOPBACK != 0 {
        return None;
    }
    // Of what is down the kernel says nothing. Of a bridge or a tunnel it would say what nobody built.
    let carrier = if dir.join("device").exists() { read("carrier").map(|text| text == "1") } else { None };
    let own = addresses.iter().filter(|address| address.dev == name).map(|address| address.addr.clone());
    Some(GuestLink {
        name: name.to_owned(),
        mac: read("address").and_then(|text| text.parse().ok()),
        up: Some(flags & IFF_UP != 0),
        carrier,
        addresses: Some(own.take(MAX_LISTED).collect()),
    })
}

/// `/proc/net/route`.
pub fn routes(text: &str) -> Vec<GuestRoute> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let address = |at: usize| ipv4(fields.get(at)?);
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let prefix = u32::from(address(7)?).leading_ones();
        (flags & RTF_UP != 0).then_some(())?;
        let gateway = address(2)?;
        Some(GuestRoute {
            to: format!("{}/{prefix}", address(1)?),
            gateway: Some(gateway).filter(|gateway| !gateway.is_unspecified()),
            dev: printable(fields.first()?),
        })
    };
    text.lines().skip(1).filter_map(route).take(MAX_LISTED).collect()
}

/// Gateways of the default routes.
pub fn default_gateways(routes: &[GuestRoute]) -> Vec<Ipv4Addr> {
    routes.iter().filter(|route| route.to == "0.0.0.0/0").filter_map(|route| route.gateway).collect()
}

/// `/proc/net/arp`.
pub fn neighbours(text: &str) -> Vec<GuestNeighbour> {
    let neighbour = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(2)?.strip_prefix("0x")?, 16).ok()?;
        let mac = fields.get(3)?.parse().ok().filter(|_| flags & ATF_COM != 0);
        Some(GuestNeighbour { address: fields.first()?.parse().ok()?, mac, dev: printable(fields.get(5)?) })
    };
    text.lines().skip(1).filter_map(neighbour).take(MAX_LISTED).collect()
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What it is bound to.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Names it among the descriptors of processes.
    pub inode: u64,
}

impl Listener {
    /// As the host is told.
    pub fn with_program(self, program: Option<String>) -> Listening {
        Listening { address: self.address.to_string(), port: self.port, program }
    }
}

/// The listening sockets in `/proc/net/tcp` or `/proc/net/tcp6`, one per address and port.
pub fn listeners(text: &str, is_v6: bool) -> Vec<Listener> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (*fields.get(3)? == TCP_LISTEN).then_some(())?;
        let (address, port) = fields.get(1)?.split_once(':')?;
        let address = if is_v6 { IpAddr::V6(ipv6(address)?) } else { IpAddr::V4(ipv4(address)?) };
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(((port, address), fields.get(9)?.parse().ok()?))
    };
    let found: BTreeMap<(u16, IpAddr), u64> = text.lines().skip(1).filter_map(listener).collect();
    found.into_iter().take(MAX_LISTED).map(|((port, address), inode)| Listener { address, port, inode }).collect()
}

/// The bytes of the network, printed as one integer of this machine.
fn ipv4(hex: &str) -> Option<Ipv4Addr> {
    (hex.len() == 8).then_some(())?;
    Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()))
}

/// Four such integers.
fn ipv6(hex: &str) -> Option<Ipv6Addr> {
    (hex.len() == 32 && hex.is_ascii()).then_some(())?;
    let mut octets = [0; 16];
    for (index, word) in octets.chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&ipv4(hex.get(index * 8..index * 8 + 8)?)?.octets());
    }
    Some(Ipv6Addr::from(octets))
}

/// A name as it may be shown: short, without control characters.
pub fn printable(name: &str) -> String {
    let mut short: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    while short.len() > MAX_NAME {
        short.pop();
    }
    short
}
