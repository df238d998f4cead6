//! The way out: a veth pair between our namespace and the one that lends its uplink, and our one table there.
//!
//! ```text
//! our namespace                                   | the uplink's namespace (the daemon's own, or a named one)
//! br0 --(routed, NAT)--> uplink0 198.18.77.2/30 --|-- alk-xxxxxxxx 198.18.77.1/30 --(routed, NAT)--> its default route
//! ```
//! The alias of our end says which uplink it leads to, that of the other end whose it is. So a changed configuration finds what the
//! former one made, and nothing is taken or removed there that is not ours. Settings of the uplink's namespace are never changed: if
//! it does not forward, egress is refused. Every step is repeated by the next [`super::Network::repair`], so a failure in the middle
//! leaves nothing that the next call does not finish or remove.

use airlock_domain::firewall;
use airlock_domain::network::{NetworkSpec, Transit, UPLINK_LINK, Uplink, uplink_alias, uplink_peer};
use rtnetlink::Handle;

use super::error::NetworkError;
use super::link::{self, Link};
use super::nft::{Nft, NftError};
use super::observe::forward_drops;
use super::place::Place;
use super::{Network, sysctl};

/// The uplink's end of the pair, and how to reach it.
struct Beyond {
    place: Place,
    netlink: Handle,
    /// What it is called in the configuration.
    name: String,
    /// Name of our link there.
    peer: String,
    /// Alias of our link there.
    alias: String,
}

impl Network {
    /// Makes or repairs the way out that the specification asks for, and removes any other.
    pub(super) async fn repair_uplink(&self) -> Result<(), NetworkError> {
        let wanted = self.spec().egress.uplink.clone();
        // A link without its alias was made by a daemon that died at once: nothing came after it.
        let former: Option<Uplink> = self.link(UPLINK_LINK).await?.and_then(|ours| ours.alias.parse().ok());
        if wanted == Uplink::None || former.as_ref() != Some(&wanted) {
            self.remove_uplink(former.unwrap_or_default()).await?;
        }
        if wanted == Uplink::None {
            return self.set_forwarding("0").await;
        }
        let beyond = Beyond::open(self.spec()).await?;
        beyond.check_forwarding().await?;
        beyond.check_transit_free(self.spec().egress.transit).await?;
        let (ours, peer) = self.ensure_pair(&beyond).await?;
        // After the link, which is the record of where the table is; before the first packet can arrive there.
        let rules = self.inner.nft.apply(&beyond.place, firewall::uplink(self.spec())).await;
        rules.map_err(|source| beyond.nft_error("apply the rules of the uplink", source))?;
        self.address_pair(&beyond, &ours, &peer).await?;
        // Another installation may have taken the same addresses while we did.
        if let Err(taken) = beyond.check_transit_free(self.spec().egress.transit).await {
            self.remove_uplink(wanted).await?;
            return Err(taken);
        }
        self.set_forwarding("1").await
    }

    /// Removes veth and table. Without a veth nothing tells where the table was, so the daemon's own namespace is looked at.
    pub(super) async fn remove_uplink(&self, former: Uplink) -> Result<(), NetworkError> {
        let place = match Place::of_uplink(&former).await {
            Ok(place) => place.unwrap_or(Place::Host),
            // Its namespace is gone, and the table with it.
            Err(_) => Place::Host,
        };
        let table = firewall::uplink_table(self.namespace());
        let failed = |source| NetworkError::Nft {
            doing: format!("remove table {table}"),
            namespace: former.to_string(),
            source,
        };
        let nft = &self.inner.nft;
        // Asked first: whoever watches the rules of that machine need not hear of us when there is nothing to do.
        if nft.list(&place, &["table", "inet", &table]).await.map_err(failed)?.is_some() {
            nft.apply(&place, firewall::remove_table(&table)).await.map_err(failed)?;
        }
        // The link goes last: it is the record of where the table is.
        if let Some(ours) = self.link(UPLINK_LINK).await? {
            let deleted = link::delete(self.netlink(), ours.index).await;
            deleted.map_err(|source| NetworkError::DeleteLink { link: UPLINK_LINK.to_owned(), source })?;
        }
        Ok(())
    }

    /// Both ends of the pair with their aliases, made if they are not there. New ones are down.
    async fn ensure_pair(&self, beyond: &Beyond) -> Result<(Link, Link), NetworkError> {
        let (ours, peer) = self.find_or_create_pair(beyond).await?;
        for (netlink, end, alias) in [(self.netlink(), &ours, &beyond.name), (&beyond.netlink, &peer, &beyond.alias)] {
            if end.alias != *alias {
                link::set_alias(netlink, end.index, alias).await.map_err(failed("the alias", end))?;
            }
        }
        Ok((ours, peer))
    }

    async fn find_or_create_pair(&self, beyond: &Beyond) -> Result<(Link, Link), NetworkError> {
        let (ours, peer) = (self.link(UPLINK_LINK).await?, beyond.link().await?);
        if let (Some(ours), Some(peer)) = (&ours, &peer)
            && ours.kind == "veth"
            && (ours.peer, peer.peer) == (Some(peer.index), Some(ours.index))
        {
            return Ok((ours.clone(), peer.clone()));
        }
        if let Some(peer) = &peer {
            // Ours from a namespace of the same name that a process still keeps alive; or somebody else's.
            if peer.alias != beyond.alias {
                let (link, alias, uplink) = (peer.name.clone(), peer.alias.clone(), beyond.name.clone());
                return Err(NetworkError::UplinkNameCollision { link, alias, uplink });
            }
            beyond.delete(peer).await?;
        }
        if let Some(ours) = &ours {
            let deleted = link::delete(self.netlink(), ours.index).await;
            deleted.map_err(|source| NetworkError::DeleteLink { link: ours.name.clone(), source })?;
        }
        let create_error =
            |source| NetworkError::CreateUplink { link: beyond.peer.clone(), uplink: beyond.name.clone(), source };
        let inside = self.netns().open_fd().map_err(|source| self.namespace_error(source))?;
        link::add_veth(&beyond.netlink, &beyond.peer, UPLINK_LINK, &inside).await.map_err(create_error)?;
        match (self.link(UPLINK_LINK).await?, beyond.link().await?) {
            (Some(ours), Some(peer)) => Ok((ours, peer)),
            _ => Err(create_error(std::io::Error::from_raw_os_error(libc::ENODEV))),
        }
    }

