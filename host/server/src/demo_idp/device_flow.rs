//! The device flow over HTTP (RFC 8628): where a tool begins, and the page where a person types its code.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::devices::{Begun, DEVICE_LIFE, INTERVAL};
use super::request::{Refused, is_client_id};
use super::{Idp, is_own_form, no_store, page, refused, token_error};

/// By which a tool asks whether its person agreed (RFC 8628 section 3.4).
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Deserialize)]
pub struct BeginForm {
    #[serde(default)]
    client_id: String,
}

/// RFC 8628 section 3.1.
pub async fn begin(
    State(idp): State<Arc<Idp>>,
    headers: HeaderMap,
    form: Result<Form<BeginForm>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else { return token_error("invalid_request", "the form cannot be read") };
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return token_error("invalid_request", "the request names no host");
    };
    if !is_client_id(&form.client_id) {
        return token_error("invalid_client", "client_id is missing or malformed");
    }
    match idp.devices().begin(&form.client_id, Instant::now()) {
        Ok(Some(Begun { device_code, user_code })) => no_store(Json(json!({
            "device_code": device_code, "user_code": user_code, "verification_uri": format!("http://{host}/device"),
            "expires_in": DEVICE_LIFE.as_secs(), "interval": INTERVAL.as_secs(),
        }))),
        Ok(None) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "temporarily_unavailable"}))).into_response()
        }
    }
}

/// The page.
pub async fn show() -> Response {
    page::device(None)
}

#[derive(Deserialize)]
pub struct DeviceForm {
    #[serde(default)]
    user_code: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    decision: String,
}

/// Its answer. Only who has the account says anything about a code, also a no.
pub async fn submit(
    State(idp): State<Arc<Idp>>,
    headers: HeaderMap,
    form: Result<Form<DeviceForm>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else { return refused(Refused::Page("the form cannot be read")) };
    if !is_own_form(&headers) {
        return refused(Refused::Page("the form was sent from another site"));
    }
    if !idp.account.admits(&form.username, &form.password) {
        return page::device(Some("User name or password is wrong."));
    }
    let allow = form.decision != "deny";
    if !idp.devices().decide(&form.user_code, allow, Instant::now()) {
        return page::device(Some("No tool waits for this code. Look at the tool again."));
    }
    if allow { page::allowed() } else { page::denied() }
}
