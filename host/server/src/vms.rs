//! Machines: all, one, timeline, destroy.

use airlock_api::ErrorBody;
use airlock_api::session::Timeline;
use airlock_api::vm::{VmList, VmView};
use airlock_domain::VmId;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::error::ApiError;
use crate::request::Id;
use crate::views;

/// Live machines and the last ended ones.
#[utoipa::path(get, path = "/api/vms", responses((status = 200, body = VmList), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Result<Json<VmList>, ApiError> {
    let vms = app.engine().vms().await?;
    Ok(Json(VmList { vms: vms.iter().map(views::vm).collect() }))
}

/// A machine as it stands.
#[utoipa::path(get, path = "/api/vms/{id}", params(("id" = String, Path)),
    responses((status = 200, body = VmView), (status = "default", body = ErrorBody)))]
pub async fn show(State(app): State<App>, Id(id): Id<VmId>) -> Result<Json<VmView>, ApiError> {
    Ok(Json(views::vm(&app.engine().vm(id).await?)))
}

/// Every stage of its boot so far.
#[utoipa::path(get, path = "/api/vms/{id}/timeline", params(("id" = String, Path)),
    responses((status = 200, body = Timeline), (status = "default", body = ErrorBody)))]
pub async fn timeline(State(app): State<App>, Id(id): Id<VmId>) -> Result<Json<Timeline>, ApiError> {
    let entries = app.engine().timeline(id).await?;
    Ok(Json(Timeline { stages: entries.iter().map(views::stage).collect() }))
}

/// Destroy a machine. Answers when nothing of it is left; its session becomes cancelled.
#[utoipa::path(delete, path = "/api/vms/{id}", params(("id" = String, Path)),
    responses((status = 204, description = "gone"), (status = "default", body = ErrorBody)))]
pub async fn destroy(State(app): State<App>, Id(id): Id<VmId>) -> Result<StatusCode, ApiError> {
    app.engine().destroy_vm(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
