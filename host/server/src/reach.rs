//! `POST /api/vms/{id}/reach`: what a machine's guest reaches, asked over its control channel.

use std::time::Duration;

use airlock_api::ErrorBody;
use airlock_api::reach::{ReachRequest, ReachTarget, ReachView, TIMEOUT_MS};
use airlock_domain::VmId;
use airlock_protocol::message::{ReachOutcome, ReachTarget as Target};
use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::error::ApiError;
use crate::request::{Id, JsonBody};

/// Try to reach something from inside a machine. Answers with what came of it, also when it was not reached.
#[utoipa::path(post, path = "/api/vms/{id}/reach", params(("id" = String, Path)), request_body = ReachRequest,
    responses((status = 200, body = ReachView), (status = "default", body = ErrorBody)))]
pub async fn reach(
    State(app): State<App>,
    Id(id): Id<VmId>,
    JsonBody(body): JsonBody<ReachRequest>,
) -> Result<Json<ReachView>, ApiError> {
    let timeout = timeout(body.timeout_ms)?;
    let reached = app.engine().reach(id, target(body.target), timeout).await?;
    Ok(Json(view(reached.outcome, reached.ms)))
}

fn timeout(ms: u64) -> Result<Duration, ApiError> {
    if TIMEOUT_MS.contains(&ms) {
        return Ok(Duration::from_millis(ms));
    }
    let remedy = format!("send a timeoutMs from {} to {}", TIMEOUT_MS.start(), TIMEOUT_MS.end());
    Err(ApiError::bad_input("invalid_timeout", format!("a probe cannot wait {ms} ms"), &remedy))
}

fn target(target: ReachTarget) -> Target {
    match target {
        ReachTarget::Tcp { address } => Target::Tcp { address },
        ReachTarget::Udp { address } => Target::Udp { address },
        ReachTarget::Ping { address } => Target::Ping { address },
        ReachTarget::Resolve { name } => Target::Resolve { name },
    }
}

fn view(outcome: ReachOutcome, ms: f64) -> ReachView {
    let says =
        |outcome: &str| ReachView { outcome: outcome.to_owned(), errno: None, detail: None, addresses: None, ms };
    match outcome {
        ReachOutcome::Connected => says("connected"),
        ReachOutcome::Answered => says("answered"),
        ReachOutcome::Refused => says("refused"),
        ReachOutcome::TimedOut => says("timed_out"),
        ReachOutcome::Unreachable { errno } => ReachView { errno: Some(errno), ..says("unreachable") },
        ReachOutcome::Failed { errno, detail } => ReachView { errno, detail: Some(detail), ..says("failed") },
        ReachOutcome::Resolved { addresses } => ReachView { addresses: Some(addresses), ..says("resolved") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::message::MAX_REACH_MS;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    #[test]
    fn a_wait_is_what_the_agent_takes() {
        assert_eq!(*TIMEOUT_MS.end(), MAX_REACH_MS);
        assert_eq!(timeout(MAX_REACH_MS).unwrap(), Duration::from_secs(30));
        assert_eq!(timeout(1).unwrap(), Duration::from_millis(1));
        for ms in [0, MAX_REACH_MS + 1, u64::MAX] {
            assert_eq!(timeout(ms).unwrap_err().status(), axum::http::StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn the_api_has_the_channel_s_words() {
        for outcome in [
            ReachOutcome::Connected,
            ReachOutcome::Answered,
            ReachOutcome::Refused,
            ReachOutcome::TimedOut,
            ReachOutcome::Unreachable { errno: "ENETUNREACH".into() },
            ReachOutcome::Failed { errno: Some("EPERM".into()), detail: "d".into() },
            ReachOutcome::Failed { errno: None, detail: "d".into() },
            ReachOutcome::Resolved { addresses: vec![Ipv4Addr::LOCALHOST] },
        ] {
            // On the channel the outcome is an object by its `kind`; in the API the same keys stand beside `ms`.
            let mut expected = serde_json::to_value(&outcome).unwrap();
            let keys = expected.as_object_mut().unwrap();
            let kind: Value = keys.remove("kind").unwrap();
            keys.insert("outcome".into(), kind);
            keys.insert("ms".into(), json!(1.5));
            assert_eq!(view(outcome.clone(), 1.5).is_reached(), outcome.is_reached());
            assert_eq!(serde_json::to_value(view(outcome, 1.5)).unwrap(), expected);
        }
    }

    #[test]
    fn targets_are_the_channel_s_targets() {
        for wire in [
            json!({"kind": "tcp", "address": "192.168.100.1:22"}),
            json!({"kind": "udp", "address": "[fe80::1%2]:53"}),
            json!({"kind": "ping", "address": "10.0.0.1"}),
            json!({"kind": "resolve", "name": "example.org"}),
        ] {
            let asked: ReachTarget = serde_json::from_value(wire.clone()).unwrap();
            assert_eq!(serde_json::to_value(target(asked)).unwrap(), wire);
        }
    }
}
