//! The flow over HTTP, as a tool and a browser drive it.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use axum::{Router, body::to_bytes};
use serde_json::Value;
use tower::ServiceExt;
use url::Url;

use super::*;

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT: &str = "http://127.0.0.1:45678/callback";

fn idp() -> Router {
    router(Account::new("alice", "correct horse"))
}

fn params() -> Vec<(&'static str, &'static str)> {
    vec![
        ("response_type", "code"),
        ("client_id", "demo-tool"),
        ("redirect_uri", REDIRECT),
        ("state", "s&t=1"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn get_form(idp: &Router, pairs: &[(&str, &str)]) -> Response {
    let uri = format!("/authorize?{}", encoded(pairs));
    idp.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap()
}

async fn post(idp: &Router, path: &str, pairs: &[(&str, &str)]) -> Response {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::HOST, "192.168.100.1:4080")
        .header(header::ORIGIN, "http://192.168.100.1:4080")
        .body(Body::from(encoded(pairs)))
        .unwrap();
    idp.clone().oneshot(request).await.unwrap()
}

async fn sign_in(idp: &Router, password: &str, decision: &str) -> Response {
    let mut pairs = params();
    pairs.extend([("username", "alice"), ("password", password), ("decision", decision)]);
    post(idp, "/authorize", &pairs).await
}

async fn text(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

fn location(response: &Response) -> Url {
    Url::parse(response.headers()[header::LOCATION].to_str().unwrap()).unwrap()
}

fn query(url: &Url, key: &str) -> Option<String> {
    url.query_pairs().find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
}

async fn code(idp: &Router) -> String {
    query(&location(&sign_in(idp, "correct horse", "allow").await), "code").unwrap()
}

fn token_form<'a>(code: &'a str, verifier: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("client_id", "demo-tool"),
        ("code_verifier", verifier),
    ]
}

#[tokio::test]
async fn a_sign_in_gives_tokens_once() {
    let idp = idp();
    let form = get_form(&idp, &params()).await;
    assert_eq!(form.status(), StatusCode::OK);
    assert!(text(form).await.contains("name=\"state\" value=\"s&amp;t=1\""));

    let answer = sign_in(&idp, "correct horse", "allow").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let url = location(&answer);
    assert!(url.as_str().starts_with(REDIRECT));
    assert_eq!(query(&url, "state").as_deref(), Some("s&t=1"));
    let code = query(&url, "code").unwrap();

    let tokens = post(&idp, "/token", &token_form(&code, VERIFIER)).await;
    assert_eq!(tokens.headers()[header::CACHE_CONTROL], "no-store");
    let tokens = json(tokens).await;
    assert_eq!((&tokens["account"], &tokens["token_type"]), (&"alice".into(), &"Bearer".into()));
    assert!(tokens["expires_in"].as_u64().unwrap() > 0);

    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let who = Request::get("/userinfo").header(header::AUTHORIZATION, bearer).body(Body::empty()).unwrap();
    assert_eq!(json(idp.clone().oneshot(who).await.unwrap()).await["account"], "alice");

    let again = post(&idp, "/token", &token_form(&code, VERIFIER)).await;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json(again).await["error"], "invalid_grant");
}

#[tokio::test]
async fn a_code_needs_its_verifier_client_and_redirect() {
    let idp = idp();
    for (key, value) in [
        ("code_verifier", "a".repeat(43)),
        ("client_id", "other".into()),
        ("redirect_uri", format!("{REDIRECT}2")),
        ("code", "x".into()),
    ] {
        let code = code(&idp).await;
        let mut form = token_form(&code, VERIFIER);
        for pair in &mut form {
            if pair.0 == key {
                pair.1 = &value;
            }
        }
        assert_eq!(json(post(&idp, "/token", &form).await).await["error"], "invalid_grant", "{key}");
    }
    let unknown = post(&idp, "/token", &[("grant_type", "password"), ("username", "alice")]).await;
    assert_eq!(json(unknown).await["error"], "unsupported_grant_type");
}

#[tokio::test]
async fn a_wrong_password_shows_the_form_again() {
    let answer = sign_in(&idp(), "wrong", "allow").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let page = text(answer).await;
    assert!(page.contains("class=\"error\"") && page.contains("name=\"username\" value=\"alice\""));
    assert!(!page.contains("wrong\""), "the password is not sent back");
}

