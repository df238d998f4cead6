//! The pages of the daemon, embedded by the build script, and how they are sent. Names carry no version, so browsers ask again
//! each time.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::error::ApiError;

/// The viewer's HTML.
pub const VIEWER_HTML: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.html"));
const VIEWER_JS: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.js"));
const VIEWER_CSS: &str = include_str!(concat!(env!("OUT_DIR"), "/viewer.css"));
/// The operator page's HTML.
pub const OPERATOR_HTML: &str = include_str!(concat!(env!("OUT_DIR"), "/operator.html"));
const OPERATOR_JS: &str = include_str!(concat!(env!("OUT_DIR"), "/operator.js"));
const OPERATOR_CSS: &str = include_str!(concat!(env!("OUT_DIR"), "/operator.css"));

/// The style of the notices, which are pages without script.
const NOTICE_CSS: &str =
    "body{font:16px/1.5 sans-serif;max-width:32rem;margin:15vh auto;padding:0 1rem}:root{color-scheme:light dark}";

/// What a notice may load.
pub const NOTICE_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a page may load: its own script, style and connections. `data:` images are noVNC's cursor and the pages' icon.
pub const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /assets/{name}`.
pub async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    let (kind, text) = match name.as_str() {
        "viewer.js" => (SCRIPT, VIEWER_JS),
        "viewer.css" => (STYLE, VIEWER_CSS),
        "operator.js" => (SCRIPT, OPERATOR_JS),
        "operator.css" => (STYLE, OPERATOR_CSS),
        "notice.css" => (STYLE, NOTICE_CSS),
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

/// A page, which may do what `policy` (Content-Security-Policy) allows and is kept by nobody.
pub fn page(status: StatusCode, policy: &'static str, html: String) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy forbids what stands in the page itself, so none of it may be there.
    #[test]
    fn pages_have_no_script_and_no_style_of_their_own() {
        for (name, html) in [("viewer", VIEWER_HTML), ("operator", OPERATOR_HTML)] {
            let lower = html.to_ascii_lowercase();
            for script in lower.split("<script").skip(1) {
                let (tag, rest) = script.split_once('>').unwrap();
                assert!(tag.contains(&format!("src=\"/assets/{name}.js\"")), "{name}: <script{tag}>");
                assert!(rest.trim_start().starts_with("</script>"), "{name}: an inline script");
            }
            assert!(!lower.contains("<style") && !lower.contains(" style="), "{name}: inline style");
            for on in [" onclick=", " onload=", " onerror=", " onsubmit=", "javascript:"] {
                assert!(!lower.contains(on), "{name}: {on}");
            }
            assert!(lower.contains(&format!("href=\"/assets/{name}.css\"")), "{name}");
            for elsewhere in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
                assert!(!lower.contains(elsewhere), "{name} loads nothing from elsewhere");
            }
        }
        assert!(!PAGE_POLICY.contains("unsafe"));
    }
}
