//! What probes ask of the namespace. Nothing is changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use airlock_domain::firewall;
use airlock_domain::network::{Ipv4Net, Uplink};
use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use serde_json::Value;

use super::error::NetworkError;
use super::observe::{drops_anything, foreign_chains, masquerades};
use super::place::Place;
use super::tap::tap_seen;
use super::{Network, NftError, TapSeen, link};

/// The hooks that a forwarded packet passes.
const ON_THE_WAY: [&str; 3] = ["prerouting", "forward", "postrouting"];
/// Chains of others that are looked into; whoever has more is named by the policy only.
const MAX_CHAINS: usize = 16;

/// A link as the kernel has it.
#[derive(Debug, Clone)]
pub(crate) struct LinkSeen {
    /// In the terms of a TAP, whatever it is.
    pub seen: TapSeen,
    /// Whether it is a TAP.
    pub is_tap: bool,
}

/// The bridge as the kernel has it.
#[derive(Debug, Clone)]
pub(crate) struct BridgeSeen {
    /// Administratively up.
    pub up: bool,
    /// Its IPv4 addresses with prefix length.
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

impl Network {
    /// The link of a TAP's name and the bridge, as far as they are there.
    pub(crate) async fn look_at(&self, tap: &str) -> Result<(Option<LinkSeen>, Option<BridgeSeen>), NetworkError> {
        let links = link::all(self.netlink()).await.map_err(|source| self.read_error("all links", source))?;
        let found = links.iter().find(|link| link.name == tap);
        let found = found.map(|link| LinkSeen { seen: tap_seen(link, &links), is_tap: link.kind == "tun" });
        let bridge = links.iter().find(|link| link.name == self.spec().bridge && link.kind == "bridge");
        let Some(bridge) = bridge else { return Ok((found, None)) };
        let addresses = addresses_of(self.netlink(), bridge.index).await;
        let addresses = addresses.map_err(|source| self.read_error("the bridge's addresses", source))?;
        Ok((found, Some(BridgeSeen { up: bridge.up, addresses })))
    }

    /// Chains of others that drop what is forwarded: in the namespace by a policy or by any of their rules, at the uplink, which
    /// is somebody else's, by their policy.
    pub(crate) async fn forward_drops(&self) -> Result<Vec<String>, NetworkError> {
        let mut found = Vec::new();
        for chain in self.foreign_chains(&self.inner.place, firewall::TABLE).await?.into_iter().take(MAX_CHAINS) {
            let drops = chain.policy_drops || {
                let [family, table, name] = chain.names.each_ref().map(String::as_str);
                let listed = self.list(&self.inner.place, &["chain", family, table, name]).await?;
                listed.as_ref().is_some_and(drops_anything)
            };
            if drops {
                found.push(chain.names.join(" "));
            }
        }
        if let Some(beyond) = self.beyond().await? {
            let ours = firewall::uplink_table(self.namespace());
            let chains = self.foreign_chains(&beyond, &ours).await?;
            let uplink = &self.spec().egress.uplink;
            let drop = chains.into_iter().filter(|chain| chain.policy_drops).take(MAX_CHAINS);
            found.extend(drop.map(|chain| format!("{} at {uplink}", chain.names.join(" "))));
        }
        Ok(found)
    }

    /// Whether guests' addresses are translated on both ends of the way out; none where there is no way out.
    pub(crate) async fn nat(&self) -> Result<Option<bool>, NetworkError> {
        let Some(beyond) = self.beyond().await? else { return Ok(None) };
        let theirs = firewall::uplink_table(self.namespace());
        for (place, table) in [(&self.inner.place, firewall::TABLE), (&beyond, theirs.as_str())] {
            let listed = self.list(place, &["chain", "inet", table, "postrouting"]).await?;
            if !listed.as_ref().is_some_and(masquerades) {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    async fn beyond(&self) -> Result<Option<Place>, NetworkError> {
        let uplink = &self.spec().egress.uplink;
        if *uplink == Uplink::None {
            return Ok(None);
        }
        let place = Place::of_uplink(uplink).await;
        place.map_err(|source| NetworkError::Uplink { uplink: uplink.to_string(), source })
    }

    async fn foreign_chains(&self, place: &Place, ours: &str) -> Result<Vec<ForeignChain>, NetworkError> {
        let listed = self.list(place, &["chains"]).await?.unwrap_or_default();
        Ok(foreign_chains(&listed, ours, &ON_THE_WAY))
    }

    async fn list(&self, place: &Place, what: &[&str]) -> Result<Option<Value>, NetworkError> {
        let listed: Result<_, NftError> = self.inner.nft.list(place, what).await;
        listed.map_err(|source| self.nft_error(&format!("list {}", what.join(" ")), source))
    }

    /// Runs `work` in the namespace. Keep it short.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
        doing: &str,
    ) -> Result<T, NetworkError> {
        let done = self.netns().call(work).await.map_err(|source| self.namespace_error(source))?;
        done.map_err(|source| self.read_error(doing, source))
    }

    /// The net of the guests.
    pub(crate) fn pool(&self) -> Ipv4Net {
        self.spec().subnet.net()
    }
}

/// A chain of somebody else that packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignChain {
    /// Family, table and name, each a plain word.
    pub names: [String; 3],
    /// What none of its rules takes is dropped.
    pub policy_drops: bool,
}

async fn addresses_of(handle: &rtnetlink::Handle, index: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let messages: Vec<_> =
        handle.address().get().set_link_index_filter(index).execute().try_collect().await.map_err(link::to_io)?;
    let seen = messages.into_iter().filter_map(|message| {
        let prefix = message.header.prefix_len;
        message.attributes.into_iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some((address, prefix)),
            _ => None,
        })
    });
    Ok(seen.collect())
}
