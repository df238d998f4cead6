//! The vault's keys: which there are, another one that seals, a former one removed. All need `admin`.

use airlock_api::ErrorBody;
use airlock_api::vault::{MissingKey, RotationView, VaultKeyView, VaultView};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::PathText;

/// The vault's keys and what each wraps. No key itself.
#[utoipa::path(get, path = "/api/vault", responses((status = 200, body = VaultView), (status = "default", body = ErrorBody)))]
pub async fn status(State(app): State<App>) -> Result<Json<VaultView>, ApiError> {
    let status = app.engine().vault_status().await?;
    let keys = status.keys.into_iter().map(|(key, credentials)| VaultKeyView {
        removable: !key.active && credentials == 0,
        id: key.id,
        active: key.active,
        place: key.place,
        locked: key.locked,
        credentials,
    });
    let missing = status.unopenable.into_iter().map(|(id, credentials)| MissingKey { id, credentials });
    Ok(Json(VaultView { keys: keys.collect(), missing: missing.collect() }))
}

/// Make another key the one that seals, and wrap every data key anew. Everything is served meanwhile.
#[utoipa::path(post, path = "/api/vault/rotate",
    responses((status = 200, body = RotationView), (status = "default", body = ErrorBody)))]
pub async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<RotationView>, ApiError> {
    let done = app.engine().rotate_vault(&caller.actor()).await?;
    Ok(Json(RotationView { from: done.from, to: done.to, rewrapped: done.rows.done, failed: done.rows.failed }))
}

/// Remove a former key that wraps nothing any more.
#[utoipa::path(delete, path = "/api/vault/keys/{id}", params(("id" = String, Path)),
    responses((status = 204, description = "removed"), (status = "default", body = ErrorBody)))]
pub async fn forget(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, ApiError> {
    app.engine().forget_vault_key(&id, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}
