//! The whole sign-in on a real VM with a real Firefox. The person's part is played by `e2e/sign-in.mjs` in Debian's Chromium,
//! through the noVNC canvas: it sees pixels and presses keys, nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/person.rs"]
mod person;
mod support;

use std::time::{Duration, Instant};

use airlock_protocol::Stage;
use person::{PASSWORD, sign_in};
use serde_json::{Value, json};
use support::canary::in_files;
use support::{Daemon, Wanted, assert_timeline, text};

async fn demo_daemon() -> Daemon {
    Daemon::start(&Wanted { demo_password: Some(PASSWORD), ..Wanted::default() }).await
}

#[tokio::test]
async fn a_person_signs_in_and_the_credential_is_sealed() {
    need_vms!();
    let daemon = demo_daemon().await;
    let asked = Instant::now();
    let started = daemon.start_session("u1", "demo").await;
    let id = text(&started, "sessionId").to_owned();
    let link = text(&started, "novncURL").to_owned();
    let (ok, outcome) = sign_in(&link, "sign-in", &[]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    println!("signed in after {:.1} s", asked.elapsed().as_secs_f64());
    let session = daemon.wait_for(&id, &["completed"], Duration::from_secs(20)).await;
    let vm = text(&session, "vmId").to_owned();

    // Every stage of the design, in order.
    let every: Vec<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    assert_timeline(&daemon.stages(&vm).await, &every);

    // Destroyed: DELETE waits until nothing is left, whoever began it.
    assert!((200..300).contains(&daemon.call("DELETE", &format!("/api/vms/{vm}"), None).await.0));
    daemon.at.assert_nothing_left();
    assert_eq!(daemon.session(&id).await["state"], "completed");

    // In the vault, with its own scope.
    let path = "/api/auth/credentials/u1/demo";
    let (_, token) =
        daemon.call("POST", "/api/tokens", Some(json!({"name": "starter", "scopes": ["sessions:write"]}))).await;
    let starter = text(&token, "token").to_owned();
    assert_eq!(daemon.call_as(&starter, "GET", path, None).await.0, 403);
    assert_eq!(daemon.call_as("", "GET", path, None).await.0, 401);
    let (_, token) =
        daemon.call("POST", "/api/tokens", Some(json!({"name": "reader", "scopes": ["credentials:read"]}))).await;
    let (status, credential) = daemon.call_as(text(&token, "token"), "GET", path, None).await;
    assert_eq!(status, 200, "{credential}");
    let content: Value = serde_json::from_str(text(&credential["files"][0], "content")).unwrap();
    let secret = text(&content, "access_token").to_owned();
    assert!(!secret.is_empty() && !text(&content, "refresh_token").is_empty());

    // Exported as the tool expects it.
    let to = tempfile::tempdir().unwrap();
    let dir = to.path().to_str().unwrap();
    let out = daemon.cli(&["credentials", "export", "u1", "demo", "--to", dir]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let file = to.path().join(".airlock-demo/credentials.json");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file).unwrap().contains(&secret));

    // A used link is refused, and no plaintext of token or password is left anywhere.
    let reopened = reqwest::get(&link).await.unwrap();
    assert!(reopened.status().is_client_error(), "{}", reopened.status());
    let mut found = in_files(daemon.at.state.path(), &[&secret, PASSWORD]);
    found.retain(|(path, mark)| !(*path == daemon.at.config && mark == PASSWORD));
    assert!(found.is_empty(), "plaintext left: {found:?}");
}

#[tokio::test]
async fn a_wrong_password_is_answered_by_the_page_and_costs_nothing() {
    need_vms!();
    let daemon = demo_daemon().await;
    let started = daemon.start_session("u2", "demo").await;
    let (ok, outcome) = sign_in(text(&started, "novncURL"), "wrong-password", &["--wrong-first"]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    let (status, credentials) = daemon.call("GET", "/api/auth/credentials/u2", None).await;
    assert_eq!((status, credentials["credentials"].as_array().map(Vec::len)), (200, Some(1)));
}

#[tokio::test]
async fn a_closed_browser_comes_back_and_the_sign_in_goes_on() {
    need_vms!();
    let daemon = demo_daemon().await;
    let started = daemon.start_session("u3", "demo").await;
    let (ok, outcome) = sign_in(text(&started, "novncURL"), "closed-browser", &["--close-browser"]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    let id = text(&started, "sessionId");
    assert_eq!(daemon.session(id).await["state"], "completed");
}
