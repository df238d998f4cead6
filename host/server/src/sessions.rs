//! Sessions: one, all, timeline, cancel.

use std::collections::HashMap;

use airlock_api::ErrorBody;
use airlock_api::session::{SessionList, SessionView, Timeline};
use airlock_domain::{SessionId, VmId};
use airlock_engine::records::SessionRecord;
use airlock_protocol::Stage;
use axum::extract::State;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::{Id, PathText};
use crate::views::{self, Around};

/// A session as it stands.
#[utoipa::path(get, path = "/api/auth/session/{id}", params(("id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionView>, ApiError> {
    let record = app.engine().session(id).await?;
    answer(&app, &record, &caller).await
}

/// Every stage of the session's machine so far.
#[utoipa::path(get, path = "/api/auth/session/{id}/timeline", params(("id" = String, Path)),
    responses((status = 200, body = Timeline), (status = "default", body = ErrorBody)))]
pub async fn timeline(State(app): State<App>, Id(id): Id<SessionId>) -> Result<Json<Timeline>, ApiError> {
    let record = app.engine().session(id).await?;
    let entries = app.engine().timeline(record.vm_id).await?;
    Ok(Json(Timeline { stages: entries.iter().map(views::stage).collect() }))
}

/// End a session. Answers when its machine is gone; a session that is over stays as it is.
#[utoipa::path(post, path = "/api/auth/session/{id}/cancel", params(("id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionView>, ApiError> {
    let record = app.engine().cancel(id).await?;
    answer(&app, &record, &caller).await
}

/// Say that somebody is still there. The session lasts a whole session's time from now on, up to the configured maximum.
#[utoipa::path(post, path = "/api/auth/session/{id}/heartbeat", params(("id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn heartbeat(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionView>, ApiError> {
    let record = app.engine().heartbeat(id).await?;
    answer(&app, &record, &caller).await
}

/// Every session, newest first.
#[utoipa::path(get, path = "/api/auth/sessions",
    responses((status = 200, body = SessionList), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Result<Json<SessionList>, ApiError> {
    views_of(&app, app.engine().sessions(None).await?).await
}

/// A user's sessions, newest first.
#[utoipa::path(get, path = "/api/auth/sessions/{userId}", params(("userId" = String, Path)),
    responses((status = 200, body = SessionList), (status = "default", body = ErrorBody)))]
pub async fn of_user(
    State(app): State<App>,
    PathText(user_id): PathText<String>,
) -> Result<Json<SessionList>, ApiError> {
    views_of(&app, app.engine().sessions(Some(&user_id)).await?).await
}

async fn answer(app: &App, record: &SessionRecord, caller: &Caller) -> Result<Json<SessionView>, ApiError> {
    let mut view = view(app, record).await?;
    views::for_caller(&mut view, caller);
    Ok(Json(view))
}

async fn view(app: &App, record: &SessionRecord) -> Result<SessionView, ApiError> {
    // One that waits has no machine yet.
    let reached = match record.address {
        Some(_) => app.engine().vm(record.vm_id).await?.stage,
        None => None,
    };
    Ok(views::session(Around::of(app.engine()), record, reached))
}

async fn views_of(app: &App, records: Vec<SessionRecord>) -> Result<Json<SessionList>, ApiError> {
    let vms = app.engine().vms().await?;
    let reached: HashMap<VmId, Option<Stage>> = vms.into_iter().map(|vm| (vm.id, vm.stage)).collect();
    let stage_of = |record: &SessionRecord| reached.get(&record.vm_id).copied().flatten();
    let around = Around::of(app.engine());
    Ok(Json(SessionList {
        sessions: records.iter().map(|record| views::session(around, record, stage_of(record))).collect(),
    }))
}
