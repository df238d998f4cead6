//! Messages of the control channel, JSON inside [`crate::frame`]s.
//!
//! The host speaks first (`hello`) each time it connects; the agent answers with its own `hello`, which carries the whole
//! timeline, so nothing is lost when the daemon restarts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Sensitive;
use crate::facts::GuestFacts;
use crate::health::GuestAddress;
use crate::stage::StageReport;

/// Version of this protocol.
pub const VERSION: u16 = 1;

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// First message of every connection.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// The host's clock, milliseconds since the Unix epoch; the agent sets the guest's clock from it.
        now_ms: u64,
        /// The password of the guest's RFB server from now on. The agent has put it where the server reads it before it answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vnc_password: Option<Sensitive>,
    },
    /// Run a provider's tool. A login that already runs under the same `login_id` is left alone.
    StartLogin(LoginSpec),
    /// Show a page in the browser.
    OpenUrl {
        /// The page.
        url: Sensitive,
    },
    /// Type a code at the tool's prompt.
    EnterCode {
        /// The code, without line end.
        code: Sensitive,
    },
    /// End the tool and forget the login.
    CancelLogin,
    /// The captured credential is sealed and committed on the host.
    CredentialStored {
        /// The login it belongs to.
        login_id: String,
    },
    /// The screen is waited for so long from now; then the agent says what is missing of it, and what its programs said last. Another
    /// such message takes the place of the one before.
    ScreenDue {
        /// Milliseconds.
        within_ms: u64,
    },
    /// Power the guest off cleanly.
    PowerOff,
    /// Answered with [`GuestMessage::Pong`].
    Ping {
        /// Echoed.
        n: u64,
    },
    /// Try to reach something from inside the guest. Answered with [`GuestMessage::Reached`] at the latest when the time is
    /// over, unless the host that asked is gone by then.
    Reach {
        /// Names the probe in its answer; the host's choice.
        id: u64,
        /// What to reach.
        target: ReachTarget,
        /// Longest wait, in milliseconds; the agent takes at most [`MAX_REACH_MS`].
        timeout_ms: u64,
    },
    /// Look at yourself. Answered with [`GuestMessage::Facts`] at the latest when the time is over.
    Facts {
        /// Names the question in its answer; the host's choice.
        id: u64,
        /// The host's clock, milliseconds since the Unix epoch.
        now_ms: u64,
        /// What proves that the guest gets out: contact with one of them is enough. The agent takes the first
        /// [`MAX_EGRESS_TARGETS`].
        #[serde(default)]
        egress: Vec<ReachTarget>,
        /// Longest wait, in milliseconds; the agent takes at most [`crate::facts::MAX_FACTS_MS`].
        timeout_ms: u64,
    },
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GuestMessage {
    /// Answer to every `hello`.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Build id of the agent.
        build_id: String,
        /// VM id from the kernel command line.
        vm_id: String,
        /// Addresses the guest really has.
        addresses: Vec<GuestAddress>,
        /// Everything reported so far.
        timeline: Vec<StageReport>,
    },
    /// A stage was reached or failed.
    Stage(StageReport),
    /// Progress of a login.
    Login {
        /// Which login.
        login_id: String,
        /// What happened.
        event: LoginEvent,
    },
    /// Answer to `ping`.
    Pong {
        /// Echoed.
        n: u64,
    },
    /// Answer to `reach`.
    Reached {
        /// The host's name for the probe.
        id: u64,
        /// What came of it.
        outcome: ReachOutcome,
        /// How long it took, in milliseconds.
        ms: f64,
    },
    /// Answer to `facts`.
    Facts {
        /// The host's name for the question.
        id: u64,
        /// What the agent found out in time.
        facts: Box<GuestFacts>,
    },
}

/// The longest that a probe may wait, in milliseconds.
pub const MAX_REACH_MS: u64 = 30_000;
/// So many targets of one `facts` are tried.
pub const MAX_EGRESS_TARGETS: usize = 4;

/// What a probe tries to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReachTarget {
    /// A TCP connection, closed at once.
    Tcp {
        /// `a.b.c.d:port`, or `[v6%scope]:port` with the number of the guest's interface.
        address: SocketAddr,
    },
    /// A UDP datagram (a name server's question, to which a name server answers), sent again each second, and anything that
    /// comes back.
    Udp {
        /// As for TCP.
        address: SocketAddr,
    },
    /// ICMP echo (RFC 792), sent again each second.
    Ping {
        /// Who is to answer.
        address: Ipv4Addr,
    },
    /// IPv4 addresses of a name, asked of the guest's own name servers (RFC 1035).
    Resolve {
        /// The name.
        name: String,
    },
}

