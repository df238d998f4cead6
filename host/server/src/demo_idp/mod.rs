//! The demo identity provider: a small OAuth 2 authorization server for first use and for tests.
//!
//! Authorization code flow (RFC 6749 section 4.1) for native apps: PKCE with S256 is required (RFC 7636), the redirect goes to a
//! loopback address on any port (RFC 8252 section 7.3), clients are public and need no registration, because a loopback redirect
//! can only reach the machine that asked. A tool that a browser elsewhere cannot reach has the code shown, for its person to carry,
//! or shows a code itself (RFC 8628). Refresh tokens work; `GET /userinfo` says whose an access token is.
//!
//! It knows one account. Codes and tokens live in memory, bounded and hashed, and are forgotten at the end of the process: it is a
//! demo and owns nothing durable. A refused request is an error page (when its redirect cannot be trusted) or an error redirect.

mod device_flow;
mod devices;
mod grants;
mod page;

pub(crate) use page::escape;
mod request;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use devices::{Answer, Devices};
use grants::{GrantError, Grants, Issued};
use request::{AuthorizeParams, AuthorizeRequest, Refused};

/// Path of the authorization endpoint.
pub const AUTHORIZE_PATH: &str = "/authorize";
/// Path of the token endpoint.
pub const TOKEN_PATH: &str = "/token";

/// The one account. Only digests are kept.
pub struct Account {
    user: String,
    user_digest: [u8; 32],
    password_digest: [u8; 32],
}

impl Account {
    /// An account with this user name and password.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), user_digest: digest(user), password_digest: digest(password) }
    }

    /// Whether this is the account's user name and password. Takes the same time for a wrong name as for a wrong password.
    fn admits(&self, user: &str, password: &str) -> bool {
        (digest(user).ct_eq(&self.user_digest) & digest(password).ct_eq(&self.password_digest)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

struct Idp {
    account: Account,
    grants: Mutex<Grants>,
    devices: Mutex<Devices>,
}

impl Idp {
    fn devices(&self) -> std::sync::MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants(&self) -> std::sync::MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The authorization server as a router.
pub fn router(account: Account) -> Router {
    Router::new()
        .route(AUTHORIZE_PATH, get(show_form).post(submit_form))
        .route(TOKEN_PATH, post(token))
        .route("/device_authorization", post(device_flow::begin))
        .route("/device", get(device_flow::show).post(device_flow::submit))
        .route("/userinfo", get(userinfo))
        .route("/health", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(Arc::new(Idp { account, grants: Mutex::default(), devices: Mutex::default() }))
}

/// Serves alone until `shutdown` completes.
pub async fn serve_until(
    account: Account,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(account)).with_graceful_shutdown(shutdown).await
}

async fn show_form(query: Result<Query<AuthorizeParams>, QueryRejection>) -> Response {
    let Ok(Query(params)) = query else { return refused(Refused::Page("the query cannot be read")) };
    match AuthorizeRequest::validate(&params) {
        Ok(request) => page::login(&request, &params, None),
        Err(reason) => refused(reason),
    }
}

#[derive(Deserialize)]
struct LoginForm {
    #[serde(flatten)]
    params: AuthorizeParams,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    decision: String,
}

async fn submit_form(
    State(idp): State<Arc<Idp>>,
    headers: HeaderMap,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else { return refused(Refused::Page("the form cannot be read")) };
    let request = match AuthorizeRequest::validate(&form.params) {
        Ok(request) => request,
        Err(reason) => return refused(reason),
    };
    if !is_own_form(&headers) {
        return refused(Refused::Page("the form was sent from another site"));
    }
    if form.decision == "deny" {
        let back = request.redirect_with(&[("error", "access_denied")]);
        return back.map_or_else(page::denied, |url| redirect(&url));
    }
    if !idp.account.admits(&form.username, &form.password) {
        return page::login(&request, &form.params, Some(&form.username));
    }
    match idp.grants().new_code(&request, &idp.account.user, Instant::now()) {
        Ok(code) => {
            let back = request.redirect_with(&[("code", &code)]);
            back.map_or_else(|| page::code(&code, &request.state), |url| redirect(&url))
        }
        Err(_) => {
            let back = request.redirect_with(&[("error", "temporarily_unavailable")]);
            back.map_or_else(|| page::refused("no code can be made now"), |url| redirect(&url))
        }
    }
}

/// A browser names the page that sent a form; another site's page may not sign its visitor in here.
fn is_own_form(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
        (Some(_), None) => false,
    }
}

#[derive(Deserialize)]
struct TokenForm {
    grant_type: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    code_verifier: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    device_code: String,
}

async fn token(State(idp): State<Arc<Idp>>, form: Result<Form<TokenForm>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else { return token_error("invalid_request", "the form cannot be read") };
    let now = Instant::now();
    let issued = match form.grant_type.as_str() {
        "authorization_code" => {
            idp.grants().redeem_code(&form.code, &form.client_id, &form.redirect_uri, &form.code_verifier, now)
        }
        "refresh_token" => idp.grants().refresh(&form.refresh_token, &form.client_id, now),
        device_flow::GRANT_TYPE => {
            let answer = idp.devices().ask(&form.device_code, &form.client_id, now);
            match answer {
                Answer::Error(error) => return token_error(error, "see RFC 8628 section 3.5"),
                Answer::Granted => idp.grants().for_device(&form.device_code, &form.client_id, &idp.account.user, now),
            }
        }
        _ => {
            let description = "authorization_code, refresh_token and device codes are supported";
            return token_error("unsupported_grant_type", description);
        }
    };
    match issued {
        Ok(Issued { access_token, refresh_token, expires_in_s, account }) => {
            if form.grant_type != "refresh_token" {
                // `cargo xtask bench login` measures from here.
                tracing::info!("code exchanged");
            }
            no_store(Json(json!({
                "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer",
                "expires_in": expires_in_s, "account": account,
            })))
        }
        Err(GrantError::Refused(why)) => token_error("invalid_grant", why),
        Err(GrantError::Random(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "temporarily_unavailable"}))).into_response()
        }
    }
}

async fn userinfo(State(idp): State<Arc<Idp>>, headers: HeaderMap) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match token.and_then(|token| idp.grants().account_of(token, Instant::now())) {
        Some(account) => no_store(Json(json!({ "account": account }))),
        None => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")]).into_response()
        }
    }
}

/// RFC 6749 section 5.2.
fn token_error(error: &str, description: &str) -> Response {
    let body = Json(json!({"error": error, "error_description": description}));
    (StatusCode::BAD_REQUEST, no_store(body)).into_response()
}

fn no_store(body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

fn refused(reason: Refused) -> Response {
    match reason {
        Refused::Page(why) => page::refused(why),
        Refused::Redirect(url) => redirect(&url),
    }
}

fn redirect(url: &str) -> Response {
    match HeaderValue::from_str(url) {
        Ok(location) => (
            StatusCode::SEE_OTHER,
            [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        )
            .into_response(),
        Err(_) => page::refused("redirect_uri cannot be written as a header"),
    }
}

#[cfg(test)]
mod tests;
