//! A sign-in: request, answer, view, timeline.

use std::net::Ipv4Addr;

use airlock_protocol::Stage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorDetail;

/// Body of `POST /api/auth/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartRequest {
    /// Whose sign-in it is: 1 to 128 characters, no control characters.
    pub user_id: String,
    /// Name of a provider of `GET /api/providers`.
    pub provider: String,
}

/// Answer of `POST /api/auth/start`. It comes before the machine is up: follow `/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartResponse {
    /// Always true; an error has an error body.
    pub success: bool,
    /// Id of the session.
    pub session_id: String,
    /// Provider that was asked for.
    pub provider: String,
    /// Absolute link of the viewer. It works once, in one browser, and is a secret until then.
    #[serde(rename = "novncURL")]
    pub novnc_url: String,
    /// Address leased for the machine; none while the session waits for room.
    #[serde(rename = "browserIP")]
    #[schema(value_type = Option<String>)]
    pub browser_ip: Option<Ipv4Addr>,
    /// Its place among the sessions that wait, from 1; absent once it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
}

/// A sign-in as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// Id of the session.
    pub session_id: String,
    /// Whose sign-in it is.
    pub user_id: String,
    /// Provider.
    pub provider: String,
    /// Its name for people; its id where this daemon does not know it any more.
    #[serde(default)]
    pub provider_name: String,
    /// `queued`, `starting`, `booting`, `awaiting_user`, `capturing`, or one of the final `completed`, `failed`, `cancelled`, `expired`.
    pub state: String,
    /// Last stage reached; of a failed boot the first stage that failed.
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// Code of the fault catalogue, if it failed.
    pub cause: Option<String>,
    /// What to do next, if it failed.
    pub remedy: Option<String>,
    /// Evidence bundle, if one was kept.
    pub evidence_id: Option<String>,
    /// Id of the machine.
    pub vm_id: String,
    /// Address leased for the machine; none while the session waits for room.
    #[serde(rename = "browserIP")]
    #[schema(value_type = Option<String>)]
    pub browser_ip: Option<Ipv4Addr>,
    /// Its place among the sessions that wait, from 1; absent once it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    /// When it was accepted (RFC 3339).
    pub created_at: String,
    /// When it expires unless it ends before (RFC 3339).
    pub deadline: String,
    /// No heartbeat lets it last longer than this (RFC 3339).
    #[serde(default)]
    pub latest_deadline: String,
    /// Whether a heartbeat can still make the deadline later.
    #[serde(default)]
    pub more_time: bool,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

impl SessionView {
    /// Whether the state is final.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "completed" | "failed" | "cancelled" | "expired")
    }
}

/// Answer of `POST /api/auth/session/{id}/ticket`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TicketView {
    /// Absolute link of the viewer. It works once, in one browser, and is a secret until then.
    #[serde(rename = "novncURL")]
    pub novnc_url: String,
    /// Until when it can be opened (RFC 3339).
    pub expires_at: String,
}

/// Sessions, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<SessionView>,
}

/// One stage of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageView {
    /// Name of the stage.
    #[schema(value_type = String)]
    pub stage: Stage,
    /// Whether it was reached; `false` means it failed.
    pub ok: bool,
    /// Milliseconds since the start was planned.
    pub at_ms: f64,
    /// Symbolic errno of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What was being done, or a fact of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Every stage of one boot so far, in order of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// The stages.
    pub stages: Vec<StageView>,
}
