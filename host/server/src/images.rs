//! What can be started: images and providers.

use airlock_api::ErrorBody;
use airlock_api::catalog::{ImageList, ProviderList};
use airlock_image::{GoldenImage, ImageError};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::error::{ApiError, chain};
use crate::views;

/// Published golden images.
#[utoipa::path(get, path = "/api/images", responses((status = 200, body = ImageList), (status = "default", body = ErrorBody)))]
pub async fn images(State(app): State<App>) -> Result<Json<ImageList>, ApiError> {
    let images = published(&app).await.map_err(|error| {
        tracing::error!(error = %chain(&error), "list images");
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::new(code, error.code(), error.to_string(), &error.remedy())
    })?;
    let registry = app.engine().registry();
    let view = |image: &GoldenImage| views::image(image, registry.is_current(image));
    Ok(Json(ImageList { images: images.iter().map(view).collect() }))
}

/// Tools that can be signed in.
#[utoipa::path(get, path = "/api/providers", responses((status = 200, body = ProviderList), (status = "default", body = ErrorBody)))]
pub async fn providers(State(app): State<App>) -> Json<ProviderList> {
    Json(ProviderList { providers: app.engine().providers().iter().map(views::provider).collect() })
}

/// Reads the registry off the async threads: it touches the disk.
pub async fn published(app: &App) -> Result<Vec<GoldenImage>, ImageError> {
    let registry = app.engine().registry().clone();
    tokio::task::spawn_blocking(move || registry.list()).await.unwrap_or_else(|_| Ok(Vec::new()))
}
