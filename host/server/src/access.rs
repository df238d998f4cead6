//! Who may pass: a bearer token with the route's scope, or, on a session's viewer routes, the viewer's cookie.
//!
//! No token and an invalid token answer 401, a token without the scope 403. The cookie counts only for its own session, and for
//! anything that acts (POST, WebSocket) only when the browser names our own page as the origin. Tokens are looked up by their
//! digest, so timing tells nothing about them.

use airlock_domain::SessionId;
use airlock_engine::records::Scope;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::request::Id;

/// Name of the viewer's cookie.
pub const VIEWER_COOKIE: &str = "airlock_viewer";

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A token with the scope.
    Token(Scope),
    /// A token with the scope, or the session's viewer cookie.
    TokenOrViewer(Scope),
}

impl Access {
    /// The scope a token needs.
    pub fn scope(self) -> Scope {
        match self {
            Self::Token(scope) | Self::TokenOrViewer(scope) => scope,
        }
    }
}

/// The layer's state.
#[derive(Clone)]
pub struct Guard {
    /// Whose tokens and cookies count.
    pub app: App,
    /// What the routes under this layer need.
    pub access: Access,
}

/// Who was let in; a request extension.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A token, by its id.
    Token {
        /// Id of the token's record.
        id: String,
    },
    /// The person in front of a session's viewer.
    Viewer,
}

impl Caller {
    /// How the audit names it.
    pub fn actor(&self) -> String {
        match self {
            Self::Token { id } => format!("token:{id}"),
            Self::Viewer => "viewer".to_owned(),
        }
    }
}

/// The layer.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let caller = match bearer(&parts.headers)? {
        Some(token) => by_token(&guard, token).await?,
        None if matches!(guard.access, Access::TokenOrViewer(_)) => {
            let Some(cookie) = viewer_cookie(&parts.headers).map(str::to_owned) else {
                return Err(ApiError::unauthorized("neither a token nor a viewer cookie was sent"));
            };
            if acts(&parts.method, &parts.headers) && !is_same_origin(&parts.headers, guard.app.public_base()) {
                let remedy = "use the viewer page that the session's link opens";
                return Err(ApiError::forbidden("the request comes from another site", remedy));
            }
            let Id(session) = Id::<SessionId>::from_request_parts(&mut parts, &()).await?;
            if !guard.app.engine().check_viewer(session, &cookie).await? {
                return Err(ApiError::unauthorized("the viewer cookie is not valid for this session"));
            }
            Caller::Viewer
        }
        None => return Err(ApiError::unauthorized("no token was sent")),
    };
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn by_token(guard: &Guard, token: &str) -> Result<Caller, ApiError> {
    let Some(record) = guard.app.engine().authenticate(token).await? else {
        return Err(ApiError::unauthorized("the token is not valid"));
    };
    let scope = guard.access.scope();
    if record.allows(scope) {
        return Ok(Caller::Token { id: record.id });
    }
    let remedy = format!("use a token with the scope {scope}: airlock token create NAME --scope {scope}");
    Err(ApiError::forbidden(format!("the token {:?} lacks the scope {scope}", record.name), &remedy))
}

/// The token of the Authorization header (RFC 6750 section 2.1), or `None` without that header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    token.map(Some).ok_or_else(|| ApiError::unauthorized("the Authorization header is not Bearer TOKEN"))
}

/// The viewer's cookie, if the browser sent it.
pub fn viewer_cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs =
        headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == VIEWER_COOKIE)
        .map(|(_, value)| value)
}

/// Whether a request does more than read.
fn acts(method: &Method, headers: &HeaderMap) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) || headers.contains_key(header::UPGRADE)
}

/// Whether the browser says that a page of ours sent the request. A browser always names the origin of a POST and of a
/// WebSocket; a request without one is not from a page.
pub fn is_same_origin(headers: &HeaderMap, public_base: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_host = authority.is_some() && authority == text(header::HOST);
    is_host || origin_of(public_base).is_some_and(|public| public == origin)
}

/// Scheme and authority of a URL.
fn origin_of(url: &str) -> Option<String> {
    Some(url::Url::parse(url).ok()?.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn reads_bearer_tokens_and_nothing_else() {
        let read =
            |value| bearer(&headers(&[(header::AUTHORIZATION, value)])).map(|token| token.map(str::to_owned)).ok();
        assert_eq!(read("Bearer abc"), Some(Some("abc".into())));
        assert_eq!(read("bearer abc"), Some(Some("abc".into())));
        for bad in ["Basic abc", "Bearer ", "Bearer", "abc"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(bearer(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn finds_its_cookie_among_others() {
        let found = |value| viewer_cookie(&headers(&[(header::COOKIE, value)])).map(str::to_owned);
        assert_eq!(found("a=1; airlock_viewer=s3; b=2").as_deref(), Some("s3"));
        assert_eq!(found("xairlock_viewer=s3"), None);
        assert_eq!(found("airlock_viewer"), None);
    }

    #[test]
    fn only_our_own_pages_may_act() {
        let base = "https://airlock.example/";
        for (origin, host, allowed) in [
            ("http://127.0.0.1:4000", "127.0.0.1:4000", true),
            ("https://airlock.example", "10.0.0.1:4000", true),
            ("http://airlock.example", "10.0.0.1:4000", false),
            ("http://127.0.0.1:4001", "127.0.0.1:4000", false),
            ("https://evil.example", "127.0.0.1:4000", false),
            ("null", "127.0.0.1:4000", false),
            ("ftp://127.0.0.1:4000", "127.0.0.1:4000", false),
        ] {
            let headers = headers(&[(header::ORIGIN, origin), (header::HOST, host)]);
            assert_eq!(is_same_origin(&headers, base), allowed, "{origin} {host}");
        }
        assert!(!is_same_origin(&headers(&[(header::HOST, "127.0.0.1:4000")]), base));
    }

    #[test]
    fn a_websocket_acts_although_it_is_a_get() {
        assert!(!acts(&Method::GET, &HeaderMap::new()));
        assert!(acts(&Method::GET, &headers(&[(header::UPGRADE, "websocket")])));
        assert!(acts(&Method::POST, &HeaderMap::new()));
    }
}
