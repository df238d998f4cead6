//! The private network of an installation: one namespace, one bridge with the gateway's address, one TAP per VM.
//!
//! [`Network::open`] makes what is missing and corrects what is wrong, so it is the same call for a first start, a restart and a
//! repair. Nothing outside the namespace is touched. A failure names the thing and keeps the errno ([`NetworkError`]).

mod error;
mod link;
mod tap;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use airlock_domain::network::NetworkSpec;
use airlock_protocol::MacAddr;
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::Command;

use crate::netns::{Netns, NetnsError};
use crate::sys;

pub use error::NetworkError;

/// Settings of the namespace. Guests have no IPv6 here, so the host must not speak it to them either.
const SYSCTLS: [(&str, &str); 2] =
    [("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"), ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")];

/// A handle on the network. Clones share the namespace's thread and the netlink socket.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    spec: NetworkSpec,
    netns: Netns,
    netlink: rtnetlink::Handle,
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
        let runtime = tokio::runtime::Handle::current();
        let (connection, netlink, _) = netns
            .call(move || {
                // The socket registers with the runtime, but belongs to the namespace of the thread that makes it.
                let _entered = runtime.enter();
                rtnetlink::new_connection()
            })
            .await
            .map_err(namespace_error)?
            .map_err(|source| NetworkError::Netlink { namespace: spec.namespace.clone(), source })?;
        tokio::spawn(connection);
        let network = Self { inner: Arc::new(Inner { spec: spec.clone(), netns, netlink }) };
        network.write_sysctls().await?;
        network.repair().await?;
        Ok(network)
    }

    /// Makes `lo`, the bridge and its address what the specification says. Called by [`Network::open`]; may be called again.
    pub async fn repair(&self) -> Result<(), NetworkError> {
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

    /// Removes the whole namespace with everything in it. Processes still inside keep it alive, nameless, until they end.
    pub async fn delete(self) -> Result<(), NetworkError> {
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

    async fn write_sysctls(&self) -> Result<(), NetworkError> {
        let write = || {
            SYSCTLS.iter().try_for_each(|(path, value)| match std::fs::write(path, value) {
                // A kernel without IPv6 has nothing to switch off.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(NetworkError::Sysctl { path, value, source }),
                Ok(()) => Ok(()),
            })
        };
        self.inner.netns.call(write).await.map_err(|source| self.namespace_error(source))?
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