/// What came of a probe. A refusal proves that packets get there and back, so it counts as contact with the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReachOutcome {
    /// TCP: connected.
    Connected,
    /// UDP, ping: an answer came.
    Answered,
    /// TCP: reset. UDP: ICMP port unreachable.
    Refused,
    /// Nothing came back in time.
    TimedOut,
    /// The guest or a router on the way said that there is no way, or that it is forbidden.
    Unreachable {
        /// Symbolic errno, e.g. `ENETUNREACH`.
        errno: String,
    },
    /// The probe itself went wrong, so it says nothing about the target; or a name server said no.
    Failed {
        /// Symbolic errno, where the system gave one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
        /// What was being done, or what was wrong, in words.
        detail: String,
    },
    /// Resolve: the addresses, at least one.
    Resolved {
        /// In the name server's order.
        addresses: Vec<Ipv4Addr>,
    },
}

impl ReachOutcome {
    /// Whether the target was reached as it was asked for: connected, answered or resolved.
    pub const fn is_reached(&self) -> bool {
        matches!(self, Self::Connected | Self::Answered | Self::Resolved { .. })
    }
}

/// How to run a provider's tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginSpec {
    /// Names the login in every event; the session id.
    pub login_id: String,
    /// Program and arguments; the program is looked up in `PATH`.
    pub command: Vec<String>,
    /// Environment added to the tool's. `HOME`, `USER`, `PATH`, `TERM`, `BROWSER` and `DISPLAY` are set by the agent.
    pub env: BTreeMap<String, String>,
    /// User that runs the tool (and the browser).
    pub user: String,
    /// Seconds to wait for a URL or code before `login_url_timeout`.
    pub url_timeout_s: u64,
    /// Regular expressions free: a URL on the screen counts when it starts with one of these prefixes.
    pub url_prefixes: Vec<String>,
    /// The files to capture.
    pub credentials: Vec<CredentialFile>,
    /// Command whose exit status 0 confirms the login; none if the tool has no such command.
    pub status_command: Option<Vec<String>>,
}

/// One file that the tool writes when the login succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialFile {
    /// Path below the user's home directory.
    pub path: String,
    /// JSON pointers (RFC 6901) to strings that must be present and not empty.
    pub required: Vec<String>,
}

/// What happens to a login, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoginEvent {
    /// The tool runs.
    ToolStarted {
        /// Its process id in the guest.
        pid: i32,
    },
    /// The tool asked for a page.
    UrlSeen {
        /// The page.
        url: Sensitive,
        /// `shim` or `screen`.
        source: UrlSource,
    },
    /// The browser was told to open the page.
    PageOpened,
    /// A credential file exists, parses, and is newer than the login.
    Captured {
        /// The files, complete.
        files: Vec<CapturedFile>,
        /// Whether the tool's status command confirmed the login; none if it has no such command.
        confirmed: Option<bool>,
    },
    /// The tool ended.
    ToolExited {
        /// Exit code, if it exited.
        code: Option<i32>,
        /// Signal number, if it was killed.
        signal: Option<i32>,
    },
    /// The login cannot succeed any more.
    Failed {
        /// A code of the fault catalogue, e.g. `login_url_timeout`.
        cause: String,
        /// What was seen, without secrets.
        detail: String,
    },
}

/// Where a URL was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlSource {
    /// Through the `BROWSER` program.
    Shim,
    /// On the tool's terminal.
    Screen,
}

