//! Messages of the control channel, JSON inside [`crate::frame`]s.
//!
//! The host speaks first (`hello`) each time it connects; the agent answers with its own `hello`, which carries the whole
//! timeline, so nothing is lost when the daemon restarts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Sensitive;
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
    /// Power the guest off cleanly.
    PowerOff,
    /// Answered with [`GuestMessage::Pong`].
    Ping {
        /// Echoed.
        n: u64,
    },
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
