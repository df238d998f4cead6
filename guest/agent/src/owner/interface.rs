//! What our interface has now, asked of the kernel. What cannot be read counts as absent.

use std::fs;
use std::net::Ipv4Addr;

use airlock_protocol::{BootConfig, MacAddr};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::Lease;

/// Flags of an entry in the kernel's ARP table: complete (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 0x2;
/// Flags of a route: up, by a gateway (linux/route.h).
const UP_BY_GATEWAY: u32 = 0x3;

/// Our interface at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its number; 0 if there is none.
    pub index: usize,
    /// Its name now.
    pub name: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it is up and has a carrier.
    pub has_carrier: bool,
    /// IPv4 addresses with the length of their prefix.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Gateway of the default route that leads through it.
    pub default_route: Option<Ipv4Addr>,
}

impl Observed {
    /// The interface that the command line means: by MAC; else the one that had the number `known` (0: none did), whatever it
    /// is called now; else by name.
    pub fn now(boot: &BootConfig, known: usize) -> Self {
        let Ok(all) = getifaddrs() else { return Self::default() };
        let all: Vec<_> = all.collect();
        let links: Vec<_> =
            all.iter().filter_map(|entry| Some((entry, entry.address.as_ref()?.as_link_addr()?))).collect();
        let ours = match boot.mac {
            Some(mac) => links.iter().find(|(_, link)| link.addr().map(MacAddr) == Some(mac)),
            None => links
                .iter()
                .find(|(_, link)| link.ifindex() == known)
                .or_else(|| links.iter().find(|(entry, _)| Some(&entry.interface_name) == boot.ip.device.as_ref())),
        };
        let Some((entry, link)) = ours else { return Self::default() };
        let (index, name, flags) = (link.ifindex(), entry.interface_name.clone(), entry.flags);
        let is_up = flags.contains(InterfaceFlags::IFF_UP);
        let address_of = |entry: &nix::ifaddrs::InterfaceAddress| {
            // An address may have a label of its own (`eth0:1`).
            if entry.interface_name.split(':').next() != Some(&name) {
                return None;
            }
            let addr = entry.address.as_ref()?.as_sockaddr_in()?.ip();
            let mask: Ipv4Addr = entry.netmask.as_ref()?.as_sockaddr_in()?.ip();
            Some((addr, u8::try_from(u32::from(mask).leading_ones()).ok()?))
        };
        let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
        Self {
            index,
            is_up,
            has_carrier: is_up && flags.contains(InterfaceFlags::IFF_RUNNING),
            addresses: all.iter().filter_map(address_of).collect(),
            default_route: default_route(&routes, &name),
            name,
        }
    }

    /// Whether the leased address is there.
    pub fn has(&self, lease: &Lease) -> bool {
        self.addresses.contains(&(lease.addr, lease.prefix))
    }

    /// Addresses that nobody leased. Link-local ones (RFC 3927) are everybody's own affair.
    pub fn foreign(&self, lease: &Lease) -> Vec<(Ipv4Addr, u8)> {
        let is_foreign = |(addr, prefix): &(Ipv4Addr, u8)| {
            (*addr, *prefix) != (lease.addr, lease.prefix) && !addr.is_link_local() && !addr.is_loopback()
        };
        self.addresses.iter().copied().filter(is_foreign).collect()
    }
}

/// The gateway of the default route through `dev`, from the text of /proc/PID/net/route (addresses are hex, in the order of this
/// machine's bytes).
fn default_route(table: &str, dev: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, flags, _, _, _, mask, ..] = fields[..] else { return None };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let leads_out = name == dev && number(destination) == Some(0) && number(mask) == Some(0);
        let by_gateway = number(flags)? & UP_BY_GATEWAY == UP_BY_GATEWAY;
        (leads_out && by_gateway).then_some(Ipv4Addr::from(number(gateway)?.to_ne_bytes()))
    })
}

/// Hardware address of a neighbour that answered, from the kernel's ARP table.
pub fn neighbour(addr: Ipv4Addr) -> Option<String> {
    neighbour_in(&fs::read_to_string("/proc/thread-self/net/arp").ok()?, addr)
}

fn neighbour_in(table: &str, addr: Ipv4Addr) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ip, _, flags, mac, ..] = fields[..] else { return None };
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        (ip.parse() == Ok(addr) && flags & COMPLETE != 0).then(|| mac.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

    #[test]
    fn the_default_route_of_our_interface_is_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth1\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0164A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0064A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route(table, "eth0"), Some(GATEWAY));
        assert_eq!(default_route(&table.replace("0003", "0001"), "eth0"), None, "it is not by a gateway");
        assert_eq!(default_route(table, "eth2"), None);
        assert_eq!(default_route("", "eth0"), None);
    }

    #[test]
    fn a_neighbour_counts_when_it_answered() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.100.1    0x1         0x2         06:00:c0:a8:64:01     *        eth0\n";
        assert_eq!(neighbour_in(table, GATEWAY).as_deref(), Some("06:00:c0:a8:64:01"));
        assert_eq!(neighbour_in(&table.replace("0x2", "0x0"), GATEWAY), None);
    }
}
