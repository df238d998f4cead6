//! What the store remembers and the API shows. Times are milliseconds since the Unix epoch.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::session::SessionState;
use airlock_domain::session::login::Login;
use airlock_domain::vmm::{DriverKind, ProcessId};
use airlock_domain::{SessionId, VmId};
use airlock_protocol::message::{CapturedFile, ReachOutcome};
use airlock_protocol::{MacAddr, Stage};
use serde::Serialize;

/// One sign-in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRecord {
    /// Identity.
    pub id: SessionId,
    /// Whose sign-in it is.
    pub user_id: String,
    /// Provider id.
    pub provider: String,
    /// Where it stands.
    pub state: SessionState,
    /// Its machine.
    pub vm_id: VmId,
    /// Golden image of its machine, `name@sha256:digest`.
    pub image: String,
    /// What runs its machine.
    pub driver: DriverKind,
    /// Memory of its machine, in MiB.
    pub memory_mib: u32,
    /// The machine's leased address; none while it waits.
    pub address: Option<Ipv4Addr>,
    /// Its place among those that wait, from 1.
    pub queue_position: Option<u32>,
    /// When it was accepted.
    pub created_ms: i64,
    /// When it expires.
    pub deadline_ms: i64,
    /// Its times on the monotonic clock.
    pub clock: SessionClock,
    /// When it reached a terminal state.
    pub ended_ms: Option<i64>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// How its login stands, as long as it has a machine. Not stored: it holds secrets.
    #[serde(skip)]
    pub login: Option<Login>,
}

/// When a session was accepted and when it expires on the monotonic clock of one boot of the host, in milliseconds. What is
/// decided is decided by these; the wall clock's times are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionClock {
    /// Which boot.
    pub boot_id: String,
    /// Accepted.
    pub created_ms: i64,
    /// Expires.
    pub deadline_ms: i64,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VmRecord {
    /// Identity.
    pub id: VmId,
    /// The session that holds it.
    pub session_id: SessionId,
    /// Golden image, `name@sha256:digest`.
    pub image: String,
    /// What runs it.
    pub driver: DriverKind,
    /// Where it stands.
    pub state: VmState,
    /// Leased address.
    pub address: Ipv4Addr,
    /// MAC of its interface.
    pub mac: MacAddr,
    /// Name of its TAP.
    pub tap: String,
    /// Its VMM process, once spawned.
    pub process: Option<ProcessId>,
    /// When it was planned.
    pub created_ms: i64,
    /// When nothing of it was left.
    pub ended_ms: Option<i64>,
    /// The last stage it reached.
    pub stage: Option<Stage>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

macro_rules! named_enum {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum $name { $($(#[doc = $vdoc])+ #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// The name in the store and in the API.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text { $($text => Ok($name::$variant),)+ _ => Err(UnknownName { kind: stringify!($name), text: text.to_owned() }) }
            }
        }
    };
}

/// A name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {text:?}")]
pub struct UnknownName {
    /// Which type was expected.
    pub kind: &'static str,
    /// The name that was given.
    pub text: String,
}

named_enum! {
    /// Where a VM stands.
    VmState {
        /// Its steps are being applied, or it boots.
        Starting = "starting",
        /// Its readiness contract is fulfilled.
        Ready = "ready",
        /// Its steps are being undone.
        Destroying = "destroying",
        /// Nothing of it is left.
        Destroyed = "destroyed",
        /// An undo failed; the failure names the thing.
        NeedsAttention = "needs_attention",
    }
}

named_enum! {
    /// What a token may do.
    Scope {
        /// Start, see and end sessions.
        SessionsWrite = "sessions:write",
        /// Read credentials.
        CredentialsRead = "credentials:read",
        /// Refresh credentials: hold their leases, write them back.
        CredentialsWrite = "credentials:write",
        /// Everything.
        Admin = "admin",
    }
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    /// Identity.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_ms: i64,
}

impl TokenRecord {
    /// Whether the token may do what needs `scope`.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A sealed credential, without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialRecord {
    /// Whose it is.
    pub user_id: String,
    /// Provider id.
    pub provider: String,
    /// The session that captured it.
    pub session_id: SessionId,
    /// When it was captured.
    pub created_ms: i64,
    /// When it was written last: captured, or written back by whoever refreshed it.
    pub written_ms: i64,
    /// When it expires, by the field that its provider names.
    pub expires_ms: Option<i64>,
    /// Counts what was written under this user and provider.
    pub version: i64,
    /// Id of the master key that wraps its data key.
    pub key_id: String,
    /// Paths of its files below the home directory.
    pub files: Vec<String>,
}

/// A credential, opened. Its contents never print.
#[derive(Debug, Clone)]
pub struct Credential {
    /// What it is.
    pub record: CredentialRecord,
    /// Its files.
    pub files: Vec<CapturedFile>,
}

/// What a guest said about what it reaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// What came of it.
    pub outcome: ReachOutcome,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What whoever watches a session is told.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// The session changed.
    State(Box<SessionRecord>),
    /// Its VM reached a stage, or failed at it.
    Stage(TimelineEntry),
}
