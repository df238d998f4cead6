//! The vault: list, read (scope `credentials:read`, audited by the engine), delete.

use airlock_api::ErrorBody;
use airlock_api::credential::{CredentialContent, CredentialFile, CredentialList};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::PathText;
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

/// A credential with its contents.
#[utoipa::path(get, path = "/api/auth/credentials/{userId}/{provider}",
    params(("userId" = String, Path), ("provider" = String, Path)),
    responses((status = 200, body = CredentialContent), (status = "default", body = ErrorBody)))]
pub async fn read(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText((user_id, provider)): PathText<(String, String)>,
) -> Result<Json<CredentialContent>, ApiError> {
    let opened = app.engine().read_credential(&user_id, &provider, &caller.actor()).await?;
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
