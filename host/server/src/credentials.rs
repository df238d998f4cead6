//! Credentials: list, read (scope `credentials:read`, audited by the engine), delete; lease and write-back for whoever refreshes
//! them (scope `credentials:write`).

use airlock_api::ErrorBody;
use airlock_api::credential::{
    CredentialContent, CredentialFile, CredentialList, CredentialView, LeaseRequest, LeaseView, ReleaseRequest,
    RenewRequest, WriteBackRequest,
};
use airlock_engine::store::CredentialName;
use airlock_engine::{GrantedLease, Purpose};
use airlock_protocol::message::CapturedFile;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::{JsonBody, PathText, QueryOf, SecretBody};
use crate::views;

/// A user's credentials, without their contents.
#[utoipa::path(get, path = "/api/auth/credentials/{userId}", params(("userId" = String, Path)),
    responses((status = 200, body = CredentialList), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(app): State<App>,
    PathText(user_id): PathText<String>,
) -> Result<Json<CredentialList>, ApiError> {
    let records = app.engine().credentials(&user_id).await?;
    Ok(Json(CredentialList { credentials: records.iter().map(views::credential).collect() }))
}

/// Why a credential is read.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reading {
    Read,
    Export,
}

/// Parameters of a read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    purpose: Option<Reading>,
}

/// A credential with its contents.
#[utoipa::path(get, path = "/api/auth/credentials/{userId}/{provider}",
    params(("userId" = String, Path), ("provider" = String, Path),
        ("purpose" = Option<String>, Query, description = "read or export: how the audit log calls it")),
    responses((status = 200, body = CredentialContent), (status = "default", body = ErrorBody)))]
pub async fn read(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
    QueryOf(query): QueryOf<ReadQuery>,
) -> Result<Json<CredentialContent>, ApiError> {
    let purpose = match query.purpose {
        None | Some(Reading::Read) => Purpose::Read,
        Some(Reading::Export) => Purpose::Export,
    };
    let opened = app.engine().read_credential(&user_id, &provider, purpose, &caller.actor()).await?;
    let files = opened
        .files
        .into_iter()
        .map(|file| CredentialFile { path: file.path, mode: file.mode, content: file.content })
        .collect();
    Ok(Json(CredentialContent { credential: views::credential(&opened.record), files }))
}

/// Forget a credential.
#[utoipa::path(delete, path = "/api/auth/credentials/{userId}/{provider}",
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 204, description = "gone"), (status = "default", body = ErrorBody)))]
pub async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
) -> Result<StatusCode, ApiError> {
    app.engine().delete_credential(&user_id, &provider, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Become the one who refreshes a credential. Answers 409 while somebody else is.
#[utoipa::path(post, path = "/api/auth/credentials/{userId}/{provider}/lease", request_body = LeaseRequest,
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 200, body = LeaseView), (status = "default", body = ErrorBody)))]
pub async fn lease(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
    JsonBody(body): JsonBody<LeaseRequest>,
) -> Result<Json<LeaseView>, ApiError> {
    let (name, ttl_ms) = (name(&user_id, &provider), i64::from(body.ttl_s) * 1000);
    Ok(Json(lease_view(app.engine().grant_lease(name, &body.holder, ttl_ms, &caller.actor()).await?)))
}

/// Stay the one who refreshes it.
#[utoipa::path(post, path = "/api/auth/credentials/{userId}/{provider}/lease/renew", request_body = RenewRequest,
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 200, body = LeaseView), (status = "default", body = ErrorBody)))]
pub async fn renew(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
    JsonBody(body): JsonBody<RenewRequest>,
) -> Result<Json<LeaseView>, ApiError> {
    let (name, ttl_ms) = (name(&user_id, &provider), i64::from(body.ttl_s) * 1000);
    Ok(Json(lease_view(app.engine().renew_lease(name, body.fence, ttl_ms, &caller.actor()).await?)))
}

/// Leave it to the next one.
#[utoipa::path(post, path = "/api/auth/credentials/{userId}/{provider}/lease/release", request_body = ReleaseRequest,
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 204, description = "released"), (status = "default", body = ErrorBody)))]
pub async fn release(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
    JsonBody(body): JsonBody<ReleaseRequest>,
) -> Result<StatusCode, ApiError> {
    app.engine().release_lease(name(&user_id, &provider), body.fence, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace a credential by what it was refreshed to. Answers 409 if another version is there, or the fence is stale.
#[utoipa::path(put, path = "/api/auth/credentials/{userId}/{provider}", request_body = WriteBackRequest,
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 200, body = CredentialView), (status = "default", body = ErrorBody)))]
pub async fn write_back(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
    SecretBody(body): SecretBody<WriteBackRequest>,
) -> Result<Json<CredentialView>, ApiError> {
    let expires = body.expires_at.as_deref().map(|text| text.parse::<jiff::Timestamp>()).transpose();
    let expires = expires.map_err(|_| {
        let remedy = "send a time like 2026-12-31T23:59:59Z, or leave it out";
        ApiError::bad_input("bad_time", "expiresAt is no time of RFC 3339", remedy)
    })?;
    let expires_ms = expires.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    let file = |file: CredentialFile| CapturedFile {
        path: file.path,
        mode: file.mode,
        modified_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default(),
        expires_ms,
        content: file.content,
    };
    let (name, files) = (name(&user_id, &provider), body.files.into_iter().map(file).collect());
    let written = app.engine().write_back(name, body.version, body.fence, files, &caller.actor()).await?;
    Ok(Json(views::credential(&written)))
}

fn name<'n>(user_id: &'n str, provider: &'n str) -> CredentialName<'n> {
    CredentialName { user_id, provider }
}

fn lease_view(lease: GrantedLease) -> LeaseView {
    let GrantedLease { terms, ttl_ms } = lease;
    LeaseView { fence: terms.fence, version: terms.version, holder: terms.holder, ttl_s: ttl_ms / 1000 }
}
