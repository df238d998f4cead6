//! What the agent sees of its guest when the host asks. Every field may be absent: what could not be found out proves nothing.
//!
//! No argument, no environment and no content of any file is in it; texts are short and lists are bounded by the agent.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::MacAddr;

/// The longest that the agent may take for its facts, in milliseconds.
pub const MAX_FACTS_MS: u64 = 1_500;

/// What the agent sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GuestFacts {
    /// Its interfaces, without `lo`.
    pub links: Option<Vec<GuestLink>>,
    /// Gateways of its default routes.
    pub default_gateways: Option<Vec<Ipv4Addr>>,
    /// Its IPv4 routes.
    pub routes: Option<Vec<GuestRoute>>,
    /// Its neighbour table (IPv4).
    pub neighbours: Option<Vec<GuestNeighbour>>,
    /// Whether its gateway answers, ARP at least.
    pub gateway_answers: Option<bool>,
    /// What listens.
    pub listening: Option<Vec<Listening>>,
    /// Units or services that failed.
    pub failed_units: Option<Vec<String>>,
    /// All of its memory, in MiB.
    pub total_mib: Option<u64>,
    /// Memory that is available, in MiB.
    pub available_mib: Option<u64>,
    /// Share of the last ten seconds in which some process waited for memory, in percent (PSI, `some avg10`).
    pub memory_stall_percent: Option<u8>,
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
    /// It has a carrier; none for what is no device (a bridge, a tunnel).
    pub carrier: Option<bool>,
    /// IPv4 addresses with prefix length.
    pub addresses: Option<Vec<String>>,
}

/// An IPv4 route of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestRoute {
    /// Where to, with prefix length; `0.0.0.0/0` is the default.
    pub to: String,
    /// Through whom; none if directly.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Its interface.
    pub dev: String,
}

/// A neighbour of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestNeighbour {
    /// Its address.
    pub address: Ipv4Addr,
    /// Who answered for it; none if nobody did.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// On which interface.
    pub dev: String,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_older_or_newer_agent_is_understood() {
        assert_eq!(serde_json::from_value::<GuestFacts>(json!({})).unwrap(), GuestFacts::default());
        let said = json!({"links": [{"name": "eth0", "mac": "06:00:c0:a8:64:08", "up": true, "duplex": "full"}],
            "listening": [{"address": "::", "port": 8080}], "clockSkewMs": -5, "moods": []});
        let facts: GuestFacts = serde_json::from_value(said).unwrap();
        let link = GuestLink {
            name: "eth0".into(),
            mac: "06:00:c0:a8:64:08".parse().ok(),
            up: Some(true),
            ..GuestLink::default()
        };
        assert_eq!(facts.links, Some(vec![link]));
        assert_eq!(facts.listening, Some(vec![Listening { address: "::".into(), port: 8080, program: None }]));
        assert_eq!(facts.clock_skew_ms, Some(-5));
    }
}
