//! The API as a client meets it: rights, refusals, viewer tickets, events.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use airlock_engine::records::Scope;
use axum::http::{Method, StatusCode, header};
use serde_json::{Value, json};
use support::{Answer, Api, skipped};

const SOME_ID: &str = "01234567-89ab-4def-8123-456789abcdef";

/// Method, a path with its parameters filled in, and the scope of every operation that needs one.
fn guarded() -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(airlock_server::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(scope) = operation["security"][0]["bearer"][0].as_str() else { continue };
            let path = path.replace("{id}", SOME_ID).replace("{userId}", "u").replace("{provider}", "demo");
            found.push((method.to_uppercase().parse().unwrap(), path, scope.to_owned()));
        }
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

#[tokio::test]
async fn every_operation_needs_its_scope() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (sessions, credentials) = (api.token(Scope::SessionsWrite).await, api.token(Scope::CredentialsRead).await);
    for (method, path, scope) in guarded() {
        let call = async |token: &str| {
            let bearer = format!("Bearer {token}");
            api.send(method.clone(), &path, &[("authorization", &bearer)], "").await
        };
        let none = api.send(method.clone(), &path, &[], "").await;
        assert_eq!((none.status, none.code().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{method} {path}");
        assert_eq!(none.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"airlock\"");
        assert_eq!(none.json()["error"]["requestId"].as_str(), none.headers["x-request-id"].to_str().ok());
        assert_eq!(call("airlock_wrong").await.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        for (token, holds) in [(&sessions, "sessions:write"), (&credentials, "credentials:read")] {
            let refused = call(token).await.status == StatusCode::FORBIDDEN;
            assert_eq!(refused, holds != scope, "{method} {path} with {holds}");
        }
        let admin = call(&api.admin).await.status;
        assert!(!matches!(admin, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), "{method} {path}: {admin}");
    }
}

#[tokio::test]
async fn a_revoked_token_ends_at_once() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let made = api.as_admin(Method::POST, "/api/tokens", r#"{"name":"ci","scopes":["sessions:write"]}"#).await.json();
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    assert_eq!(api.get("/api/vms", &[("authorization", &bearer)]).await.status, StatusCode::OK);
    let list = api.as_admin(Method::GET, "/api/tokens", "").await;
    assert!(list.text.contains("\"ci\"") && !list.text.contains(made["token"].as_str().unwrap()));
    let id = made["record"]["id"].as_str().unwrap();
    assert_eq!(api.as_admin(Method::DELETE, &format!("/api/tokens/{id}"), "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get("/api/vms", &[("authorization", &bearer)]).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_input_is_named_with_a_remedy() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let start = "/api/auth/start";
    let long = format!("{{\"userId\":\"{}\",\"provider\":\"demo\"}}", "a".repeat(20_000));
    let deep = format!("/api/vms/{SOME_ID}");
    let console = format!("/api/vms/{SOME_ID}/console?lines=3");
    for (method, path, body, status, code) in [
        (Method::POST, start, "{\"userId\"", 400, "malformed_json"),
        (Method::POST, start, r#"{"userId":"u","provider":"demo","image":"x"}"#, 422, "invalid_field"),
        (Method::POST, start, r#"{"userId":"u"}"#, 422, "invalid_field"),
        (Method::POST, start, r#"{"userId":"u","provider":"nope"}"#, 400, "unknown_provider"),
        (Method::POST, start, r#"{"userId":"a\nb","provider":"shell"}"#, 400, "bad_user_id"),
        (Method::POST, start, r#"{"userId":"u","provider":"demo"}"#, 503, "image_missing"),
        (Method::POST, start, &long, 413, "body_too_large"),
        (Method::POST, "/api/tokens", r#"{"name":"x","scopes":["root"]}"#, 400, "invalid_scope"),
        (Method::POST, "/api/tokens", r#"{"name":"","scopes":["admin"]}"#, 400, "invalid_token_name"),
        (Method::GET, "/api/vms/NOT-AN-ID", "", 400, "malformed_id"),
        (Method::GET, "/api/auth/session/..%2f..%2fetc", "", 400, "malformed_id"),
        (Method::GET, "/api/auth/credentials/%ff", "", 400, "malformed_path"),
        (Method::GET, &deep, "", 404, "no_vm"),
        (Method::GET, &console, "", 400, "invalid_query"),
        (Method::DELETE, "/api/tokens/x", "", 404, "no_token"),
        (Method::GET, "/api/auth/credentials/u/demo", "", 404, "no_credential"),
        (Method::GET, "/nope", "", 404, "no_such_route"),
        (Method::PUT, start, "", 405, "no_such_method"),
        (Method::GET, "/assets/nope.js", "", 404, "no_such_asset"),
    ] {
        let answer = api.as_admin(method.clone(), path, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{method} {path}: {}",
            answer.text
        );
        let error = &answer.json()["error"];
        assert!(error["remedy"].is_string() || code == "no_such_asset", "{error}");
        assert_eq!(error["requestId"].as_str(), answer.headers["x-request-id"].to_str().ok());
    }
    assert_eq!(
        api.as_admin(Method::GET, "/api/vms", "").await.json(),
        json!({"vms": []}),
        "a refusal leaves nothing behind"
    );
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_session() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let bearer = format!("Bearer {}", api.admin);
    let start = async |key: &str| {
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
        let answer = api.send(Method::POST, "/api/auth/start", &headers, r#"{"userId":"u","provider":"shell"}"#).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["sessionId"].clone()
    };
    assert_eq!(start("k1").await, start("k1").await);
    assert_ne!(start("k1").await, start("k2").await);
}

/// Events of a stream that ended: names and bodies.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
    };
    answer
        .text
        .split("\n\n")
        .filter_map(|block| Some((field(block, "event:")?, serde_json::from_str(&field(block, "data:")?).unwrap())))
        .collect()
}

#[tokio::test]
async fn events_tell_the_whole_story_and_end_with_the_final_state() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (id, _) = api.start("u").await;
    let path = format!("/api/auth/session/{id}/events");
    // The first reader follows it live, the second comes when it is over.
    for _ in 0..2 {
        let answer = api.as_admin(Method::GET, &path, "").await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream");
        let events = events(&answer);
        let (name, last) = events.last().unwrap();
        assert_eq!((name.as_str(), &last["state"]), ("state", &json!("failed")), "{events:?}");
        assert!(
            last["error"]["cause"].is_string() && last["remedy"].is_string() && last["evidenceId"].is_string(),
            "{last}"
        );
        let stages: Vec<_> =
            events.iter().filter(|(name, _)| name == "stage").map(|(_, stage)| &stage["stage"]).collect();
        assert_eq!(stages[..2], [&json!("planned"), &json!("leased")], "{events:?}");
        let finals = events.iter().filter(|(name, body)| name == "state" && body["state"] == "failed");
        assert_eq!(finals.count(), 1);
    }
    let timeline = api.as_admin(Method::GET, &format!("/api/auth/session/{id}/timeline"), "").await.json();
    assert_eq!(timeline["stages"][0]["stage"], "planned");
}

#[tokio::test]
async fn a_ticket_opens_its_session_once_in_one_browser() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let ((id, link), (other, other_link)) = (api.start("u").await, api.start("v").await);
    let page = format!("/api/auth/session/{id}/novnc");

    // A link checker does not use it up, a ticket of another session opens nothing.
    assert_eq!(api.send(Method::HEAD, &link, &[], "").await.status, StatusCode::OK);
    let foreign = format!("{page}?{}", other_link.split_once('?').unwrap().1);
    assert_eq!(api.get(&foreign, &[]).await.status, StatusCode::FORBIDDEN);

    let opened = api.get(&link, &[]).await;
    assert_eq!(
        (opened.status, opened.headers[header::LOCATION].to_str().unwrap()),
        (StatusCode::SEE_OTHER, page.as_str())
    );
    let set = opened.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(
        set.contains("HttpOnly; SameSite=Strict") && set.contains(&format!("Path=/api/auth/session/{id};")),
        "{set}"
    );
    let cookie = set.split(';').next().unwrap().to_owned();
    let with = [("cookie", cookie.as_str())];

    let again = api.get(&link, &[]).await;
    assert_eq!(again.status, StatusCode::FORBIDDEN);
    assert!(again.text.contains("no longer valid") && again.headers.get(header::SET_COOKIE).is_none());
    assert_eq!(api.get(&link, &with).await.status, StatusCode::SEE_OTHER, "the same browser may open its link again");

    let shown = api.get(&page, &with).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.text.contains("/assets/viewer.js"));
    assert!(shown.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self';"));
    assert_eq!(api.get(&page, &[]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(
        api.get(&page, &[("sec-fetch-site", "cross-site")]).await.status,
        StatusCode::OK,
        "asked again by our own page"
    );

    // The cookie is good for this session's viewer routes and for nothing else.
    assert_eq!(api.get(&format!("/api/auth/session/{id}"), &with).await.json()["sessionId"], json!(id));
    assert_eq!(api.get(&format!("/api/auth/session/{other}"), &with).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(api.get("/api/vms", &with).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_viewer_acts_only_from_our_own_page() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (id, link) = api.start("u").await;
    let set = api.get(&link, &[]).await.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    let cookie = set.split(';').next().unwrap().to_owned();
    let cancel = format!("/api/auth/session/{id}/cancel");
    for origin in ["http://evil.example", "null", "http://127.0.0.1:4001"] {
        let answer = api.send(Method::POST, &cancel, &[("cookie", &cookie), ("origin", origin)], "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
        let upgrade =
            [("cookie", cookie.as_str()), ("origin", origin), ("upgrade", "websocket"), ("connection", "upgrade")];
        assert_eq!(
            api.get(&format!("/api/auth/session/{id}/vnc"), &upgrade).await.status,
            StatusCode::FORBIDDEN,
            "{origin}"
        );
    }
    assert_eq!(api.send(Method::POST, &cancel, &[("cookie", &cookie)], "").await.status, StatusCode::FORBIDDEN);
    let own = [("cookie", cookie.as_str()), ("origin", "http://127.0.0.1:4000")];
    let answer = api.send(Method::POST, &cancel, &own, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert!(matches!(answer.json()["state"].as_str(), Some("cancelled" | "failed")), "{}", answer.text);
    let plain = api.as_admin(Method::GET, &format!("/api/auth/session/{id}/vnc"), "").await;
    assert_eq!((plain.status.is_client_error(), plain.code().as_str()), (true, "not_a_websocket"));
}

#[tokio::test]
async fn a_second_link_opens_the_same_session_for_a_second_browser() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (id, first) = api.start("u").await;
    let made = api.as_admin(Method::POST, &format!("/api/auth/session/{id}/ticket"), "").await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let made = made.json();
    let second = made["novncURL"].as_str().unwrap().strip_prefix("http://127.0.0.1:4000").unwrap().to_owned();
    let left =
        made["expiresAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().duration_since(jiff::Timestamp::now());
    assert!((590..=600).contains(&left.as_secs()), "{left:?}");
    let seen = [api.open_link(&first).await.unwrap(), api.open_link(&second).await.unwrap()];
    assert_ne!(seen[0], seen[1], "each browser has a cookie of its own");
    for cookie in &seen {
        let answer = api.get(&format!("/api/auth/session/{id}"), &[("cookie", cookie)]).await;
        assert_eq!(answer.json()["sessionId"], json!(id));
        // A viewer cannot hand its place on.
        let origin = ("origin", "http://127.0.0.1:4000");
        let path = format!("/api/auth/session/{id}/ticket");
        let refused = api.send(Method::POST, &path, &[("cookie", cookie), origin], "").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    }
    let missing = api.as_admin(Method::POST, &format!("/api/auth/session/{SOME_ID}/ticket"), "").await;
    assert_eq!((missing.status, missing.code().as_str()), (StatusCode::NOT_FOUND, "no_session"));
}

#[tokio::test]
async fn a_ticket_expires() {
    if skipped().is_some() {
        return;
    }
    // The shortest that the configuration allows is too long for a test to wait for, and no clock is turned here: the record's is.
    let api = Api::open().await;
    let (id, link) = api.start("u").await;
    api.expire_viewer_secrets().await;
    let answer = api.get(&link, &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.headers.get(header::SET_COOKIE).is_none());
    // And so does a cookie.
    let made = api.as_admin(Method::POST, &format!("/api/auth/session/{id}/ticket"), "").await.json();
    let link = made["novncURL"].as_str().unwrap().strip_prefix("http://127.0.0.1:4000").unwrap().to_owned();
    let cookie = api.open_link(&link).await.unwrap();
    let show = async || api.get(&format!("/api/auth/session/{id}"), &[("cookie", &cookie)]).await.status;
    assert_eq!(show().await, StatusCode::OK);
    api.expire_viewer_secrets().await;
    assert_eq!(show().await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_ticket_counts_for_its_user_only() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let ((id, link), ticket_of) = (api.start("u").await, |link: &str| link.split_once('?').unwrap().1.to_owned());
    // Another session of another user, and the record of the first ticket turned to it: the ticket's own binding still refuses.
    let (other, _) = api.start("v").await;
    api.move_viewer_secrets(&id, &other).await;
    let foreign = format!("/api/auth/session/{other}/novnc?{}", ticket_of(&link));
    assert_eq!(api.get(&foreign, &[]).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_a_viewer_asks_for_by_its_cookie() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (id, link) = api.start("u").await;
    let cookie = api.open_link(&link).await.unwrap();
    let base = format!("/api/auth/session/{id}");
    let with = [("cookie", cookie.as_str())];
    // The image has no kernel: it fails at once, and the stream ends with that.
    let events = events(&api.get(&format!("{base}/events"), &with).await);
    let last = &events.last().unwrap().1;
    assert_eq!(
        (last["state"].as_str(), last["providerName"].as_str()),
        (Some("failed"), Some("Bare machine")),
        "{last}"
    );
    assert!(last["error"].get("consoleEnd").is_none() && last["moreTime"] == json!(false), "{last}");
    let session = api.get(&base, &with).await.json();
    assert_eq!((&session["cause"], &session["evidenceId"]), (&last["cause"], &last["evidenceId"]));
    assert_eq!(api.get(&format!("{base}/timeline"), &with).await.json()["stages"][0]["stage"], "planned");

    let verdict = api.get(&format!("{base}/diagnosis"), &with).await.json();
    assert_eq!((&verdict["verdict"], &verdict["sessionId"]), (&session["cause"], &json!(id)), "{verdict}");
    assert!(
        verdict["summary"].as_str().is_some_and(|text| text.len() > 10) && verdict["remedy"].is_string(),
        "{verdict}"
    );
    assert_eq!((&verdict["evidenceId"], &verdict["evidence"]), (&session["evidenceId"], &json!([])), "{verdict}");
    let full = api.as_admin(Method::GET, &format!("{base}/diagnosis"), "").await.json();
    assert!(full["evidence"].as_array().is_some_and(|seen| !seen.is_empty()), "{full}");

    // What acts needs our own page; without an origin it is no page at all.
    let beat = format!("{base}/heartbeat");
    for origin in [None, Some("http://evil.example"), Some("null")] {
        let mut headers = with.to_vec();
        headers.extend(origin.map(|origin| ("origin", origin)));
        assert_eq!(api.send(Method::POST, &beat, &headers, "").await.status, StatusCode::FORBIDDEN, "{origin:?}");
    }
    let own = [with[0], ("origin", "http://127.0.0.1:4000")];
    let over = api.send(Method::POST, &beat, &own, "").await;
    assert_eq!((over.status, over.code().as_str()), (StatusCode::CONFLICT, "session_ended"), "{}", over.text);
}

#[tokio::test]
async fn the_operator_page_is_public_and_has_no_data() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    api.start("somebody-in-particular").await;
    let home = api.get("/", &[]).await;
    assert_eq!((home.status, home.headers[header::LOCATION].to_str().unwrap()), (StatusCode::SEE_OTHER, "/operator"));
    let page = api.get("/operator", &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.text.contains("somebody-in-particular") && !page.text.contains(&api.admin));
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(
        policy.contains("script-src 'self';") && policy.contains("style-src 'self';") && !policy.contains("unsafe")
    );
    assert!(page.headers.get(header::SET_COOKIE).is_none());
    for (name, kind) in [
        ("operator.js", "text/javascript; charset=utf-8"),
        ("operator.css", "text/css; charset=utf-8"),
        ("notice.css", "text/css; charset=utf-8"),
    ] {
        let asset = api.get(&format!("/assets/{name}"), &[]).await;
        assert_eq!(
            (asset.status, asset.headers[header::CONTENT_TYPE].to_str().unwrap()),
            (StatusCode::OK, kind),
            "{name}"
        );
        assert!(!asset.text.is_empty());
    }
}

#[tokio::test]
async fn health_says_what_is_missing() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    assert_eq!(api.get("/health", &[]).await.json()["status"], "ok");
    let ready = api.get("/api/auth/health", &[]).await;
    assert_eq!((ready.status, &ready.json()["dependencies"]["images"]), (StatusCode::OK, &json!(true)));
    let document = api.get("/openapi.json", &[]).await.json();
    assert!(document["paths"]["/api/auth/start"]["post"].is_object());
}
