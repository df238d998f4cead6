//! The fields of a provider's file, as they stand in TOML.

use std::collections::BTreeMap;
use std::fmt;

use airlock_protocol::login::{CredentialFile, FieldType, FileFormat, Flow, InstantAt, Outcome};
use serde::de::{MapAccess, SeqAccess, Visitor, value};
use serde::{Deserialize, Deserializer};

/// One provider file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Identifier in the API: lower-case letters, digits and `_`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Golden image its VM boots from.
    pub image: String,
    /// What its vendor allows, for the operator.
    #[serde(default)]
    pub terms: Option<String>,
    /// Where the tool comes from, for whoever builds the image.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// Which versions of the tool this file was tried with.
    #[serde(default)]
    pub versions: Option<Versions>,
    /// Names of hosts that the tool and its page need.
    #[serde(default)]
    pub egress: Vec<String>,
    /// The login; a provider without one only starts a machine.
    #[serde(default)]
    pub login: Option<Login>,
}

/// One package of the tool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The registry.
    pub source: PackageSource,
    /// Its name there.
    pub name: String,
    /// The version that was tried.
    pub version: String,
}

/// A kind of package registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageSource {
    /// npm.
    Npm,
    /// A Debian archive.
    Deb,
}

/// The versions that a file is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The range, as Cargo writes it: `>=0.150, <1`.
    pub range: String,
    /// Versions that a whole run was made with.
    #[serde(default)]
    pub checked: Vec<String>,
    /// Prints the version somewhere in its output.
    #[serde(default)]
    pub command: Vec<String>,
}

/// How the tool is run and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment. `{gateway}` in a value becomes the guests' gateway address, `{demo_port}` the demo server's port.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables that the agent sets and this tool must not have, such as `DISPLAY` or `BROWSER`.
    #[serde(default)]
    pub unset_env: Vec<String>,
    /// User in the guest.
    #[serde(default = "default_user")]
    pub user: String,
    /// What the tool's standard streams are.
    #[serde(default)]
    pub terminal: TerminalKind,
    /// Columns of the pseudo terminal.
    #[serde(default = "default_columns")]
    pub columns: u16,
    /// The ways to sign in, best first.
    #[serde(default = "default_flows")]
    pub flows: Vec<Flow>,
    /// What is different in one of them.
    #[serde(default)]
    pub flow: BTreeMap<Flow, FlowPart>,
    /// Seconds until the tool must have asked for a page.
    #[serde(default = "default_url_timeout_s")]
    pub url_timeout_s: u64,
    /// A URL on the tool's screen counts when it starts with one of these.
    #[serde(default)]
    pub url_prefixes: Vec<String>,
    /// A URL, wherever it comes from, counts only when it matches this.
    #[serde(default)]
    pub url_pattern: Option<String>,
    /// Finds the user code of a device flow.
    #[serde(default)]
    pub user_code_pattern: Option<String>,
    /// What the tool asks.
    #[serde(default)]
    pub prompts: Vec<PromptRule>,
    /// What it says about how it ended.
    #[serde(default)]
    pub outcomes: Vec<OutcomePart>,
    /// Its listener for the browser's answer.
    #[serde(default)]
    pub callback: Option<CallbackRule>,
    /// Files it needs before it starts.
    #[serde(default)]
    pub files: Vec<FileRule>,
    /// Command that confirms the login.
    #[serde(default)]
    pub status_command: Option<StatusRule>,
    /// The files that hold the credential.
    pub credentials: Vec<CredentialSpec>,
}

/// What replaces the login's own fields in one flow; `env` and `unset_env` are added to them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowPart {
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables to take away.
    #[serde(default)]
    pub unset_env: Vec<String>,
    /// What the tool's standard streams are.
    #[serde(default)]
    pub terminal: Option<TerminalKind>,
    /// URL prefixes.
    #[serde(default)]
    pub url_prefixes: Vec<String>,
    /// URL pattern.
    #[serde(default)]
    pub url_pattern: Option<String>,
}

/// The standard streams of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalKind {
    /// A pseudo terminal.
    #[default]
    Pty,
    /// Pipes: the tool sees no terminal.
    Pipes,
}

