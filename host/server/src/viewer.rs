//! The viewer page and its ticket.
//!
//! ```text
//! link with ticket --redeemed once--> cookie + redirect to the same path --> page
//!        |                                                  |
//!        +-- used or unknown, and no cookie --> 403         +-- no cookie --> 403
//! ```
//!
//! The cookie is `SameSite=Strict`. A browser that followed the link from another site's page does not send it with the redirect, so
//! such a request without a cookie is answered once with a page that asks again, now as a navigation of our own.

use airlock_api::ErrorBody;
use airlock_api::session::TicketView;
use airlock_domain::SessionId;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Deserialize;

use crate::access::{Caller, VIEWER_COOKIE, viewer_cookie};
use crate::app::App;
use crate::assets::{self, NOTICE_POLICY, PAGE_POLICY, VIEWER_HTML};
use crate::demo_idp::escape;
use crate::error::ApiError;
use crate::request::{Id, QueryOf};
use crate::views;

#[derive(Deserialize)]
pub struct PageQuery {
    ticket: Option<String>,
}

/// The viewer page. Opened with the ticket of `novncURL` once; afterwards the cookie counts.
#[utoipa::path(get, path = "/api/auth/session/{id}/novnc",
    params(("id" = String, Path), ("ticket" = Option<String>, Query, description = "works once")),
    responses((status = 200, content_type = "text/html", body = String), (status = 303, description = "ticket redeemed"),
              (status = 403, content_type = "text/html", body = String)))]
pub async fn page(
    State(app): State<App>,
    method: Method,
    headers: HeaderMap,
    id: Result<Id<SessionId>, ApiError>,
    query: Result<QueryOf<PageQuery>, ApiError>,
) -> Response {
    match answer(&app, &method, &headers, id, query).await {
        Ok(response) => response,
        Err(error) if error.status() == StatusCode::NOT_FOUND => notice(
            StatusCode::NOT_FOUND,
            "There is no such sign-in",
            "The sign-in that this link belongs to is not known here. Ask for a new link, or start a new sign-in.",
        ),
        Err(error) => notice(error.status(), "This page cannot be shown", error.message()),
    }
}

async fn answer(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    id: Result<Id<SessionId>, ApiError>,
    query: Result<QueryOf<PageQuery>, ApiError>,
) -> Result<Response, ApiError> {
    let (Id(id), QueryOf(query)) = (id?, query?);
    if *method == Method::HEAD {
        // A link checker asks with HEAD; it must not use the ticket up.
        return Ok(StatusCode::OK.into_response());
    }
    let known = match viewer_cookie(headers) {
        Some(cookie) => app.engine().check_viewer(id, cookie).await?,
        None => false,
    };
    let Some(ticket) = query.ticket else {
        return Ok(match (known, comes_from_elsewhere(headers)) {
            (true, _) => viewer_page(),
            (false, true) => ask_again(id),
            (false, false) => refused(),
        });
    };
    match app.engine().redeem_ticket(id, &ticket).await? {
        Some(secret) => {
            let deadline_ms = app.engine().session(id).await?.deadline_ms;
            let cookie = cookie(id, &secret, deadline_ms - Timestamp::now().as_millisecond(), app.public_base());
            Ok((StatusCode::SEE_OTHER, [(header::LOCATION, path(id)), (header::SET_COOKIE, cookie)]).into_response())
        }
        // The same browser opened its link again.
        None if known => Ok((StatusCode::SEE_OTHER, [(header::LOCATION, path(id))]).into_response()),
        None => Ok(refused()),
    }
}

/// The link that a ticket opens.
pub fn link(app: &App, id: SessionId, ticket: &str) -> String {
    format!("{}{}?ticket={ticket}", app.public_base(), path(id))
}

/// Another link to the session's viewer, for a second browser. It works once, as the first one.
#[utoipa::path(post, path = "/api/auth/session/{id}/ticket", params(("id" = String, Path)),
    responses((status = 200, body = TicketView), (status = "default", body = ErrorBody)))]
pub async fn ticket(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Json<TicketView>, ApiError> {
    let (ticket, expires_ms) = app.engine().issue_ticket(id, &caller.actor()).await?;
    Ok(Json(TicketView { novnc_url: link(&app, id, &ticket), expires_at: views::time(expires_ms) }))
}

fn path(id: SessionId) -> String {
    format!("/api/auth/session/{id}/novnc")
}

/// The cookie outlives the session a little, so that the outcome can be read after the deadline.
fn cookie(id: SessionId, secret: &str, left_ms: i64, public_base: &str) -> String {
    let max_age = left_ms.max(0) / 1000 + 600;
    let secure = if public_base.starts_with("https://") { "; Secure" } else { "" };
    format!(
        "{VIEWER_COOKIE}={secret}; HttpOnly; SameSite=Strict; Path=/api/auth/session/{id}; Max-Age={max_age}{secure}"
    )
}

/// Whether the browser says that another site's page led here (W3C Fetch Metadata).
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get(HeaderName::from_static("sec-fetch-site")).and_then(|value| value.to_str().ok());
    matches!(site, Some("cross-site" | "same-site"))
}

fn viewer_page() -> Response {
    assets::page(StatusCode::OK, PAGE_POLICY, VIEWER_HTML.to_owned())
}

fn ask_again(id: SessionId) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url={url}\">\
         <title>Airlock</title></head><body><a href=\"{url}\">Continue</a></body></html>",
        url = path(id)
    );
    assets::page(StatusCode::OK, NOTICE_POLICY, page)
}

fn refused() -> Response {
    notice(
        StatusCode::FORBIDDEN,
        "This link is no longer valid",
        "A viewer link works once, in one browser, and only for a short time. It may have been used already. Ask for a new link, or \
         start a new sign-in.",
    )
}

fn notice(status: StatusCode, title: &str, text: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} · Airlock</title><link rel=\"stylesheet\" href=\"/assets/notice.css\"></head><body><h1>{title}</h1><p>{text}</p></body></html>",
        title = escape(title),
        text = escape(text)
    );
    assets::page(status, NOTICE_POLICY, page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn id() -> SessionId {
        "01234567-89ab-4def-8123-456789abcdef".parse().unwrap()
    }

    #[test]
    fn the_cookie_is_bound_to_its_session() {
        let plain = cookie(id(), "s3", 900_000, "http://127.0.0.1:4000");
        let expected = "airlock_viewer=s3; HttpOnly; SameSite=Strict; Path=/api/auth/session/01234567-89ab-4def-8123-456789abcdef; Max-Age=1500";
        assert_eq!(plain, expected);
        assert!(cookie(id(), "s3", -5, "https://airlock.example").ends_with("Max-Age=600; Secure"));
    }

    #[test]
    fn pages_forbid_what_they_do_not_need() {
        for response in [viewer_page(), refused(), ask_again(id())] {
            let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
            assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(response.headers()[header::REFERRER_POLICY], "no-referrer");
        }
        assert_eq!(refused().status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn only_a_link_of_another_site_is_asked_again() {
        let with =
            |site| [(HeaderName::from_static("sec-fetch-site"), HeaderValue::from_static(site))].into_iter().collect();
        assert!(comes_from_elsewhere(&with("cross-site")));
        assert!(!comes_from_elsewhere(&with("same-origin")));
        assert!(!comes_from_elsewhere(&with("none")));
        assert!(!comes_from_elsewhere(&HeaderMap::new()));
    }
}
