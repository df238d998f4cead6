//! Liveness, open to everybody: it says whether, never what.

use airlock_api::health::{AuthHealth, Dependencies, Health};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::images::published;

/// The process answers.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() })
}

/// Whether a sign-in could start now. 503 if not; the dependencies say why.
#[utoipa::path(get, path = "/api/auth/health", responses((status = 200, body = AuthHealth), (status = 503, body = AuthHealth)))]
pub async fn auth_health(State(app): State<App>) -> (StatusCode, Json<AuthHealth>) {
    let found = app.engine().health().await;
    let images = published(&app).await.is_ok_and(|images| !images.is_empty());
    let ok = found.database && found.network && images;
    let body = AuthHealth {
        status: if ok { "ok" } else { "degraded" }.into(),
        dependencies: Dependencies { database: found.database, network: found.network, driver: found.driver, images },
        live_vms: u32::try_from(found.live_vms).unwrap_or(u32::MAX),
    };
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}
