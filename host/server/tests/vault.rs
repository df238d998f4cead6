//! The vault through the API: leases with fences, write-back, rotation while serving, the audit log, receipts; and two users of one
//! provider who never see anything of each other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use airlock_engine::audit::{Entry, PublicKey, verify, verify_entry};
use airlock_engine::records::Scope;
use axum::http::{Method, StatusCode, header};
use serde_json::{Value, json};
use support::{Api, skipped};

const CREDENTIAL: &str = "/api/auth/credentials/u1/demo";

fn written(version: i64, fence: i64, content: &str) -> Value {
    json!({"version": version, "fence": fence, "files": [{"path": ".tool/c.json", "mode": 384, "content": content}],
        "expiresAt": "2030-01-01T00:00:00Z"})
}

#[tokio::test]
async fn two_that_refresh_are_told_apart_by_their_fences() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (read, write) = (api.token(Scope::CredentialsRead).await, api.token(Scope::CredentialsWrite).await);
    let lease = async |path: &str, body: Value| {
        let answer = api.as_token(&write, Method::POST, &format!("{CREDENTIAL}/lease{path}"), &body).await;
        (answer.status.as_u16(), if answer.text.is_empty() { Value::Null } else { answer.json() })
    };
    let put = async |body: Value| {
        let answer = api.as_token(&write, Method::PUT, CREDENTIAL, &body).await;
        (answer.status.as_u16(), answer.json())
    };
    let grant = |holder: &str| json!({"holder": holder, "ttlS": 60});
    assert_eq!(lease("", grant("a")).await.1["error"]["code"], "no_credential");
    api.capture("u1", "demo", "first").await;
    let (status, granted) = lease("", grant("a")).await;
    assert_eq!((status, &granted), (200, &json!({"fence": 1, "version": 1, "holder": "a", "ttlS": 60})));
    let (status, held) = lease("", grant("b")).await;
    assert_eq!((status, &held["error"]["code"]), (409, &json!("lease_held")));
    assert!(held["error"]["message"].as_str().unwrap().contains("\"a\"") && held["error"]["remedy"].is_string());
    assert_eq!(lease("/renew", json!({"fence": 1, "ttlS": 30})).await.0, 200);
    // The right to write is not the right to read, nor the other way round.
    assert_eq!(api.as_token(&write, Method::GET, CREDENTIAL, &Value::Null).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.as_token(&read, Method::PUT, CREDENTIAL, &written(1, 1, "x")).await.status, StatusCode::FORBIDDEN);
    let (status, view) = put(written(1, 1, "second")).await;
    assert_eq!((status, &view["version"], &view["expiresAt"]), (200, &json!(2), &json!("2030-01-01T00:00:00Z")));
    assert!(!view.to_string().contains("second"));
    let (status, changed) = put(written(1, 1, "third")).await;
    assert_eq!((status, &changed["error"]["code"]), (409, &json!("credential_changed")));
    assert!(changed["error"]["message"].as_str().unwrap().contains("version 2"));
    assert_eq!(lease("/release", json!({"fence": 1})).await.0, 204);
    assert_eq!(lease("", grant("b")).await.1["fence"], 2);
    for (body, code) in [
        (written(2, 1, "stale"), "stale_fence"),
        (json!({"version": 2, "fence": 2, "files": []}), "other_files"),
        (json!({"version": 2, "fence": 2, "files": [], "expiresAt": "soon"}), "bad_time"),
    ] {
        let (status, refused) = put(body).await;
        assert!((400..410).contains(&status));
        assert_eq!(refused["error"]["code"], code);
    }
    for (body, code) in
        [(json!({"holder": "", "ttlS": 1}), "bad_holder"), (json!({"holder": "c", "ttlS": 0}), "bad_lease_time")]
    {
        assert_eq!(lease("", body).await.1["error"]["code"], code);
    }
    let content = api.as_token(&read, Method::GET, CREDENTIAL, &Value::Null).await.json();
    assert_eq!((&content["files"][0]["content"], &content["credential"]["version"]), (&json!("second"), &json!(2)));
    // As large as a credential may be, which is larger than any other body.
    let large = "x".repeat(500_000);
    assert_eq!(put(written(2, 2, &large)).await.0, 200);
    assert_eq!(put(written(3, 2, &"x".repeat(1_100_000))).await.0, 413);
}

fn entries(log: &Value) -> Vec<Entry> {
    serde_json::from_value(log["entries"].clone()).unwrap()
}

fn keys(log: &Value) -> Vec<PublicKey> {
    serde_json::from_value(log["keys"].clone()).unwrap()
}

