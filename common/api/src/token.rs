//! API tokens.

use airlock_protocol::Sensitive;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// What the token is for: 1 to 64 characters.
    pub name: String,
    /// `sessions:write`, `credentials:read`, `credentials:write`, `admin`.
    pub scopes: Vec<String>,
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Id for `DELETE /api/tokens/{id}`.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made (RFC 3339).
    pub created_at: String,
}

/// A new token; the only time its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenCreated {
    /// The record.
    pub record: TokenView,
    /// The secret.
    #[schema(value_type = String)]
    pub token: Sensitive,
}

/// Every token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The tokens, newest first.
    pub tokens: Vec<TokenView>,
}
