//! `POST /api/auth/start`: a sign-in begins.

use airlock_api::ErrorBody;
use airlock_api::session::{StartRequest, StartResponse};
use airlock_engine::StartSession;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::JsonBody;
use crate::viewer;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Start a sign-in. Answers before the machine is up; the same `Idempotency-Key` gives the same session again.
#[utoipa::path(post, path = "/api/auth/start", request_body = StartRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable characters")),
    responses((status = 200, body = StartResponse), (status = "default", body = ErrorBody)))]
pub async fn start(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<StartRequest>,
) -> Result<Json<StartResponse>, ApiError> {
    let request =
        StartSession { user_id: body.user_id, provider: body.provider, idempotency_key: idempotency_key(&headers)? };
    let session = app.engine().start_session(request).await?;
    let (ticket, _) = app.engine().issue_ticket(session.id, &caller.actor()).await?;
    Ok(Json(StartResponse {
        success: true,
        session_id: session.id.to_string(),
        provider: session.provider,
        novnc_url: viewer::link(&app, session.id, &ticket),
        browser_ip: session.address,
        queue_position: session.queue_position,
    }))
}

/// The header as text; the engine judges its length and characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    value.to_str().map(|key| Some(key.to_owned())).map_err(|_| {
        let remedy = "send printable ASCII characters, or leave the header out";
        ApiError::bad_input("bad_idempotency_key", "the Idempotency-Key header is not printable ASCII", remedy)
    })
}
