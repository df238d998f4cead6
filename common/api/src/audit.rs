//! The audit log and the receipts in it. Hash and signature of an entry: RFC 8032 (Ed25519) over SHA-256, see the README.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One entry. Bytes are in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// The host that wrote it; each has a chain of its own.
    pub host: String,
    /// Its number, from 1.
    pub seq: i64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who: `token:ID`, `session:ID`, `viewer`, `daemon`.
    pub actor: String,
    /// What was done, e.g. `credential_read`.
    pub action: String,
    /// To what: `USER/PROVIDER`, or an id.
    pub subject: String,
    /// The rest: the text of a JSON object, byte for byte as it was hashed.
    pub detail: String,
    /// Hash of the entry before it.
    pub previous: String,
    /// Its own.
    pub hash: String,
    /// Id of the key that signed it.
    pub key_id: String,
    /// Its signature.
    pub signature: String,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditKeyView {
    /// The first bytes of its hash.
    pub id: String,
    /// The key, in hexadecimal digits.
    pub key: String,
}

/// The end of the log; remembered elsewhere, it shows later that nothing was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Number of the last entry.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
}

/// Answer of `GET /api/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLog {
    /// The entries that were asked for, in their order.
    pub entries: Vec<AuditEntry>,
    /// The end of the whole log; none if it is empty.
    pub head: Option<AuditHead>,
    /// What the entries are signed with.
    pub keys: Vec<AuditKeyView>,
}

/// Answer of `GET /api/auth/session/{id}/receipt`: what was removed when a session's machine was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The signed entry; its `detail` is the receipt.
    pub entry: AuditEntry,
    /// What it is signed with.
    pub key: AuditKeyView,
}
