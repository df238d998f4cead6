//! The IPv4 addresses that the guest really has, asked of the kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_protocol::MacAddr;
use airlock_protocol::health::GuestAddress;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Every IPv4 address of every interface except loopback. Empty if the kernel cannot be asked.
pub fn addresses() -> Vec<GuestAddress> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let all: Vec<_> = all.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)).collect();
    let mac_of = |entry: &nix::ifaddrs::InterfaceAddress| {
        let mac = entry.address.as_ref()?.as_link_addr()?.addr()?;
        Some((entry.interface_name.clone(), MacAddr(mac)))
    };
    let macs: BTreeMap<String, MacAddr> = all.iter().filter_map(mac_of).collect();
    let address_of = |entry: &nix::ifaddrs::InterfaceAddress| {
        let addr = entry.address.as_ref()?.as_sockaddr_in()?.ip();
        let mask: Ipv4Addr = entry.netmask.as_ref()?.as_sockaddr_in()?.ip();
        let prefix = u32::from(mask).leading_ones();
        let mac = macs.get(&entry.interface_name).copied()?;
        Some(GuestAddress { dev: entry.interface_name.clone(), mac, addr: format!("{addr}/{prefix}") })
    };
    all.iter().filter_map(address_of).collect()
}
