//! Evidence bundles as a client meets them: a boot that failed leaves one, it is shown, exported, removed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Read;

use airlock_engine::records::Scope;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use support::{Api, skipped};
use tower::ServiceExt;

const UNKNOWN: &str = "ev-01234567-89ab-4def-8123-456789abcdef";

/// A session whose machine failed and is gone: the view of the session.
async fn failed(api: &Api) -> Value {
    let (id, _) = api.start("u").await;
    // The stream ends with the session.
    api.as_admin(Method::GET, &format!("/api/auth/session/{id}/events"), "").await;
    let session = api.as_admin(Method::GET, &format!("/api/auth/session/{id}"), "").await.json();
    let vm = format!("/api/vms/{}", session["vmId"].as_str().unwrap());
    assert_eq!(api.as_admin(Method::DELETE, &vm, "").await.status, StatusCode::NO_CONTENT);
    session
}

/// An answer that is no text.
async fn bytes(api: &Api, path: &str) -> (HeaderMap, Bytes) {
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, "127.0.0.1:4000")
        .header(header::AUTHORIZATION, format!("Bearer {}", api.admin));
    let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (parts, body) = response.into_parts();
    (parts.headers, to_bytes(body, 1 << 24).await.unwrap())
}

#[tokio::test]
async fn a_failed_boot_leaves_a_bundle_that_is_shown_exported_and_removed() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let none = api.as_admin(Method::GET, "/api/evidence", "").await;
    assert_eq!(none.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(none.json(), json!({"evidence": [], "sizeBytes": 0}));
    let session = failed(&api).await;
    let id = session["evidenceId"].as_str().unwrap();
    let path = format!("/api/evidence/{id}");

    let list = api.as_admin(Method::GET, "/api/evidence", "").await.json();
    let view = &list["evidence"][0];
    for (name, of_session) in [("id", "evidenceId"), ("vmId", "vmId"), ("cause", "cause"), ("stage", "stage")] {
        assert_eq!(view[name], session[of_session], "{name}: {view}");
    }
    assert_eq!(list["evidence"].as_array().unwrap().len(), 1);
    assert!(view["sizeBytes"].as_u64().unwrap() > 0 && view["ageS"].as_u64().unwrap() < 60, "{view}");

    let detail = api.as_admin(Method::GET, &path, "").await.json();
    assert_eq!((&detail["evidence"]["id"], &detail["remedy"]), (&session["evidenceId"], &session["remedy"]));
    assert_eq!(detail["stages"][0]["stage"], "planned");
    let names: Vec<&str> =
        detail["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["failure.json", "diagnosis.json", "timeline.json"], "{detail}");

    // The verdict of the moment is kept with it, and counted.
    let vm = view["vmId"].as_str().unwrap();
    let verdict = api.as_admin(Method::GET, &format!("/api/vms/{vm}/diagnosis"), "").await.json();
    assert_eq!((&verdict["verdict"], &verdict["stage"]), (&session["cause"], &session["stage"]), "{verdict}");
    assert_eq!(verdict["remedy"], session["remedy"]);
    assert!(verdict["evidence"][0]["text"].as_str().unwrap().contains("kernel too old"), "{verdict}");
    let metrics = String::from_utf8(bytes(&api, "/metrics").await.1.to_vec()).unwrap();
    let counted = format!("airlock_vm_failures_total{{cause={}}} 1", session["cause"]);
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");

    let (headers, archive) = bytes(&api, &format!("{path}/export")).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/gzip");
    assert_eq!(headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{id}.tar.gz\""));
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(&archive[..])).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    assert!(names.iter().all(|name| files.contains_key(&format!("{id}/{name}"))), "{:?}", files.keys());
    let failure: Value = serde_json::from_str(&files[&format!("{id}/failure.json")]).unwrap();
    assert_eq!((&failure["cause"], &failure["evidence_id"]), (&session["cause"], &session["evidenceId"]));
    assert_eq!(bytes(&api, &format!("{path}/export")).await.1, archive, "the same bytes every time");

    assert_eq!(api.as_admin(Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
    for (method, path) in [(Method::GET, path.clone()), (Method::GET, format!("{path}/export")), (Method::DELETE, path)]
    {
        let answer = api.as_admin(method, &path, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "no_evidence"), "{path}");
        assert!(answer.text.contains(id) && answer.json()["error"]["remedy"].is_string(), "{}", answer.text);
    }
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_before_anything_is_touched() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let outside = api.engine.config().state_dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    for id in ["..%2foutside", "..", ".%2e", "ev-x", "ev-..%2foutside", &UNKNOWN[3..], &UNKNOWN.to_uppercase(), "%00"] {
        for (method, path) in [
            (Method::GET, format!("/api/evidence/{id}")),
            (Method::GET, format!("/api/evidence/{id}/export")),
            (Method::DELETE, format!("/api/evidence/{id}")),
        ] {
            let answer = api.as_admin(method, &path, "").await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "malformed_id"), "{path}");
        }
    }
    assert!(outside.exists());
    let unknown = api.as_admin(Method::DELETE, &format!("/api/evidence/{UNKNOWN}"), "").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (StatusCode::NOT_FOUND, "no_evidence"));
}

#[tokio::test]
async fn evidence_needs_the_scope_admin() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    for scope in [Scope::SessionsWrite, Scope::CredentialsRead] {
        let bearer = format!("Bearer {}", api.token(scope).await);
        for path in ["/api/evidence", &format!("/api/evidence/{UNKNOWN}"), &format!("/api/evidence/{UNKNOWN}/export")] {
            assert_eq!(api.get(path, &[("authorization", &bearer)]).await.status, StatusCode::FORBIDDEN, "{path}");
        }
    }
}
