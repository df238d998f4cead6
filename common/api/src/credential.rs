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
    /// When it was sealed (RFC 3339).
    pub created_at: String,
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
