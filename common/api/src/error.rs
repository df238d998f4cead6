//! The one error body of the API.

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every response that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, why, and what to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetail {
    /// Stable code of the error.
    pub code: String,
    /// One sentence with its operands.
    pub message: String,
    /// Code of the fault catalogue, if a machine or sign-in failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// First stage that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Evidence bundle that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// The last lines of the machine's console. The text is the guest's and not to be trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console_end: Vec<String>,
    /// Id of the request in the daemon's log; absent where the error is not an answer to a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
