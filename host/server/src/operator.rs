//! `GET /operator`: the operator page. It is public text without any data: everything on it is asked of the API with the token
//! that the operator types in.

use axum::http::StatusCode;
use axum::response::{Redirect, Response};

use crate::assets::{self, OPERATOR_HTML, PAGE_POLICY};

/// Where it is.
const PATH: &str = "/operator";

/// The operator page.
#[utoipa::path(get, path = "/operator",
    responses((status = 200, content_type = "text/html", body = String, description = "asks for a token")))]
pub async fn page() -> Response {
    assets::page(StatusCode::OK, PAGE_POLICY, OPERATOR_HTML.to_owned())
}

/// Who opens the daemon's address with a browser wants the operator page.
pub async fn home() -> Redirect {
    Redirect::to(PATH)
}
