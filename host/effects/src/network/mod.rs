//! The private network of an installation: one namespace, one bridge with the gateway's address, one TAP per VM, the rules for
//! what its guests may send, and a way out if the configuration names one.
//!
//! [`Network::open`] makes what is missing and corrects what is wrong, so it is the same call for a first start, a restart and a
//! repair; it cuts no connection of live guests and leaves their guards alone. Outside the namespace there are at most one link
//! and one table, both of our own, and only with an uplink. A failure names the thing and keeps the errno ([`NetworkError`]).

pub mod dhcp;
mod error;
mod guard;
#[cfg(test)]
mod isolation_tests;
mod link;
pub(crate) mod look;
mod nft;
mod observe;
mod place;
mod sysctl;
mod tap;
#[cfg(test)]
mod tests;
mod uplink;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use airlock_domain::firewall::{self, GuardSpec};
use airlock_domain::network::{EgressSpec, NetworkSpec, UPLINK_LINK, Uplink};
use airlock_protocol::MacAddr;
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::Command;

use crate::netns::{Netns, NetnsError};
use crate::sys;

pub use error::NetworkError;
use guard::Guards;
use nft::Nft;
pub use nft::NftError;
use observe::firewall_seen;
pub use observe::{FirewallSeen, GuardSeen};
use place::Place;
pub(crate) use uplink::examine_uplink;

/// A handle on the network. Clones share the namespace's thread and the netlink socket.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    spec: NetworkSpec,
    netns: Netns,
    place: Place,
    netlink: rtnetlink::Handle,
    nft: Nft,
    guards: Guards,
}

/// A TAP as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TapSeen {
    /// Interface name.
    pub name: String,
    /// Interface alias: the VM id of its owner.
    pub alias: String,
    /// Administratively up.
    pub up: bool,
    /// A VMM is attached.
    pub carrier: bool,
    /// The bridge it is a port of.
    pub master: Option<String>,
    /// Whether the port may talk to other isolated ports (it may not if true).
    pub isolated: bool,
    /// Whether frames carry a virtio-net header; none if the kernel does not say.
    pub vnet_hdr: Option<bool>,
    /// Packets that the guest sent.
    pub from_guest_packets: u64,
    /// Packets that were sent to the guest.
    pub to_guest_packets: u64,
}

/// Makes every kind of rule that an installation may need in a namespace of that name, which should be a new one, and removes it.
pub(crate) async fn try_rules(scratch: &str) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Nft { doing: "try the rules".into(), namespace: scratch.to_owned(), source };
    let nft = Nft::find().map_err(failed)?;
    let made = Netns::create(scratch).map_err(|source| failed(NftError::Namespace { source }))?;
    let spec =
        NetworkSpec { egress: EgressSpec { uplink: Uplink::Host, ..EgressSpec::default() }, ..NetworkSpec::default() };
    let address = spec.subnet.gateway();
    let guard = GuardSpec { tap: "lo".to_owned(), alias: String::new(), mac: MacAddr::from_lease(address), address };
    // Without egress there is one kind of rule that the others do not have; the guard is hooked to what every namespace has.
    let text = firewall::base(&NetworkSpec::default())
        + &firewall::base(&spec)
        + &firewall::uplink(&spec)
        + &firewall::guard(spec.subnet, &guard);
    let applied = nft.apply(&Place::Named(made), text).await;
    let deleted = Netns::delete(scratch).map_err(|source| failed(NftError::Namespace { source }));
    applied.map_err(failed).and(deleted.map(drop))
}

/// The version of nft, as it says it.
pub(crate) async fn nft_version() -> Option<String> {
    let printed = Nft::find().ok()?.version().await.ok()?;
    printed.split_whitespace().nth(1).map(str::to_owned)
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("spec", &self.inner.spec).finish_non_exhaustive()
    }
}

