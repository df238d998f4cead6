//! The pages of the demo identity provider. No script, no external resource.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::request::{AuthorizeParams, AuthorizeRequest};

const STYLE: &str = "\
html,body{height:100%;margin:0}\
body{background:#0b3d5c;display:flex;align-items:center;justify-content:center;font:16px/1.5 sans-serif;color:#10202c}\
main{background:#f4f7fa;border-radius:8px;padding:32px;width:340px;box-sizing:border-box}\
h1{font-size:20px;margin:0 0 4px}p{margin:0 0 16px;color:#45555f}\
label{display:block;margin:0 0 12px}input{display:block;width:100%;box-sizing:border-box;padding:8px;font:inherit;border:1px solid #8899a6;border-radius:4px}\
button{font:inherit;padding:8px 16px;border:1px solid #0b3d5c;border-radius:4px;background:#0b3d5c;color:#fff;margin-right:8px}\
button.quiet{background:transparent;color:#0b3d5c}\
.code{font-family:monospace;overflow-wrap:anywhere}\
.error{background:#b00020;color:#fff;padding:8px 12px;margin:0 0 16px;border-radius:4px}";

/// The login form. `wrong_for` is the user name of an attempt that was turned down.
pub fn login(request: &AuthorizeRequest, params: &AuthorizeParams, wrong_for: Option<&str>) -> Response {
    let hidden: String = [
        ("response_type", &params.response_type),
        ("client_id", &params.client_id),
        ("redirect_uri", &params.redirect_uri),
        ("state", &params.state),
        ("scope", &params.scope),
        ("code_challenge", &params.code_challenge),
        ("code_challenge_method", &params.code_challenge_method),
    ]
    .iter()
    .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value)))
    .collect();
    let error = match wrong_for {
        Some(_) => "<p class=\"error\" role=\"alert\">User name or password is wrong.</p>",
        None => "",
    };
    // Who mistyped a password goes on with the password; the user name is kept.
    let (focus_user, focus_password) = if wrong_for.is_some() { ("", " autofocus") } else { (" autofocus", "") };
    let body = format!(
        "<main><h1>Airlock demo sign-in</h1><p>{client} asks to use your account.</p>{error}\
         <form method=\"post\" action=\"/authorize\" autocomplete=\"off\">{hidden}\
         <label>User name<input name=\"username\" value=\"{user}\" required{focus_user}></label>\
         <label>Password<input name=\"password\" type=\"password\" required{focus_password}></label>\
         <button type=\"submit\" name=\"decision\" value=\"allow\">Sign in</button>\
         <button type=\"submit\" name=\"decision\" value=\"deny\" class=\"quiet\" formnovalidate>Deny</button></form></main>",
        client = escape(&request.client_id),
        user = escape(wrong_for.unwrap_or_default()),
    );
    // Browsers apply form-action to the redirect that follows the form as well.
    let form_action =
        request.redirect_origin().map_or_else(|| "'self'".to_owned(), |origin| format!("'self' {origin}"));
    page(StatusCode::OK, &body, &form_action)
}

/// The code for a tool that asks for it, with the tool's own mark: it takes no code of another sign-in.
pub fn code(code: &str, state: &str) -> Response {
    let body = format!(
        "<main><h1>Your code</h1><p>Paste it where the tool asks for it.</p><p class=\"code\">{}#{}</p></main>",
        escape(code),
        escape(state)
    );
    page(StatusCode::OK, &body, "'none'")
}

/// Where the code of a tool on another device is typed (RFC 8628 section 3.3). `wrong`: what was the matter with the last try.
pub fn device(wrong: Option<&str>) -> Response {
    let error = wrong.map_or_else(String::new, |why| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(why)));
    let body = format!(
        "<main><h1>Airlock demo sign-in</h1><p>Type the code that your tool shows. Go on only if you started it yourself.</p>{error}\
         <form method=\"post\" action=\"/device\" autocomplete=\"off\">\
         <label>Code<input name=\"user_code\" required autofocus></label>\
         <label>User name<input name=\"username\" required></label>\
         <label>Password<input name=\"password\" type=\"password\" required></label>\
         <button type=\"submit\" name=\"decision\" value=\"allow\">Sign in</button>\
         <button type=\"submit\" name=\"decision\" value=\"deny\" class=\"quiet\">Deny</button></form></main>"
    );
    page(StatusCode::OK, &body, "'self'")
}

/// What the person decided, for a tool that has no page of its own.
pub fn denied() -> Response {
    page(StatusCode::OK, "<main><h1>Denied</h1><p>The tool gets nothing. You can close this page.</p></main>", "'none'")
}

/// The same, of the other decision.
pub fn allowed() -> Response {
    page(
        StatusCode::OK,
        "<main><h1>Signed in</h1><p>Go back to your tool. You can close this page.</p></main>",
        "'none'",
    )
}

/// A request that cannot be answered with a redirect.
pub fn refused(why: &str) -> Response {
    let body = format!(
        "<main><h1>This sign-in request is not valid</h1><p class=\"error\" role=\"alert\">{}</p><p>Start the sign-in again from the tool.</p></main>",
        escape(why)
    );
    page(StatusCode::BAD_REQUEST, &body, "'none'")
}

fn page(status: StatusCode, body: &str, form_action: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Airlock demo sign-in</title><style>{STYLE}</style></head><body>{body}</body></html>"
    );
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; form-action {form_action}; base-uri 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 4] = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".into()),
        // Not no-referrer: browsers then send `Origin: null` with the form.
        (header::REFERRER_POLICY, "same-origin".into()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    (status, headers, Html(html)).into_response()
}

/// Text as HTML text or attribute value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}
