//! A login that runs: its page, a page for its browser, its code, another try. What these carry is secret: it is neither logged
//! nor repeated in an error.

use airlock_api::ErrorBody;
use airlock_api::session::{CodeRequest, OauthUrl, OpenUrlRequest, RetryRequest, SessionView};
use airlock_domain::SessionId;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::{Id, SecretBody};
use crate::sessions;

/// The provider's page of this sign-in, and the code to type there in a device flow.
#[utoipa::path(get, path = "/api/auth/session/{id}/oauth-url", params(("id" = String, Path)),
    responses((status = 200, body = OauthUrl), (status = "default", body = ErrorBody)))]
pub async fn oauth_url(State(app): State<App>, Id(id): Id<SessionId>) -> Result<Json<OauthUrl>, ApiError> {
    let (url, login) = app.engine().login_page(id).await?;
    Ok(Json(OauthUrl { url, user_code: login.user_code, flow: login.flow.name().to_owned() }))
}

/// Show a page in the browser of the sign-in's machine.
#[utoipa::path(post, path = "/api/auth/session/{id}/open-url", params(("id" = String, Path)), request_body = OpenUrlRequest,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn open_url(
    State(app): State<App>,
    Id(id): Id<SessionId>,
    SecretBody(body): SecretBody<OpenUrlRequest>,
) -> Result<StatusCode, ApiError> {
    app.engine().open_url(id, body.url).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Type the code that the provider's page shows at the tool's prompt.
#[utoipa::path(post, path = "/api/auth/session/{id}/code", params(("id" = String, Path)), request_body = CodeRequest,
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn code(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
    SecretBody(body): SecretBody<CodeRequest>,
) -> Result<Json<SessionView>, ApiError> {
    let record = app.engine().enter_code(id, body.code).await?;
    sessions::view_for(&app, &record, &caller).await
}

/// Try a login that failed again, in the same machine; in another flow also one that still runs. The body may be left out.
#[utoipa::path(post, path = "/api/auth/session/{id}/retry", params(("id" = String, Path)), request_body = RetryRequest,
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn retry(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
    body: Bytes,
) -> Result<Json<SessionView>, ApiError> {
    let RetryRequest { flow } = if body.is_empty() {
        RetryRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            let remedy = "send {}, or {\"flow\": \"device_code\"}, paste_code or loopback";
            ApiError::bad_input("bad_body", format!("the body is no retry: {error}"), remedy)
        })?
    };
    let record = app.engine().retry_login(id, flow).await?;
    sessions::view_for(&app, &record, &caller).await
}