impl Network {
    /// Makes or repairs namespace, `lo`, bridge and the bridge's address. Idempotent. Must be called on a tokio runtime, which
    /// then carries the netlink socket.
    pub async fn open(spec: &NetworkSpec) -> Result<Self, NetworkError> {
        let namespace_error = |source| NetworkError::Namespace { bridge: spec.bridge.clone(), source };
        let name = spec.namespace.clone();
        let netns = tokio::task::spawn_blocking(move || Netns::create(&name))
            .await
            .unwrap_or_else(|_| Err(NetnsError::Panicked { name: spec.namespace.clone() }))
            .map_err(namespace_error)?;
        let place = Place::Named(netns.clone());
        let netlink = place
            .netlink()
            .await
            .map_err(namespace_error)?
            .map_err(|source| NetworkError::Netlink { namespace: spec.namespace.clone(), source })?;
        let nft = Nft::find().map_err(|source| NetworkError::Nft {
            doing: "find the program for the rules".to_owned(),
            namespace: spec.namespace.clone(),
            source,
        })?;
        let guards = Guards::start(nft.clone(), place.clone(), spec.subnet);
        let network = Self { inner: Arc::new(Inner { spec: spec.clone(), netns, place, netlink, nft, guards }) };
        network.repair().await?;
        Ok(network)
    }

    /// Makes `lo`, the rules, the bridge with its address and the way out what the specification says. Called by [`Network::open`];
    /// may be called again.
    pub async fn repair(&self) -> Result<(), NetworkError> {
        let of_namespace = sysctl::OF_NAMESPACE.map(|(path, value)| (path.to_owned(), value));
        self.write_sysctls(of_namespace.to_vec()).await?;
        // Before anything that could carry a packet.
        let applied = self.inner.nft.apply(&self.inner.place, firewall::base(self.spec())).await;
        applied.map_err(|source| self.nft_error("apply the rules", source))?;
        self.repair_bridge().await?;
        self.repair_uplink().await
    }

    /// The rules beside the guards as the kernel has them. What is wanted is [`FirewallSeen::is`].
    pub async fn firewall(&self) -> Result<FirewallSeen, NetworkError> {
        let listed = self.inner.nft.list(&self.inner.place, &["table", "inet", firewall::TABLE]).await;
        let listed = listed.map_err(|source| self.nft_error("list the rules", source))?;
        Ok(listed.as_ref().map(firewall_seen).unwrap_or_default())
    }

    async fn repair_bridge(&self) -> Result<(), NetworkError> {
        let spec = &self.inner.spec;
        let (namespace, bridge) = (spec.namespace.clone(), spec.bridge.clone());
        self.set_up("lo").await?;
        if self.link(&bridge).await?.is_none() {
            let mac = MacAddr::from_lease(spec.subnet.gateway());
            match link::add_bridge(self.netlink(), &bridge, mac.0).await {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                other => other.map_err(|source| NetworkError::CreateBridge { bridge, namespace, source })?,
            }
        }
        let found = self.bridge_link().await?;
        let wanted = (spec.subnet.gateway(), spec.subnet.prefix());
        link::set_only_address(self.netlink(), found.index, wanted).await.map_err(|source| {
            NetworkError::SetBridgeAddress { address: spec.subnet.to_string(), bridge: spec.bridge.clone(), source }
        })?;
        self.write_sysctls(vec![sysctl::of_bridge(&spec.bridge)]).await?;
        if found.up { Ok(()) } else { self.set_up(&spec.bridge).await }
    }

    /// What it was opened with.
    pub fn spec(&self) -> &NetworkSpec {
        &self.inner.spec
    }

