//! What is wrong with a machine. `airlock diagnose --json` prints the same object of a log.

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /api/vms/{id}/diagnosis`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosisView {
    /// `healthy`, `inconclusive`, `reachable_but_pending` (it still boots), or a code of the fault catalogue.
    pub verdict: String,
    /// The first stage that is not reached; none where all are, or where the machine failed later.
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// In one sentence.
    pub summary: String,
    /// What proves it. Text of a console is the guest's and not to be trusted.
    pub evidence: Vec<DiagnosisEvidence>,
    /// What to do next.
    pub remedy: String,
    /// What else is wrong, or follows from it; of a healthy machine what is worth knowing.
    pub also: Vec<String>,
    /// The same of those that are no fault here, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<DiagnosisNote>,
}

/// Answer of `GET /api/auth/session/{id}/diagnosis`: the verdict on its machine, for whoever sits in front of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDiagnosis {
    /// Id of the session.
    pub session_id: String,
    /// `healthy`, `inconclusive`, `reachable_but_pending` (it still boots), or a code of the fault catalogue.
    pub verdict: String,
    /// The first stage that is not reached; none where all are, or where the machine failed later.
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// In one sentence.
    pub summary: String,
    /// What to do next.
    pub remedy: String,
    /// Evidence bundle, if one was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// What else is wrong, or follows from it.
    pub also: Vec<String>,
    /// What proves it; nothing for a viewer's cookie.
    pub evidence: Vec<DiagnosisEvidence>,
}

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosisEvidence {
    /// Number of its line in the log, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What was seen.
    pub text: String,
    /// `vmm_log`, `boot`, `host`, `guest`, `cmdline`; absent where it is the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Something worth knowing that is no fault here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosisNote {
    /// Its code.
    pub cause: String,
    /// What was seen.
    pub evidence: DiagnosisEvidence,
    /// What to do about it.
    pub remedy: String,
}