#[tokio::test]
async fn everything_done_with_secrets_is_in_a_chain_that_anybody_can_check() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let token = api.token(Scope::CredentialsRead).await;
    api.capture("u1", "demo", "canary-content").await;
    for uri in [CREDENTIAL.to_owned(), format!("{CREDENTIAL}?purpose=export")] {
        assert_eq!(api.as_token(&token, Method::GET, &uri, &Value::Null).await.status, StatusCode::OK);
    }
    assert_eq!(api.as_admin(Method::DELETE, CREDENTIAL, "").await.status, StatusCode::NO_CONTENT);
    let made = api.as_admin(Method::POST, "/api/tokens", r#"{"name":"ci","scopes":["admin"]}"#).await.json();
    let id = made["record"]["id"].as_str().unwrap();
    assert_eq!(api.as_admin(Method::DELETE, &format!("/api/tokens/{id}"), "").await.status, StatusCode::NO_CONTENT);
    let log = api.as_admin(Method::GET, "/api/audit", "").await;
    let actions: Vec<_> = entries(&log.json()).into_iter().map(|entry| entry.action).collect();
    let expected = [
        "token_created",
        "token_created",
        "credential_read",
        "credential_exported",
        "credential_deleted",
        "token_created",
        "token_revoked",
    ];
    assert_eq!(actions, expected);
    let log_json = log.json();
    let verifier = verify(&entries(&log_json), &keys(&log_json)).unwrap();
    let (seq, hash) = verifier.heads().values().next().unwrap();
    assert_eq!(log_json["head"], json!({"seq": seq, "hash": hash}));
    for secret in ["canary-content", made["token"].as_str().unwrap(), &token, &api.admin] {
        assert!(!log.text.contains(secret), "a secret is in the log");
    }
    // In pages, and filtered.
    let page = api.as_admin(Method::GET, "/api/audit?after=2&limit=2", "").await.json();
    assert_eq!(entries(&page).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4]);
    let about = api.as_admin(Method::GET, "/api/audit?subject=u1%2Fdemo&action=credential_read", "").await.json();
    assert_eq!(entries(&about).len(), 1);
    let actor = api.as_token(&token, Method::GET, "/api/audit", &Value::Null).await;
    assert_eq!(actor.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_rotation_is_served_through_and_its_former_key_goes_when_nothing_needs_it() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    for n in 0..20 {
        api.capture(&format!("u{n}"), "demo", &format!("secret {n}")).await;
    }
    let reads = async {
        for n in (0..20).cycle().take(100) {
            let content = api.as_admin(Method::GET, &format!("/api/auth/credentials/u{n}/demo"), "").await.json();
            assert_eq!(content["files"][0]["content"], format!("secret {n}"));
        }
    };
    let rotations = async {
        let mut last = Value::Null;
        for _ in 0..3 {
            let done = api.as_admin(Method::POST, "/api/vault/rotate", "").await;
            assert_eq!(done.status, StatusCode::OK, "{}", done.text);
            last = done.json();
            assert_eq!((&last["rewrapped"], &last["failed"]), (&json!(20), &json!(0)));
        }
        last
    };
    let ((), last) = tokio::join!(reads, rotations);
    let status = api.as_admin(Method::GET, "/api/vault", "").await.json();
    let keys = status["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["id"], &keys[0]["credentials"]), (4, &last["to"], &json!(20)));
    assert!(keys[1..].iter().all(|key| key["removable"] == true && key["credentials"] == 0), "{status}");
    let forget = async |id: &Value| {
        let path = format!("/api/vault/keys/{}", id.as_str().unwrap());
        let answer = api.as_admin(Method::DELETE, &path, "").await;
        (answer.status.as_u16(), if answer.text.is_empty() { String::new() } else { answer.code() })
    };
    assert_eq!(forget(&last["to"]).await, (409, "vault_key_active".into()));
    assert_eq!(forget(&last["from"]).await, (204, String::new()));
    assert_eq!(forget(&last["from"]).await, (404, "no_vault_key".into()));
    let key = std::fs::read(api.state_dir().join("vault.key")).unwrap();
    let shown = format!("{status}{}", api.as_admin(Method::GET, "/api/audit", "").await.text);
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!shown.contains(&digits));
}

#[tokio::test]
async fn a_machine_that_is_gone_has_a_receipt() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let (id, _) = api.start("u1").await;
    let path = format!("/api/auth/session/{id}/receipt");
    assert_eq!(api.as_admin(Method::GET, &path, "").await.code(), "no_receipt");
    // Its kernel is none: it fails. The stream ends with it, DELETE returns when nothing is left.
    api.as_admin(Method::GET, &format!("/api/auth/session/{id}/events"), "").await;
    let vm = api.as_admin(Method::GET, &format!("/api/auth/session/{id}"), "").await.json()["vmId"].clone();
    api.as_admin(Method::DELETE, &format!("/api/vms/{}", vm.as_str().unwrap()), "").await;
    let receipt = api.as_admin(Method::GET, &path, "").await.json();
    let entry: Entry = serde_json::from_value(receipt["entry"].clone()).unwrap();
    let key: PublicKey = serde_json::from_value(receipt["key"].clone()).unwrap();
    verify_entry(&entry, &[key]).unwrap();
    let detail: Value = serde_json::from_str(&entry.detail).unwrap();
    assert_eq!((&entry.subject, &detail["vm"], &detail["left"]), (&id, &vm, &json!([])));
    for thing in ["process", "tap", "guard", "directory", "lease"] {
        assert!(detail["removed"][thing].is_object(), "{thing}: {detail}");
    }
}

