//! Evidence bundles: what is kept of machines that failed. Secrets were taken out when they were saved.

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::session::StageView;

/// A bundle in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceView {
    /// Id of the bundle, `ev-` and the machine's id.
    pub id: String,
    /// The machine.
    pub vm_id: String,
    /// Session that held it.
    pub session_id: Option<String>,
    /// Code of the fault catalogue.
    pub cause: Option<String>,
    /// First stage that failed; none if the machine had been ready.
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// When it was saved (RFC 3339).
    pub saved_at: String,
    /// How long ago that was, in seconds.
    pub age_s: u64,
    /// Bytes of all its files.
    pub size_bytes: u64,
}

/// Every bundle, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceList {
    /// The bundles.
    pub evidence: Vec<EvidenceView>,
    /// Bytes of all of them.
    pub size_bytes: u64,
}

/// A bundle as a person looks at it first; `GET /api/evidence/{id}/export` has all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceDetail {
    /// In short.
    pub evidence: EvidenceView,
    /// What was seen when it failed.
    pub message: Option<String>,
    /// What to do next.
    pub remedy: Option<String>,
    /// Version of the daemon that saved it.
    pub airlock_version: Option<String>,
    /// Build id of that daemon's guest programs.
    pub guest_build_id: Option<String>,
    /// Every stage of the boot.
    pub stages: Vec<StageView>,
    /// The last lines of the console. The text is the guest's and not to be trusted.
    pub console_end: Vec<String>,
    /// Its files, in the order of their worth.
    pub files: Vec<EvidenceFile>,
    /// What is not in it.
    pub left_out: Vec<EvidenceLeftOut>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// SHA-256 in hex; absent in a bundle that does not describe itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Lines that lost a secret.
    pub redacted: u64,
    /// Bytes that were cut out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_bytes: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_reason: Option<String>,
}

/// A file that a bundle does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceLeftOut {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}
