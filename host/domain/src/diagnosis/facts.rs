//! What probes found out about a VM, as far as they did: every field may be absent, and what is absent proves nothing.
//!
//! The host looks at its own side ([`HostFacts`]); the agent answers over the control channel ([`GuestFacts`]), which needs no
//! network.

use std::collections::BTreeMap;

use airlock_protocol::MacAddr;
pub use airlock_protocol::facts::{GuestFacts, GuestLink, GuestNeighbour, GuestRoute, Listening};
use serde::{Deserialize, Serialize};

/// What the host sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostFacts {
    /// The VM's TAP; inside: none if there is no such interface.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub tap: Option<Option<TapFacts>>,
    /// The installation's bridge; inside: none if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub bridge: Option<Option<BridgeFacts>>,
    /// Who answers ARP for the guest's address now.
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
    /// Packets that were dropped, by the rule's name: those of this VM's guard, and those that the namespace dropped of all its
    /// guests. `rp_filter` is the kernel's own count of what came from where its answer would not go.
    pub drops: Option<BTreeMap<String, u64>>,
    /// Chains of others that drop what is forwarded.
    pub forward_drops: Option<Vec<String>>,
    /// Whether the rule that translates the guests' addresses is there, where it should be.
    pub nat: Option<bool>,
    /// `rp_filter` of the bridge: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
    /// A route of the namespace, other than the bridge's own, that takes addresses of the pool. Routes of the host itself are no
    /// fault: the namespace is private (`airlock doctor` names them).
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
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "known")]
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

/// A value that is there is known, also when it is null: in JSON, what was not found out is absent.
fn known<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_stays_apart_from_what_is_not_known() {
        let facts = HostFacts {
            tap: Some(None),
            bridge: Some(Some(BridgeFacts { name: "br0".into(), ..BridgeFacts::default() })),
            ..HostFacts::default()
        };
        let json = serde_json::to_value(&facts).unwrap();
        assert_eq!(json.get("tap"), Some(&serde_json::Value::Null));
        assert_eq!(serde_json::from_value::<HostFacts>(json).unwrap(), facts);
        let nothing = serde_json::to_value(HostFacts::default()).unwrap();
        assert_eq!(nothing.get("tap"), None);
        assert_eq!(serde_json::from_value::<HostFacts>(nothing).unwrap(), HostFacts::default());
        let tap = TapFacts { master: Some(None), ..TapFacts::default() };
        assert_eq!(serde_json::from_value::<TapFacts>(serde_json::to_value(&tap).unwrap()).unwrap(), tap);
    }
}
