//! A login on the control channel: what the agent is told about a provider's tool, and what it tells of it.
//!
//! Patterns are regular expressions in the syntax of `regex-lite`; the host compiles them when it reads the provider's file, so
//! the agent only ever sees patterns that compile. Fields that came after the first version have defaults: an agent that does
//! not know one does without.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Sensitive;

/// How to run a provider's tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginSpec {
    /// Names the login in every event; the session id.
    pub login_id: String,
    /// Which try of this login it is, from 1. A higher one replaces the one before.
    #[serde(default = "first")]
    pub attempt: u32,
    /// How the person signs in.
    #[serde(default)]
    pub flow: Flow,
    /// Program and arguments; the program is looked up in `PATH`.
    pub command: Vec<String>,
    /// Environment added to the tool's. `HOME`, `USER`, `PATH`, `TERM`, `BROWSER` and `DISPLAY` are set by the agent.
    pub env: BTreeMap<String, String>,
    /// Variables that the agent would set and that this tool must not have.
    #[serde(default)]
    pub unset_env: Vec<String>,
    /// User that runs the tool (and the browser).
    pub user: String,
    /// What the tool's standard streams are.
    #[serde(default)]
    pub terminal: Terminal,
    /// Seconds to wait for a URL or a user code before the login has [`Outcome::TimedOut`].
    pub url_timeout_s: u64,
    /// A URL on the screen counts when it starts with one of these prefixes.
    pub url_prefixes: Vec<String>,
    /// A URL counts, wherever it comes from, only when it matches this too.
    #[serde(default)]
    pub url_pattern: Option<String>,
    /// Finds the user code of a device flow (RFC 8628) on the screen: its first group, or all of it if there is none.
    #[serde(default)]
    pub user_code_pattern: Option<String>,
    /// What the tool asks, and what is answered.
    #[serde(default)]
    pub prompts: Vec<Prompt>,
    /// What the tool says about how it ended, or is about to.
    #[serde(default)]
    pub outcomes: Vec<OutcomeRule>,
    /// The tool's own listener for the browser's answer.
    #[serde(default)]
    pub callback: Option<Callback>,
    /// Files that must be in the home directory before the tool starts.
    #[serde(default)]
    pub files: Vec<PlacedFile>,
    /// The files to capture.
    pub credentials: Vec<CredentialFile>,
    /// Command that confirms the login; none if the tool has no such command, or none that works without the network.
    #[serde(default)]
    pub status_command: Option<StatusCommand>,
}

fn first() -> u32 {
    1
}

/// How a person signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// The tool shows a code that the person types at the provider, on any device (RFC 8628).
    DeviceCode,
    /// The provider's page shows a code that the tool asks for.
    PasteCode,
    /// The browser brings the answer to a port of the tool (RFC 8252); both are in the VM.
    #[default]
    Loopback,
}

impl Flow {
    /// The name in files and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeviceCode => "device_code",
            Self::PasteCode => "paste_code",
            Self::Loopback => "loopback",
        }
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Columns of a terminal unless the provider says otherwise: no tool wraps a URL in so many.
pub const DEFAULT_COLUMNS: u16 = 500;

/// The standard streams of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Terminal {
    /// A pseudo terminal.
    Pty {
        /// Its width.
        columns: u16,
    },
    /// Three pipes: the tool sees no terminal.
    Pipes,
}

impl Default for Terminal {
    fn default() -> Self {
        Self::Pty { columns: DEFAULT_COLUMNS }
    }
}

/// What a tool asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Matched against what the tool wrote since the last answer.
    pub pattern: String,
    /// What is typed.
    pub reply: Reply,
    /// Whether a line end is typed behind it.
    #[serde(default = "yes")]
    pub enter: bool,
    /// Whether what is typed must never be shown.
    #[serde(default)]
    pub secret: bool,
}

fn yes() -> bool {
    true
}