/// A credential file as it was in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFile {
    /// Path below the user's home directory.
    pub path: String,
    /// Permission bits, e.g. `0o600`.
    pub mode: u32,
    /// Modification time, milliseconds since the Unix epoch, by the guest's clock.
    pub modified_ms: u64,
    /// The text.
    pub content: Sensitive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wire(message: &impl Serialize) -> Value {
        serde_json::to_value(message).unwrap()
    }

    #[test]
    fn a_probe_looks_like_this_on_the_wire() {
        for (target, expected) in [
            (
                ReachTarget::Tcp { address: "192.168.100.1:22".parse().unwrap() },
                json!({"kind": "tcp", "address": "192.168.100.1:22"}),
            ),
            (
                ReachTarget::Udp { address: "[fe80::1%2]:53".parse().unwrap() },
                json!({"kind": "udp", "address": "[fe80::1%2]:53"}),
            ),
            (
                ReachTarget::Ping { address: Ipv4Addr::new(169, 254, 169, 254) },
                json!({"kind": "ping", "address": "169.254.169.254"}),
            ),
            (ReachTarget::Resolve { name: "example.org".into() }, json!({"kind": "resolve", "name": "example.org"})),
        ] {
            let message = HostMessage::Reach { id: 7, target, timeout_ms: 500 };
            let json = json!({"type": "reach", "id": 7, "target": expected, "timeout_ms": 500});
            assert_eq!(wire(&message), json);
            assert_eq!(serde_json::from_value::<HostMessage>(json).unwrap(), message);
        }
    }

    #[test]
    fn an_answer_looks_like_this_on_the_wire() {
        let errno = || "ENETUNREACH".to_owned();
        for (outcome, expected, reached) in [
            (ReachOutcome::Connected, json!({"kind": "connected"}), true),
            (ReachOutcome::Answered, json!({"kind": "answered"}), true),
            (ReachOutcome::Refused, json!({"kind": "refused"}), false),
            (ReachOutcome::TimedOut, json!({"kind": "timed_out"}), false),
            (
                ReachOutcome::Unreachable { errno: errno() },
                json!({"kind": "unreachable", "errno": "ENETUNREACH"}),
                false,
            ),
            (
                ReachOutcome::Failed { errno: Some(errno()), detail: "d".into() },
                json!({"kind": "failed", "errno": "ENETUNREACH", "detail": "d"}),
                false,
            ),
            (ReachOutcome::Failed { errno: None, detail: "d".into() }, json!({"kind": "failed", "detail": "d"}), false),
            (
                ReachOutcome::Resolved { addresses: vec![Ipv4Addr::LOCALHOST] },
                json!({"kind": "resolved", "addresses": ["127.0.0.1"]}),
                true,
            ),
        ] {
            assert_eq!(outcome.is_reached(), reached, "{outcome:?}");
            let message = GuestMessage::Reached { id: 7, outcome, ms: 1.5 };
            let json = json!({"type": "reached", "id": 7, "outcome": expected, "ms": 1.5});
            assert_eq!(wire(&message), json);
            assert_eq!(serde_json::from_value::<GuestMessage>(json).unwrap(), message);
        }
    }

    #[test]
    fn a_greeting_carries_the_password_of_the_screen_and_older_ones_do_not() {
        let with = |vnc_password| HostMessage::Hello { version: VERSION, now_ms: 5, vnc_password };
        let json = json!({"type": "hello", "version": 1, "now_ms": 5, "vnc_password": "s3cret"});
        assert_eq!(wire(&with(Some(Sensitive::new("s3cret")))), json);
        assert_eq!(serde_json::from_value::<HostMessage>(json).unwrap(), with(Some(Sensitive::new("s3cret"))));
        let older = json!({"type": "hello", "version": 1, "now_ms": 5});
        assert_eq!(wire(&with(None)), older);
        assert_eq!(serde_json::from_value::<HostMessage>(older).unwrap(), with(None));
        assert!(!format!("{:?}", with(Some(Sensitive::new("s3cret")))).contains("s3cret"));
    }

    #[test]
    fn facts_look_like_this_on_the_wire() {
        let egress = vec![ReachTarget::Ping { address: Ipv4Addr::new(9, 9, 9, 9) }];
        let asked = HostMessage::Facts { id: 7, now_ms: 5, egress, timeout_ms: 900 };
        let json = json!({"type": "facts", "id": 7, "now_ms": 5, "egress": [{"kind": "ping", "address": "9.9.9.9"}], "timeout_ms": 900});
        assert_eq!(wire(&asked), json);
        assert_eq!(serde_json::from_value::<HostMessage>(json).unwrap(), asked);
        let facts = GuestFacts { available_mib: Some(12), ..GuestFacts::default() };
        let said = GuestMessage::Facts { id: 7, facts: Box::new(facts) };
        let json = json!({"type": "facts", "id": 7, "facts": {"availableMib": 12}});
        assert_eq!(serde_json::from_value::<GuestMessage>(json).unwrap(), said);
        assert_eq!(serde_json::from_value::<GuestMessage>(wire(&said)).unwrap(), said);
    }

    #[test]
    fn a_target_that_is_no_address_is_no_message() {
        for address in ["192.168.100.1", "example.org:22", "192.168.100.1:70000", ""] {
            let json =
                json!({"type": "reach", "id": 1, "target": {"kind": "tcp", "address": address}, "timeout_ms": 1});
            assert!(serde_json::from_value::<HostMessage>(json).is_err(), "{address}");
        }
    }
}
