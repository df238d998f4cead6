//! What probes found out about a VM, as far as they did: every field may be absent, and what is absent proves nothing.
//!
//! The host looks at its own side ([`HostFacts`]); the agent answers over the control channel ([`GuestFacts`]), which needs no
//! network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_protocol::MacAddr;
use serde::{Deserialize, Serialize};

/// What the host sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostFacts {
    /// The VM's TAP; inside: none if there is no such interface.
    pub tap: Option<Option<TapFacts>>,
    /// The installation's bridge; inside: none if there is none.
    pub bridge: Option<Option<BridgeFacts>>,
    /// What the neighbour table of the namespace says about the guest's address.
    pub neighbour: Option<NeighbourFacts>,
    /// ICMP echo to the guest.
    pub ping: Option<Probe>,
    /// TCP connect to the agent's port.
    pub tcp: Option<Probe>,
    /// `GET /health`.
    pub http: Option<Probe>,
    /// TCP connect and the handshake of the RFB server (RFC 6143).
    pub rfb: Option<Probe>,
    /// Whether the first frame has more than one colour.
    pub painted: Option<bool>,
    /// The guard of the VM's port is there with all of its rules.
    pub guarded: Option<bool>,
    /// Packets that were dropped, by the rule's name.
    pub drops: Option<BTreeMap<String, u64>>,
    /// Chains of others that drop what is forwarded.
    pub forward_drops: Option<Vec<String>>,
    /// Whether the rule that translates the guests' addresses is there, where it should be.
    pub nat: Option<bool>,
    /// `rp_filter` of the bridge: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
    /// A route of the host that overlaps the pool.
    pub overlap: Option<String>,
    /// Whether the VMM's process lives.
    pub vmm_alive: Option<bool>,
    /// Whether the kernel killed the VMM for want of memory.
    pub vmm_oom_killed: Option<bool>,
    /// Free bytes where VMs are kept.
    pub free_bytes: Option<u64>,
}

/// A TAP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TapFacts {
    /// Its alias, which should be the VM's id.
    pub alias: Option<String>,
    /// Whether that is this VM's.
    pub ours: Option<bool>,
    /// Administratively up.
    pub up: Option<bool>,
    /// A VMM is attached.
    pub carrier: Option<bool>,
    /// The bridge it is a port of; inside: none if it is no port.
    pub master: Option<Option<String>>,
    /// Frames carry a virtio-net header.
    pub vnet_hdr: Option<bool>,
    /// Packets that the guest sent.
    pub from_guest_packets: Option<u64>,
    /// Packets that were sent to the guest.
    pub to_guest_packets: Option<u64>,
}

/// A bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BridgeFacts {
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: Option<bool>,
    /// Its addresses with prefix length.
    pub addresses: Option<Vec<String>>,
    /// Whether one of them is the gateway of the guests.
    pub has_gateway: Option<bool>,
}

/// A neighbour entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NeighbourFacts {
    /// Whether ARP was answered.
    pub answered: Option<bool>,
    /// By whom.
    pub mac: Option<MacAddr>,
    /// Whether that is the guest's own MAC.
    pub ours: Option<bool>,
}

/// What came of a probe over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Probe {
    /// As it was asked for.
    Ok,
    /// Somebody is there and says no.
    Refused,
    /// Nothing came back within the probe's deadline.
    TimedOut,
    /// The way is closed, as a router or this host says.
    Unreachable {
        /// Symbolic errno.
        errno: String,
    },
    /// Something came back, and it is wrong.
    Wrong {
        /// What.
        detail: String,
    },
}

/// What the agent sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GuestFacts {
    /// Its interfaces, without `lo`.
    pub links: Option<Vec<GuestLink>>,
    /// Gateways of its default routes.
    pub default_gateways: Option<Vec<Ipv4Addr>>,
    /// Whether its gateway answers ARP.
    pub gateway_answers: Option<bool>,
    /// What listens.
    pub listening: Option<Vec<Listening>>,
    /// Units or services that failed.
    pub failed_units: Option<Vec<String>>,
    /// Memory that is available, in MiB.
    pub available_mib: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_killed: Option<Vec<String>>,
    /// How far its clock is ahead of the host's, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// Whether its name servers answer.
    pub dns: Option<bool>,
    /// Whether it gets out, where it may.
    pub egress: Option<bool>,
    /// The last messages of its kernel.
    pub kernel_tail: Option<Vec<String>>,
}

/// An interface of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GuestLink {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Administratively up.
    pub up: Option<bool>,
    /// It has a carrier.
    pub carrier: Option<bool>,
    /// IPv4 addresses with prefix length.
    pub addresses: Option<Vec<String>>,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listening {
    /// Its address, such as `0.0.0.0` or `::1`.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whose it is, if the agent can tell.
    #[serde(default)]
    pub program: Option<String>,
}