/// What is typed at a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reply {
    /// Always the same, once per prompt and attempt.
    Text {
        /// The text.
        text: String,
    },
    /// The code that the person was given: [`LoginEvent::CodeWanted`], until the host sends it.
    Code,
}

/// What a tool says about how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRule {
    /// Matched against what the tool wrote since the last answer.
    pub pattern: String,
    /// What it means.
    pub outcome: Outcome,
    /// Whether the attempt is over with it; the tool is ended then. Otherwise it is the outcome only if the tool ends by itself,
    /// and for [`Outcome::InvalidCode`] the tool may ask again.
    #[serde(default)]
    pub r#final: bool,
}

/// How a login ended, or why it did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The credential was captured.
    Completed,
    /// The person or the provider said no.
    Denied,
    /// The provider's time for this sign-in is over.
    Expired,
    /// The code was wrong.
    InvalidCode,
    /// The account does not allow the device flow.
    DeviceFlowNotEnabled,
    /// The provider does not serve this account.
    AccountNotEligible,
    /// Somebody else listens on the tool's callback port.
    PortBusy,
    /// The tool ended without a credential and without a reason that its provider's file knows.
    CliExited,
    /// The tool showed neither URL nor code in time.
    TimedOut,
    /// The tool cannot be started: it is not in the image.
    ToolMissing,
    /// The tool does not reach its provider.
    NoEgress,
    /// The tool needs a terminal, or another one.
    NeedsTty,
    /// The credential file is older than the login.
    CredentialStale,
    /// The credential file is not what the provider's file says.
    CredentialMalformed,
    /// The tool's own status command denies the login.
    CredentialRejected,
    /// Somebody asked for the end.
    Cancelled,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 16] = [
        Self::Completed,
        Self::Denied,
        Self::Expired,
        Self::InvalidCode,
        Self::DeviceFlowNotEnabled,
        Self::AccountNotEligible,
        Self::PortBusy,
        Self::CliExited,
        Self::TimedOut,
        Self::ToolMissing,
        Self::NoEgress,
        Self::NeedsTty,
        Self::CredentialStale,
        Self::CredentialMalformed,
        Self::CredentialRejected,
        Self::Cancelled,
    ];

    /// The name in files and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::InvalidCode => "invalid_code",
            Self::DeviceFlowNotEnabled => "device_flow_not_enabled",
            Self::AccountNotEligible => "account_not_eligible",
            Self::PortBusy => "port_busy",
            Self::CliExited => "cli_exited",
            Self::TimedOut => "timed_out",
            Self::ToolMissing => "tool_missing",
            Self::NoEgress => "no_egress",
            Self::NeedsTty => "needs_tty",
            Self::CredentialStale => "credential_stale",
            Self::CredentialMalformed => "credential_malformed",
            Self::CredentialRejected => "credential_rejected",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The listener of a tool for the browser's answer. It is watched in the table of sockets and never connected to: some tools
/// take any request for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// Its port, if it is always the same or can be chosen.
    #[serde(default)]
    pub port: Option<u16>,
    /// Environment variable by which the port is chosen.
    #[serde(default)]
    pub port_env: Option<String>,
    /// Path of the redirect URI, for whoever reads the file.
    #[serde(default)]
    pub path: Option<String>,
}

/// A file that the tool needs before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    /// Path below the user's home directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The text.
    pub content: String,
}

/// One file that the tool writes when the login succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CredentialFile {
    /// Path below the user's home directory.
    pub path: String,
    /// How it is written.
    #[serde(default)]
    pub format: FileFormat,
    /// JSON pointers (RFC 6901) to strings that must be present and not empty.
    pub required: Vec<String>,
    /// JSON pointers to values that must be present, each with its type.
    #[serde(default)]
    pub schema: BTreeMap<String, FieldType>,
    /// When the credential ends; one that is over already is not taken.
    #[serde(default)]
    pub expires: Option<InstantAt>,
    /// An instant inside the file that must be newer than the login too. The file itself always must.
    #[serde(default)]
    pub fresh: Option<InstantAt>,
    /// Whether the login counts without it; it is taken along if it is there.
    #[serde(default)]
    pub optional: bool,
}

