//! Links and addresses of the namespace through rtnetlink. The socket was made inside, so it may be used from anywhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use airlock_domain::network::Ipv4Net;

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_core::Nla;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// `IFLA_TUN_VNET_HDR` of `linux/if_link.h`.
const IFLA_TUN_VNET_HDR: u16 = 5;

/// A link as the kernel reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub kind: String,
    pub up: bool,
    pub carrier: bool,
    pub master: Option<u32>,
    pub isolated: bool,
    /// Index of the other end of a veth, in that end's namespace.
    pub peer: Option<u32>,
    /// None where the kernel does not say (not a TAP).
    pub vnet_hdr: Option<bool>,
    pub rx_packets: u64,
    pub tx_packets: u64,
}

/// The errno inside a netlink error.
pub(super) fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

impl Link {
    fn from_message(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Controller(master) => link.master = Some(master).filter(|index| *index != 0),
                LinkAttribute::Link(index) => link.peer = Some(index).filter(|index| *index != 0),
                LinkAttribute::Stats64(stats) => {
                    (link.rx_packets, link.tx_packets) = (stats.rx_packets, stats.tx_packets);
                }
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.take_info(info)),
                _ => {}
            }
        }
        link
    }

    fn take_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(InfoKind::Tun) => self.kind = "tun".into(),
            LinkInfo::Kind(InfoKind::Veth) => self.kind = "veth".into(),
            LinkInfo::Kind(InfoKind::Bridge) => self.kind = "bridge".into(),
            LinkInfo::Kind(other) => self.kind = format!("{other:?}").to_lowercase(),
            LinkInfo::Data(InfoData::Tun(facts)) => {
                // The crate hands TUN facts through undecoded.
                for fact in facts.iter().filter(|fact| fact.kind() == IFLA_TUN_VNET_HDR) {
                    let mut value = vec![0; fact.value_len()];
                    fact.emit_value(&mut value);
                    self.vnet_hdr = value.first().map(|flag| *flag != 0);
                }
            }
            LinkInfo::PortData(InfoPortData::BridgePort(facts)) => {
                self.isolated = facts.contains(&InfoBridgePort::Isolated(true));
            }
            _ => {}
        }
    }
}

/// Every link.
pub(super) async fn all(handle: &Handle) -> io::Result<Vec<Link>> {
    handle.link().get().execute().map_ok(Link::from_message).try_collect().await.map_err(to_io)
}

/// The link of that name, if there is one.
pub(super) async fn by_name(handle: &Handle, name: &str) -> io::Result<Option<Link>> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await.map_err(to_io) {
        Ok(message) => Ok(message.map(Link::from_message)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A bridge with a fixed hardware address: otherwise it takes the lowest of its ports', and every guest's neighbour entry for
/// the gateway goes stale whenever a TAP comes or goes.
pub(super) async fn add_bridge(handle: &Handle, name: &str, mac: [u8; 6]) -> io::Result<()> {
    let bridge = LinkBridge::new(name).address(mac.to_vec()).mcast_snooping(false).build();
    handle.link().add(bridge).execute().await.map_err(to_io)
}

/// A veth pair: one end here, the other one in the namespace `there`. Both are down.
pub(super) async fn add_veth(handle: &Handle, here: &str, peer: &str, there: &OwnedFd) -> io::Result<()> {
    let peer = LinkUnspec::new_with_name(peer).setns_by_fd(there.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(here, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    handle.link().add(pair.build()).execute().await.map_err(to_io)
}

async fn change(handle: &Handle, message: LinkMessage) -> io::Result<()> {
    handle.link().change(message).execute().await.map_err(to_io)
}

pub(super) async fn set_up(handle: &Handle, index: u32) -> io::Result<()> {
    change(handle, LinkUnspec::new_with_index(index).up().build()).await
}

pub(super) async fn set_down(handle: &Handle, index: u32) -> io::Result<()> {
    change(handle, LinkUnspec::new_with_index(index).down().build()).await
}

pub(super) async fn set_alias(handle: &Handle, index: u32, alias: &str) -> io::Result<()> {
    change(handle, LinkUnspec::new_with_index(index).alias(alias).build()).await
}

pub(super) async fn set_master(handle: &Handle, index: u32, master: u32) -> io::Result<()> {
    change(handle, LinkUnspec::new_with_index(index).controller(master).build()).await
}

pub(super) async fn isolate(handle: &Handle, index: u32) -> io::Result<()> {
    let port: LinkMessageBuilder<LinkBridgePort> = LinkBridgePort::new(index).isolated(true);
    handle.link().set_port(port.build()).execute().await.map_err(to_io)
}

/// Deletes a link; one that is gone already is fine.
pub(super) async fn delete(handle: &Handle, index: u32) -> io::Result<bool> {
    match handle.link().del(index).execute().await.map_err(to_io) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every IPv4 address with its net, by the index of its link.
pub(super) async fn addresses(handle: &Handle) -> io::Result<Vec<(u32, Ipv4Net)>> {
    let messages: Vec<_> = handle.address().get().execute().try_collect().await.map_err(to_io)?;
    let seen = messages.into_iter().filter_map(|message| {
        let (index, prefix) = (message.header.index, message.header.prefix_len);
        message.attributes.into_iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some((index, Ipv4Net::around(address, prefix))),
            _ => None,
        })
    });
    Ok(seen.collect())
}

/// Makes `gateway` the one default route.
pub(super) async fn set_default_route(handle: &Handle, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
    handle.route().add(route).replace().execute().await.map_err(to_io)
}

/// Makes `wanted` the only IPv4 address of a link.
pub(super) async fn set_only_address(handle: &Handle, index: u32, wanted: (Ipv4Addr, u8)) -> io::Result<()> {
    let actual: Vec<_> =
        handle.address().get().set_link_index_filter(index).execute().try_collect().await.map_err(to_io)?;
    let mut found = false;
    for message in actual {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        match address {
            Some(address) if (address, message.header.prefix_len) == wanted => found = true,
            Some(_) => handle.address().del(message).execute().await.map_err(to_io)?,
            None => {}
        }
    }
    if found {
        return Ok(());
    }
    match handle.address().add(index, IpAddr::V4(wanted.0), wanted.1).execute().await.map_err(to_io) {
        // Somebody else was faster with the same address.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}