    /// Name of the namespace.
    pub fn namespace(&self) -> &str {
        self.inner.netns.name()
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// A TCP socket (IPv4) that belongs to the namespace.
    pub async fn tcp_socket(&self) -> Result<TcpSocket, NetworkError> {
        let made = self.inner.netns.call(TcpSocket::new_v4).await.map_err(|source| self.namespace_error(source))?;
        made.map_err(|source| self.socket_error("a connection", source))
    }

    /// Listens inside the namespace.
    pub async fn listen(&self, addr: SocketAddr) -> Result<TcpListener, NetworkError> {
        let socket = self.tcp_socket().await?;
        let listen = || {
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            socket.listen(1024)
        };
        listen().map_err(|source| self.socket_error(&format!("listening on {addr}"), source))
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, NetworkError> {
        let netns = self.inner.netns.open_fd().map_err(|source| self.namespace_error(source))?;
        let mut command = Command::new(program);
        sys::enter_before_exec_async(&mut command, netns);
        Ok(command)
    }

    /// Removes the whole namespace with everything in it, and what we made at the uplink. Processes still inside keep it alive,
    /// nameless, until they end.
    pub async fn delete(self) -> Result<(), NetworkError> {
        let former = self.link(UPLINK_LINK).await?.map(|ours| ours.alias.parse().unwrap_or_default());
        self.remove_uplink(former.unwrap_or_default()).await?;
        let (name, bridge) = (self.namespace().to_owned(), self.inner.spec.bridge.clone());
        // Other clones may live on; what they could still reach goes now.
        let links = link::all(self.netlink()).await.map_err(|source| self.read_error("all links", source))?;
        for tap in links.iter().filter(|link| link.kind == "tun" || link.name == bridge) {
            link::delete(self.netlink(), tap.index)
                .await
                .map_err(|source| NetworkError::DeleteTap { tap: tap.name.clone(), source })?;
        }
        tokio::task::spawn_blocking(move || Netns::delete(&name))
            .await
            .unwrap_or_else(|_| Err(NetnsError::Panicked { name: self.namespace().to_owned() }))
            .map_err(|source| NetworkError::Namespace { bridge, source })?;
        Ok(())
    }

    fn netlink(&self) -> &rtnetlink::Handle {
        &self.inner.netlink
    }

    async fn link(&self, name: &str) -> Result<Option<link::Link>, NetworkError> {
        link::by_name(self.netlink(), name).await.map_err(|source| self.read_error(&format!("link {name}"), source))
    }

    async fn bridge_link(&self) -> Result<link::Link, NetworkError> {
        let (bridge, namespace) = (self.inner.spec.bridge.clone(), self.namespace().to_owned());
        match self.link(&bridge).await? {
            Some(link) if link.kind == "bridge" => Ok(link),
            Some(_) => Err(NetworkError::NotA { name: bridge, namespace, wanted: "bridge" }),
            None => Err(NetworkError::BridgeMissing { bridge, namespace }),
        }
    }

    async fn set_up(&self, name: &str) -> Result<(), NetworkError> {
        let index = self.link(name).await?.unwrap_or_default().index;
        link::set_up(self.netlink(), index)
            .await
            .map_err(|source| NetworkError::SetUp { link: name.to_owned(), source })
    }

    async fn write_sysctls(&self, settings: Vec<(String, &'static str)>) -> Result<(), NetworkError> {
        let write = move || settings.iter().try_for_each(|(path, value)| sysctl::write(path, value));
        self.inner.netns.call(write).await.map_err(|source| self.namespace_error(source))?
    }

    fn nft_error(&self, doing: &str, source: NftError) -> NetworkError {
        NetworkError::Nft { doing: doing.to_owned(), namespace: self.namespace().to_owned(), source }
    }

    fn namespace_error(&self, source: NetnsError) -> NetworkError {
        NetworkError::Namespace { bridge: self.inner.spec.bridge.clone(), source }
    }

    fn read_error(&self, what: &str, source: io::Error) -> NetworkError {
        NetworkError::Read { what: what.to_owned(), namespace: self.namespace().to_owned(), source }
    }

    fn socket_error(&self, purpose: &str, source: io::Error) -> NetworkError {
        NetworkError::Socket { namespace: self.namespace().to_owned(), purpose: purpose.to_owned(), source }
    }
}