    /// Addresses, both ends up, and our default route.
    async fn address_pair(&self, beyond: &Beyond, ours: &Link, peer: &Link) -> Result<(), NetworkError> {
        let transit = self.spec().egress.transit;
        let ends = [(self.netlink(), ours, transit.our_side()), (&beyond.netlink, peer, transit.uplink_side())];
        for (netlink, end, address) in ends {
            let address = (address, transit.prefix());
            link::set_only_address(netlink, end.index, address).await.map_err(failed("the address", end))?;
        }
        for (netlink, end, _) in ends {
            link::set_up(netlink, end.index).await.map_err(failed("up", end))?;
        }
        let routed = link::set_default_route(self.netlink(), ours.index, transit.uplink_side()).await;
        routed.map_err(failed("the default route", ours))
    }

    async fn set_forwarding(&self, value: &'static str) -> Result<(), NetworkError> {
        self.write_sysctls(vec![(IP_FORWARD.to_owned(), value)]).await
    }
}

fn failed(what: &'static str, end: &Link) -> impl FnOnce(std::io::Error) -> NetworkError {
    let link = end.name.clone();
    move |source| NetworkError::ConfigureUplink { what, link, source }
}

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the uplink of a specification can be used as it is, without making anything. Returns the chains of others that drop
/// what is forwarded unless their owner accepts it: our own accept does not help there.
pub(crate) async fn examine_uplink(spec: &NetworkSpec) -> Result<Vec<String>, NetworkError> {
    let beyond = Beyond::open(spec).await?;
    beyond.check_forwarding().await?;
    beyond.check_transit_free(spec.egress.transit).await?;
    let failed = |source| beyond.nft_error("list the chains", source);
    let nft = Nft::find().map_err(failed)?;
    let listed = nft.list(&beyond.place, &["chains"]).await.map_err(failed)?;
    Ok(listed.map(|listed| forward_drops(&listed, &firewall::uplink_table(&spec.namespace))).unwrap_or_default())
}

impl Beyond {
    async fn open(spec: &NetworkSpec) -> Result<Self, NetworkError> {
        let uplink = &spec.egress.uplink;
        let namespace_error = |source| NetworkError::Uplink { uplink: uplink.to_string(), source };
        let place = Place::of_uplink(uplink).await.map_err(namespace_error)?.unwrap_or(Place::Host);
        let netlink = place.netlink().await.map_err(namespace_error)?;
        let netlink = netlink.map_err(|source| NetworkError::Netlink { namespace: uplink.to_string(), source })?;
        let (peer, alias) = (uplink_peer(&spec.namespace), uplink_alias(&spec.namespace));
        Ok(Self { place, netlink, name: uplink.to_string(), peer, alias })
    }

    /// Refuses a transit net that another link there has an address of. Two installations with one transit would answer for
    /// each other.
    async fn check_transit_free(&self, transit: Transit) -> Result<(), NetworkError> {
        let read_error = |source| self.read_error("all links and addresses", source);
        let links = link::all(&self.netlink).await.map_err(read_error)?;
        for (index, net) in link::addresses(&self.netlink).await.map_err(read_error)? {
            let Some(owner) = links.iter().find(|link| link.index == index) else { continue };
            let ours = owner.name == self.peer && owner.alias == self.alias;
            if !ours && net.overlaps(transit.net()) {
                let (transit, link, uplink) = (transit.to_string(), owner.name.clone(), self.name.clone());
                return Err(NetworkError::TransitTaken { transit, link, uplink });
            }
        }
        Ok(())
    }

    async fn check_forwarding(&self) -> Result<(), NetworkError> {
        let read = self.place.call(|| sysctl::read(IP_FORWARD)).await;
        let read = read.map_err(|source| NetworkError::Uplink { uplink: self.name.clone(), source })?;
        match read.map_err(|source| self.read_error(IP_FORWARD, source))?.as_str() {
            "0" => Err(NetworkError::UplinkNotForwarding { uplink: self.name.clone() }),
            _ => Ok(()),
        }
    }

    async fn link(&self) -> Result<Option<Link>, NetworkError> {
        let what = format!("link {}", self.peer);
        link::by_name(&self.netlink, &self.peer).await.map_err(|source| self.read_error(&what, source))
    }

    async fn delete(&self, link: &Link) -> Result<(), NetworkError> {
        let deleted = link::delete(&self.netlink, link.index).await;
        deleted.map(drop).map_err(|source| NetworkError::DeleteLink { link: link.name.clone(), source })
    }

    fn read_error(&self, what: &str, source: std::io::Error) -> NetworkError {
        NetworkError::Read { what: what.to_owned(), namespace: self.name.clone(), source }
    }

    fn nft_error(&self, doing: &str, source: NftError) -> NetworkError {
        NetworkError::Nft { doing: doing.to_owned(), namespace: self.name.clone(), source }
    }
}
