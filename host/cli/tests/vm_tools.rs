//! The real tools in real VMs, against stand-ins of their vendors: up to their URL or user code, their typed outcomes, and whole sign-ins
//! where the stand-in can play the vendor's part. One machine at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/person.rs"]
mod person;
mod support;
#[path = "support/vendors.rs"]
mod vendors;

use std::time::{Duration, Instant};

use person::sign_in;
use serde_json::{Value, json};
use support::{Daemon, Wanted, text};
use vendors::{IMAGE, Vendors};

/// Boot, browser and the tool's own start, on an emulated CPU that others use too.
const ASKS_WITHIN: Duration = Duration::from_secs(180);
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// One session of one tool.
struct Login {
    vendors: Vendors,
    daemon: Daemon,
    id: String,
    link: String,
}

impl Login {
    async fn start(provider: &str, modes: &[&str]) -> Self {
        let vendors = Vendors::start(modes);
        let config = vendors.config(&[provider]);
        let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;
        let started = daemon.start_session("u1", provider).await;
        let (id, link) = (text(&started, "sessionId").to_owned(), text(&started, "novncURL").to_owned());
        Self { vendors, daemon, id, link }
    }

    fn path(&self, what: &str) -> String {
        format!("/api/auth/session/{}/{what}", self.id)
    }