/// How a credential file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// RFC 8259.
    #[default]
    Json,
    /// TOML 1.
    Toml,
    /// YAML 1.2.
    Yaml,
    /// Any text that is not empty.
    Text,
}

/// The type of a value in a credential file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// A string that is not empty.
    String,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list that is not empty.
    Array,
    /// An object that is not empty.
    Object,
}

/// An instant in a credential file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstantAt {
    /// JSON pointer.
    pub pointer: String,
    /// How it is written.
    pub unit: InstantUnit,
}

/// How an instant is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstantUnit {
    /// Seconds since the Unix epoch.
    S,
    /// Milliseconds since the Unix epoch.
    Ms,
    /// RFC 3339.
    Rfc3339,
    /// A JSON web token (RFC 7519), whose `exp` (for an expiry) or `iat` it is.
    Jwt,
}

/// How the tool itself is asked whether it is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCommand {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The exit code that says yes.
    #[serde(default)]
    pub exit_code: i32,
    /// What its output must match to say yes.
    #[serde(default)]
    pub pattern: Option<String>,
}

/// What happens to a login, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoginEvent {
    /// The tool runs.
    ToolStarted {
        /// Its process id in the guest.
        pid: i32,
        /// The flow of this attempt.
        #[serde(default)]
        flow: Option<Flow>,
    },
    /// The tool asked for a page.
    UrlSeen {
        /// The page.
        url: Sensitive,
        /// `shim` or `screen`.
        source: UrlSource,
    },
    /// The tool's listener for the browser's answer is there.
    CallbackListening {
        /// Its port.
        port: u16,
    },
    /// The tool shows a code that the person types at the provider (RFC 8628).
    UserCode {
        /// The code.
        code: Sensitive,
        /// Where it is typed.
        url: Sensitive,
    },
    /// The tool waits for the code that the provider's page shows.
    CodeWanted,
    /// The tool did not accept the code and waits for another one.
    CodeRefused {
        /// What it said, without secrets.
        detail: String,
    },
    /// The page is on the screen.
    PageOpened,
    /// The page could not be shown; the person can still open it elsewhere.
    PageNotShown {
        /// Why, without secrets.
        detail: String,
    },
    /// The tool's status command ended.
    StatusAnswered {
        /// Whether it confirms the login.
        ok: bool,
        /// Exit code, if it exited.
        code: Option<i32>,
        /// Signal number, if it was killed.
        signal: Option<i32>,
    },
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
    /// The attempt cannot succeed any more. Said once per attempt.
    Outcome {
        /// How it ended.
        outcome: Outcome,
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
    /// When the credential ends, milliseconds since the Unix epoch, if the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The text.
    pub content: Sensitive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_spec_of_the_first_version_still_reads() {
        let json = json!({"login_id": "l", "command": ["t"], "env": {}, "user": "u", "url_timeout_s": 1,
            "url_prefixes": [], "credentials": [{"path": "c", "required": ["/a"]}]});
        let spec: LoginSpec = serde_json::from_value(json).unwrap();
        assert_eq!((spec.attempt, spec.flow, spec.terminal), (1, Flow::Loopback, Terminal::Pty { columns: 500 }));
        assert_eq!(spec.credentials[0].format, FileFormat::Json);
        let again: LoginSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
        for flow in [Flow::DeviceCode, Flow::PasteCode, Flow::Loopback] {
            assert_eq!(serde_json::to_value(flow).unwrap(), flow.name());
        }
        let event = LoginEvent::UserCode { code: Sensitive::new("AB-CD"), url: Sensitive::new("https://x/device") };
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            json!({"event": "user_code", "code": "AB-CD", "url": "https://x/device"})
        );
        assert!(!format!("{event:?}").contains("AB-CD"));
    }
}
