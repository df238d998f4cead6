//! The vault's keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VaultKeyView {
    /// Its id, a truncated hash.
    pub id: String,
    /// Whether it seals; the others only open.
    pub active: bool,
    /// Where it is from: `file:/PATH`, `credential:NAME` or `fd:VARIABLE`.
    pub place: String,
    /// Whether its memory is kept from swap.
    pub locked: bool,
    /// How many credentials it wraps.
    pub credentials: i64,
    /// Whether it may be removed: it does not seal and wraps nothing.
    pub removable: bool,
}

/// Credentials under a key that the vault does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingKey {
    /// The key's id.
    pub id: String,
    /// How many credentials it wraps.
    pub credentials: i64,
}

/// Answer of `GET /api/vault`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultView {
    /// The keys, the one that seals first.
    pub keys: Vec<VaultKeyView>,
    /// Keys that are needed and not here.
    pub missing: Vec<MissingKey>,
}

/// Answer of `POST /api/vault/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationView {
    /// The key that sealed before.
    pub from: String,
    /// The key that seals now.
    pub to: String,
    /// Credentials whose data keys were wrapped anew.
    pub rewrapped: u64,
    /// Credentials that do not open; see the daemon's log.
    pub failed: u64,
}