/// One thing the tool asks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRule {
    /// Matched against what the tool wrote since the last answer.
    pub pattern: String,
    /// What is typed; not together with `ask`.
    #[serde(default)]
    pub answer: Option<String>,
    /// Who is asked for it.
    #[serde(default)]
    pub ask: Option<Ask>,
    /// Whether a line end is typed behind the answer.
    #[serde(default = "yes")]
    pub enter: bool,
    /// Whether the answer must never be shown; what is asked for never is.
    #[serde(default)]
    pub secret: bool,
    /// The flows it belongs to; every one if there is none.
    #[serde(default)]
    pub flows: Vec<Flow>,
}

/// What the person is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The code that the provider's page showed.
    Code,
}

/// One thing the tool says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomePart {
    /// Matched against what the tool wrote since the last answer.
    pub pattern: String,
    /// What it means.
    pub outcome: Outcome,
    /// Whether the tool is ended then.
    #[serde(default, rename = "final")]
    pub is_final: bool,
}

/// The tool's listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbackRule {
    /// Its port, if it is always the same or can be chosen.
    #[serde(default)]
    pub port: Option<u16>,
    /// Variable by which it is chosen.
    #[serde(default)]
    pub port_env: Option<String>,
    /// Path of the redirect URI.
    #[serde(default)]
    pub path: Option<String>,
    /// Says that a request of ours would spoil the login. Airlock probes no callback at all, so `false` is refused.
    #[serde(default = "yes")]
    pub never_probe: bool,
}

/// A file to place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Path below the home directory.
    pub path: String,
    /// Permission bits in octal.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// The text.
    pub content: String,
}

/// How the tool itself is asked whether it is signed in: a command, or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRule {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The exit code that says yes.
    pub exit_code: i32,
    /// What its output must match too.
    pub output: Option<String>,
    /// Whether it says so without the network. One that needs it is not asked in the VM: it might refresh, and so rotate, what
    /// is being captured.
    pub offline: bool,
}

impl<'de> Deserialize<'de> for StatusRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            args: Vec<String>,
            #[serde(default)]
            exit_code: i32,
            #[serde(default)]
            output: Option<String>,
            #[serde(default = "yes")]
            offline: bool,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = StatusRule;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, or a table with args, exit_code, output, offline")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<StatusRule, A::Error> {
                let args = Vec::deserialize(value::SeqAccessDeserializer::new(list))?;
                Ok(StatusRule { args, exit_code: 0, output: None, offline: true })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StatusRule, A::Error> {
                let Table { args, exit_code, output, offline } =
                    Table::deserialize(value::MapAccessDeserializer::new(map))?;
                Ok(StatusRule { args, exit_code, output, offline })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// One credential file below the user's home.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSpec {
    /// Path below the home directory.
    pub path: String,
    /// How it is written.
    #[serde(default)]
    pub format: FileFormat,
    /// JSON pointers (RFC 6901) that must hold non-empty strings.
    #[serde(default)]
    pub required: Vec<String>,
    /// JSON pointers that must be there, each with its type.
    #[serde(default)]
    pub schema: BTreeMap<String, FieldType>,
    /// When the credential ends.
    #[serde(default)]
    pub expires: Option<InstantAt>,
    /// An instant in it that must be newer than the login.
    #[serde(default)]
    pub fresh: Option<InstantAt>,
    /// Whether the login counts without this file.
    #[serde(default)]
    pub optional: bool,
}

impl CredentialSpec {
    /// What the agent is told.
    pub(super) fn wire(&self) -> CredentialFile {
        CredentialFile {
            path: self.path.clone(),
            format: self.format,
            required: self.required.clone(),
            schema: self.schema.clone(),
            expires: self.expires.clone(),
            fresh: self.fresh.clone(),
            optional: self.optional,
        }
    }
}

fn yes() -> bool {
    true
}

fn default_user() -> String {
    "user".into()
}

fn default_columns() -> u16 {
    airlock_protocol::login::DEFAULT_COLUMNS
}

fn default_flows() -> Vec<Flow> {
    vec![Flow::Loopback]
}

fn default_mode() -> String {
    "0600".into()
}

fn default_url_timeout_s() -> u64 {
    60
}
