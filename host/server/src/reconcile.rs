//! What is left over, and the pass that looks after it.

use airlock_api::ErrorBody;
use airlock_api::reconcile::ReconcileView;
use airlock_domain::reconcile::Reconciliation;
use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::error::ApiError;

/// What a pass of the reconciler would do now. Nothing is changed.
#[utoipa::path(get, path = "/api/reconcile", responses((status = 200, body = ReconcileView), (status = "default", body = ErrorBody)))]
pub async fn plan(State(app): State<App>) -> Result<Json<ReconcileView>, ApiError> {
    let found = app.engine().plan_reconciliation().await.map_err(airlock_engine::Error::from)?;
    Ok(Json(view(&found)))
}

/// One pass of the reconciler, now. Answers with what it found and did.
#[utoipa::path(post, path = "/api/reconcile", responses((status = 200, body = ReconcileView), (status = "default", body = ErrorBody)))]
pub async fn run(State(app): State<App>) -> Result<Json<ReconcileView>, ApiError> {
    let found = app.engine().reconcile().await.map_err(airlock_engine::Error::from)?;
    Ok(Json(view(&found)))
}

fn view(found: &Reconciliation) -> ReconcileView {
    ReconcileView {
        actions: found.actions.iter().map(ToString::to_string).collect(),
        foreign: found.foreign.iter().map(ToString::to_string).collect(),
        leaked: found.leaked.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect(),
    }
}