    /// Looks until the session is as `wanted`; ends the test with the log when it is over before, or not in time.
    async fn until(&self, what: &str, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + deadline;
        loop {
            let session = self.daemon.session(&self.id).await;
            if wanted(&session) {
                return session;
            }
            let over = session["endedAt"].is_string() || Instant::now() > end;
            assert!(!over, "not {what} within {deadline:?}: {session}\n{}", self.daemon.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The page, and the user code if there is one.
    async fn asks(&self) -> Value {
        self.until("waiting for the person", ASKS_WITHIN, |session| session["state"] == "awaiting_user").await;
        let (status, page) = self.daemon.call("GET", &self.path("oauth-url"), None).await;
        assert_eq!(status, 200, "{page}");
        page
    }

    async fn enters(&self, code: &str) {
        let waits = |session: &Value| session["login"]["codeWanted"] == true;
        self.until("asking for the code", ANSWERS_WITHIN, waits).await;
        let (status, answer) = self.daemon.call("POST", &self.path("code"), Some(json!({ "code": code }))).await;
        assert!((200..300).contains(&status), "{status} {answer}");
    }

    /// The tool says by itself how it ended.
    async fn has_outcome(&self, outcome: &str) {
        let it = |session: &Value| session["login"]["outcome"] == outcome;
        self.until(outcome, ASKS_WITHIN, it).await;
    }

    async fn completes(&self) {
        let it = |session: &Value| session["state"] == "completed";
        self.until("completed", ANSWERS_WITHIN, it).await;
    }

    /// The captured file, as the vault has it.
    async fn captured(&self, provider: &str, path: &str) -> String {
        let (status, credential) = self.daemon.call("GET", &format!("/api/auth/credentials/u1/{provider}"), None).await;
        assert_eq!(status, 200, "{credential}");
        let files = credential["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("no {path}"));
        text(file, "content").to_owned()
    }

    /// Ends the session; nothing of its machine and no credential is there afterwards.
    async fn cancelled(self) {
        let (status, answer) = self.daemon.call("POST", &self.path("cancel"), None).await;
        assert!((200..300).contains(&status), "{answer}");
        assert_eq!(self.daemon.session(&self.id).await["state"], "cancelled");
        let (_, credentials) = self.daemon.call("GET", "/api/auth/credentials/u1", None).await;
        assert_eq!(credentials["credentials"].as_array().map(Vec::len), Some(0));
        self.daemon.at.assert_nothing_left();
    }
}

#[tokio::test]
async fn gh_shows_its_code_and_a_person_signs_in_at_the_vendor() {
    need_vms!();
    let login = Login::start("gh", &[]).await;
    let page = login.asks().await;
    assert_eq!((text(&page, "flow"), text(&page, "userCode")), ("device_code", "WDJB-MJHT"));
    assert_eq!(text(&page, "url"), "https://github.com/login/device");
    let (ok, outcome) = sign_in(&login.link, "gh", &[]);
    assert!(ok, "{outcome}\n{}", login.daemon.log());
    let hosts = login.captured("gh", ".config/gh/hosts.yml").await;
    assert!(hosts.contains("oauth_token: gho_") && hosts.contains("user: alice"));
}

#[tokio::test]
async fn gh_names_a_consent_that_was_denied() {
    need_vms!();
    let login = Login::start("gh", &["--github", "denied"]).await;
    login.has_outcome("denied").await;
    login.cancelled().await;
}

#[tokio::test]
async fn gh_names_a_code_that_expired() {
    need_vms!();
    let login = Login::start("gh", &["--github", "expired"]).await;
    login.has_outcome("expired").await;
    login.cancelled().await;
}

#[tokio::test]
async fn gh_without_a_way_out_says_so() {
    need_vms!();
    let config = format!("provider_images = {{ gh = \"{IMAGE}\" }}\n");
    let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;
    let started = daemon.start_session("u1", "gh").await;
    let session = format!("/api/auth/session/{}", text(&started, "sessionId"));
    let end = Instant::now() + ASKS_WITHIN;
    loop {
        let (_, view) = daemon.call("GET", &session, None).await;
        if view["login"]["outcome"] == "no_egress" {
            break;
        }
        assert!(Instant::now() < end && !view["endedAt"].is_string(), "{view}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn claude_refuses_codes_and_signs_in_at_its_page_in_the_same_machine() {
    need_vms!();
    let login = Login::start("claude_code", &[]).await;
    let page = login.asks().await;
    assert_eq!(text(&page, "flow"), "paste_code");
    assert!(text(&page, "url").starts_with("https://claude.ai/oauth/authorize?"));
    // The first does not look like one, and it asks again; the other is one that the vendor never gave out, and it ends.
    login.enters("no-such-code").await;
    login.enters("made-up#code").await;
    login.has_outcome("invalid_code").await;
    let machine = login.daemon.session(&login.id).await["vmId"].clone();

    let (status, answer) = login.daemon.call("POST", &login.path("retry"), Some(json!({ "flow": "loopback" }))).await;
    assert!((200..300).contains(&status), "{status} {answer}");
    let (ok, outcome) = sign_in(&login.link, "claude", &[]);
    assert!(ok, "{outcome}\n{}", login.daemon.log());
    let session = login.daemon.session(&login.id).await;
    assert_eq!((&session["state"], &session["vmId"]), (&json!("completed"), &machine));
    let file: Value = serde_json::from_str(&login.captured("claude_code", ".claude/.credentials.json").await).unwrap();
    assert!(text(&file["claudeAiOauth"], "accessToken").starts_with("sk-ant-oat01-"));
}

#[tokio::test]
async fn gemini_shows_its_page_and_takes_its_code() {
    need_vms!();
    let login = Login::start("gemini_cli", &[]).await;
    let page = login.asks().await;
    assert!(text(&page, "url").starts_with("https://accounts.google.com/o/oauth2/v2/auth?"));
    let code = login.vendors.code_of(text(&page, "url"));
    login.enters(&code).await;
    login.completes().await;
    let file: Value = serde_json::from_str(&login.captured("gemini_cli", ".gemini/oauth_creds.json").await).unwrap();
    assert!(text(&file, "refresh_token").starts_with("1//"));
}

#[tokio::test]
async fn copilot_shows_its_code_and_can_be_cancelled() {
    need_vms!();
    let login = Login::start("copilot", &[]).await;
    let page = login.asks().await;
    assert_eq!((text(&page, "flow"), text(&page, "userCode")), ("device_code", "WDJB-MJHT"));
    login.cancelled().await;
}