/// No word of a page or a log looks like them.
const ANN: &str = "ann-x4711";
const BOB: &str = "bob-x4712";

fn credentials(user: &str) -> String {
    format!("/api/auth/credentials/{user}")
}

/// What one user may see, gathered: every answer that is about them.
async fn everything_of(api: &Api, user: &str, session: &str, cookie: &str) -> String {
    let mut seen = String::new();
    for uri in [
        format!("/api/auth/sessions/{user}"),
        format!("/api/auth/credentials/{user}"),
        format!("/api/auth/credentials/{user}/demo"),
        format!("/api/auth/session/{session}"),
        format!("/api/auth/session/{session}/timeline"),
        format!("/api/auth/session/{session}/events"),
    ] {
        let answer = api.as_admin(Method::GET, &uri, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", answer.text);
        seen.push_str(&answer.text);
    }
    for uri in [format!("/api/auth/session/{session}"), format!("/api/auth/session/{session}/novnc")] {
        let answer = api.get(&uri, &[("cookie", cookie)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}");
        seen.push_str(&answer.text);
    }
    seen
}

#[tokio::test]
async fn two_users_of_one_provider_see_nothing_of_each_other() {
    if skipped().is_some() {
        return;
    }
    let api = Api::open().await;
    let life = async |user: &str| {
        let bearer = format!("Bearer {}", api.admin);
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", "the-same")];
        let body = json!({"userId": user, "provider": "shell"}).to_string();
        let started = api.send(Method::POST, "/api/auth/start", &headers, &body).await.json();
        let session = started["sessionId"].as_str().unwrap().to_owned();
        let link = started["novncURL"].as_str().unwrap().strip_prefix("http://127.0.0.1:4000").unwrap().to_owned();
        api.capture(user, "demo", &format!("canary of {user}")).await;
        let opened = api.get(&link, &[]).await;
        let set = opened.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
        let cookie = set.split(';').next().unwrap().to_owned();
        let seen = everything_of(&api, user, &session, &cookie).await;
        (session, link, cookie, seen)
    };
    let (ann, bob) = tokio::join!(life(ANN), life(BOB));
    assert_ne!(ann.0, bob.0, "the same idempotency key of another user is another start");
    for ((own, own_name), (other, other_name)) in [((&ann, ANN), (&bob, BOB)), ((&bob, BOB), (&ann, ANN))] {
        let (session, link, cookie, _) = other;
        assert!(own.3.contains(&format!("canary of {own_name}")), "what is there is seen");
        for foreign in [&format!("canary of {other_name}"), session, &other_name.to_owned()] {
            assert!(!own.3.contains(foreign.as_str()), "{own_name} sees {foreign:?}");
        }
        // A cookie and a ticket open one's own session and nothing else.
        for path in ["", "/timeline", "/events", "/receipt", "/novnc"] {
            let uri = format!("/api/auth/session/{session}{path}");
            let answer = api.get(&uri, &[("cookie", &own.2)]).await;
            assert!(answer.status.is_client_error(), "{uri} answers {} to a foreign cookie", answer.status);
            assert!(!answer.text.contains(session.as_str()), "{uri}");
        }
        let acts = [("cookie", own.2.as_str()), ("origin", "http://127.0.0.1:4000")];
        for path in ["/cancel", "/heartbeat"] {
            let uri = format!("/api/auth/session/{session}{path}");
            assert_eq!(api.send(Method::POST, &uri, &acts, "").await.status, StatusCode::UNAUTHORIZED, "{uri}");
        }
        let ticket = link.split_once('?').unwrap().1;
        let swapped = format!("/api/auth/session/{}/novnc?{ticket}", own.0);
        assert_eq!(api.get(&swapped, &[]).await.status, StatusCode::FORBIDDEN);
        assert_eq!(api.get(&credentials(own_name), &[("cookie", cookie)]).await.status, StatusCode::UNAUTHORIZED);
    }
    // Deleting one's credential leaves the other's.
    assert_eq!(
        api.as_admin(Method::DELETE, &format!("{}/demo", credentials(ANN)), "").await.status,
        StatusCode::NO_CONTENT
    );
    let kept = api.as_admin(Method::GET, &format!("{}/demo", credentials(BOB)), "").await.json();
    assert_eq!(kept["files"][0]["content"], format!("canary of {BOB}"));
}
