//! What a machine's guest reaches: one probe, asked and answered.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of [`ReachRequest::timeout_ms`].
pub const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=30_000;
/// The wait of a request that names none.
pub const DEFAULT_TIMEOUT_MS: u64 = 5000;

/// Body of `POST /api/vms/{id}/reach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReachRequest {
    /// What the guest is to reach.
    pub target: ReachTarget,
    /// Longest wait in milliseconds: 1 to 30000, 5000 if absent.
    #[serde(default = "default_timeout_ms")]
    #[schema(default = 5000, minimum = 1, maximum = 30000)]
    pub timeout_ms: u64,
}

const fn default_timeout_ms() -> u64 {
    DEFAULT_TIMEOUT_MS
}

/// What the guest is to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ReachTarget {
    /// A TCP connection.
    Tcp {
        /// `a.b.c.d:port`, or `[v6%scope]:port` with the number of the guest's interface.
        #[schema(value_type = String, example = "192.168.100.1:22")]
        address: SocketAddr,
    },
    /// An answer to a UDP datagram, a name server's question.
    Udp {
        /// As for TCP.
        #[schema(value_type = String, example = "192.168.100.1:53")]
        address: SocketAddr,
    },
    /// An ICMP echo.
    Ping {
        /// IPv4 address.
        #[schema(value_type = String, example = "192.168.100.1")]
        address: Ipv4Addr,
    },
    /// The IPv4 addresses of a name, by the guest's own name servers.
    Resolve {
        /// The name.
        #[schema(example = "example.org")]
        name: String,
    },
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReachView {
    /// `connected`, `answered`, `resolved`; `refused` (somebody is there and says no), `timed_out`, `unreachable` (the guest or a
    /// router says so), `failed` (the probe itself, or a name server's no).
    pub outcome: String,
    /// Symbolic errno of `unreachable` and, where there is one, of `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What was being done when it failed, or what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Addresses of `resolved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub addresses: Option<Vec<Ipv4Addr>>,
    /// How long it took in the guest, in milliseconds.
    pub ms: f64,
}

impl ReachView {
    /// Whether the target was reached as it was asked for.
    pub fn is_reached(&self) -> bool {
        matches!(self.outcome.as_str(), "connected" | "answered" | "resolved")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(value: Value) -> Result<ReachRequest, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn a_request_names_one_target() {
        let target = ReachTarget::Tcp { address: "192.168.100.1:22".parse().unwrap() };
        let wire = json!({"target": {"kind": "tcp", "address": "192.168.100.1:22"}, "timeoutMs": 700});
        assert_eq!(request(wire.clone()).unwrap(), ReachRequest { target, timeout_ms: 700 });
        assert_eq!(serde_json::to_value(request(wire.clone()).unwrap()).unwrap(), wire);
        let by_default = request(json!({"target": {"kind": "ping", "address": "10.0.0.1"}})).unwrap();
        assert_eq!(by_default.timeout_ms, DEFAULT_TIMEOUT_MS);
        for bad in [
            json!({"target": {"kind": "tcp", "address": "192.168.100.1"}}),
            json!({"target": {"kind": "tcp", "address": "example.org:22"}}),
            json!({"target": {"kind": "ping", "address": "10.0.0.1", "count": 3}}),
            json!({"target": {"kind": "ping", "address": "::1"}}),
            json!({"target": {"kind": "trace", "address": "10.0.0.1"}}),
            json!({"target": {"kind": "resolve", "name": "x"}, "timeout_ms": 1}),
            json!({"target": {"kind": "resolve", "name": "x"}, "timeoutMs": -1}),
            json!({"timeoutMs": 1}),
        ] {
            assert!(request(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_leaves_out_what_it_does_not_say() {
        let mut view = ReachView { outcome: "refused".into(), errno: None, detail: None, addresses: None, ms: 0.5 };
        assert_eq!(serde_json::to_value(&view).unwrap(), json!({"outcome": "refused", "ms": 0.5}));
        assert!(!view.is_reached());
        view.outcome = "resolved".into();
        view.addresses = Some(vec![Ipv4Addr::LOCALHOST]);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({"outcome": "resolved", "addresses": ["127.0.0.1"], "ms": 0.5})
        );
        assert!(view.is_reached());
    }
}
