//! Captured credentials. Only [`CredentialContent`] carries secret material.

use airlock_protocol::Sensitive;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the vault holds, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialView {
    /// Whose it is.
    pub user_id: String,
    /// Provider that issued it.
    pub provider: String,
    /// Session that captured it.
    pub session_id: String,
    /// When it was captured (RFC 3339).
    pub created_at: String,
    /// When it was written last: captured, or written back by whoever refreshed it (RFC 3339).
    #[serde(default)]
    pub written_at: String,
    /// When it expires (RFC 3339), if its provider's file says which field tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Counts what was written under this user and provider; a write-back names the version that it replaces.
    #[serde(default)]
    pub version: i64,
    /// Master key that wraps it.
    pub key_id: String,
    /// Paths of the files, as the tool wrote them.
    pub files: Vec<String>,
}

/// A user's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialList {
    /// The credentials, by provider.
    pub credentials: Vec<CredentialView>,
}

/// A credential with its content. Reading it is audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialContent {
    /// What it is.
    pub credential: CredentialView,
    /// The files.
    pub files: Vec<CredentialFile>,
}

/// Body of `POST /api/auth/credentials/{userId}/{provider}/lease`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRequest {
    /// Who is to refresh the credential: 1 to 128 printable characters.
    pub holder: String,
    /// For how long, in seconds: 1 to 3600.
    pub ttl_s: u32,
}

/// Body of `POST .../lease/renew`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewRequest {
    /// The fence of the lease.
    pub fence: i64,
    /// For how long from now, in seconds: 1 to 3600.
    pub ttl_s: u32,
}

/// Body of `POST .../lease/release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The fence of the lease.
    pub fence: i64,
}

/// A lease: the right to refresh a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseView {
    /// To be sent with the write-back. It only grows: whoever is granted the lease later makes it stale.
    pub fence: i64,
    /// Version of the credential; read it again if you have another one.
    pub version: i64,
    /// Who holds it.
    pub holder: String,
    /// How long it lasts from now, in seconds.
    pub ttl_s: i64,
}

/// Body of `PUT /api/auth/credentials/{userId}/{provider}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteBackRequest {
    /// The version that was read and is replaced.
    pub version: i64,
    /// The fence of the writer's lease.
    pub fence: i64,
    /// Every file of the credential, in the order in which it was read.
    pub files: Vec<CredentialFile>,
    /// When it expires now (RFC 3339), if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// One captured file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialFile {
    /// Path as the provider names it, `~` being the tool's home directory.
    pub path: String,
    /// Permission bits, e.g. 384 for 0600.
    pub mode: u32,
    /// The text of the file.
    #[schema(value_type = String)]
    pub content: Sensitive,
}
