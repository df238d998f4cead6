//! The viewer page, embedded by the build script. Names carry no version, so browsers ask again each time.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// The viewer's HTML.
pub const VIEWER_HTML: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.html"));
const VIEWER_JS: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.js"));
const VIEWER_CSS: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.css"));

/// `GET /assets/{name}`.
pub async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    let (kind, text) = match name.as_str() {
        "viewer.js" => ("text/javascript; charset=utf-8", VIEWER_JS),
        "viewer.css" => ("text/css; charset=utf-8", VIEWER_CSS),
        _ => {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "no_such_asset",
                format!("there is no asset {name:?}"),
                "",
            ));
        }
    };
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}