#[tokio::test]
async fn deny_goes_back_with_access_denied() {
    let url = location(&sign_in(&idp(), "", "deny").await);
    assert_eq!(query(&url, "error").as_deref(), Some("access_denied"));
    assert_eq!(query(&url, "state").as_deref(), Some("s&t=1"));
    assert_eq!(query(&url, "code"), None);
}

#[tokio::test]
async fn a_code_without_a_way_back_is_shown_with_the_tool_s_mark() {
    let idp = idp();
    let shown = |decision| {
        let mut pairs = params();
        pairs[2].1 = request::SHOW_CODE;
        pairs.extend([("username", "alice"), ("password", "correct horse"), ("decision", decision)]);
        let idp = idp.clone();
        async move { post(&idp, "/authorize", &pairs).await }
    };
    let answer = shown("allow").await;
    assert!(answer.headers().get(header::LOCATION).is_none());
    let page = text(answer).await;
    let code = page.split_once("class=\"code\">").unwrap().1.split_once("#s&amp;t=1</p>").unwrap().0;
    let mut form = token_form(code, VERIFIER);
    assert_eq!(json(post(&idp, "/token", &form).await).await["error"], "invalid_grant", "its own redirect counts");
    form[2].1 = request::SHOW_CODE;
    assert!(json(post(&idp, "/token", &form).await).await["access_token"].is_string());
    assert!(text(shown("deny").await).await.contains("Denied"));

    let mut pairs = params();
    (pairs[2].1, pairs[5].1) = (request::SHOW_CODE, "plain");
    assert_eq!(get_form(&idp, &pairs).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_device_gets_tokens_when_its_person_agreed() {
    let idp = idp();
    let begun = json(post(&idp, "/device_authorization", &[("client_id", "demo-tool")]).await).await;
    assert_eq!(begun["verification_uri"], "http://192.168.100.1:4080/device");
    let (device_code, user_code) = (begun["device_code"].as_str().unwrap(), begun["user_code"].as_str().unwrap());
    let ask = async || {
        let form = [("grant_type", device_flow::GRANT_TYPE), ("device_code", device_code), ("client_id", "demo-tool")];
        json(post(&idp, "/token", &form).await).await
    };
    assert_eq!(ask().await["error"], "authorization_pending");
    let decide = async |user_code, password| {
        let form = [("user_code", user_code), ("username", "alice"), ("password", password), ("decision", "allow")];
        text(post(&idp, "/device", &form).await).await
    };
    assert!(decide(user_code, "wrong").await.contains("password is wrong"));
    assert!(decide("BBBB-BBBB", "correct horse").await.contains("No tool waits"));
    assert!(decide(user_code, "correct horse").await.contains("Signed in"));
    let tokens = ask().await;
    assert_eq!((&tokens["account"], tokens["access_token"].is_string()), (&"alice".into(), true));
    assert_eq!(ask().await["error"], "invalid_grant");
    let nobody = json(post(&idp, "/device_authorization", &[("client_id", "")]).await).await;
    assert_eq!(nobody["error"], "invalid_client");
}

#[tokio::test]
async fn a_redirect_that_is_not_loopback_is_never_followed() {
    let mut pairs = params();
    pairs[2].1 = "https://evil.example/cb";
    let answer = get_form(&idp(), &pairs).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.headers().get(header::LOCATION).is_none());
}

#[tokio::test]
async fn pkce_with_s256_is_required() {
    for (at, value, error) in
        [(5, "plain", "invalid_request"), (4, "", "invalid_request"), (0, "token", "unsupported_response_type")]
    {
        let mut pairs = params();
        pairs[at].1 = value;
        assert_eq!(query(&location(&get_form(&idp(), &pairs).await), "error").as_deref(), Some(error));
    }
}

#[tokio::test]
async fn markup_in_parameters_stays_text() {
    let mut pairs = params();
    pairs[3].1 = "\"><script>x</script>";
    let answer = get_form(&idp(), &pairs).await;
    let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self' http://127.0.0.1:45678"));
    assert!(!text(answer).await.contains("<script>"));
}

#[tokio::test]
async fn a_form_of_another_site_is_refused() {
    let mut pairs = params();
    pairs.extend([("username", "alice"), ("password", "correct horse"), ("decision", "allow")]);
    let request = Request::post("/authorize")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::HOST, "192.168.100.1:4080")
        .header(header::ORIGIN, "http://evil.example")
        .body(Body::from(encoded(&pairs)))
        .unwrap();
    let answer = idp().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}
