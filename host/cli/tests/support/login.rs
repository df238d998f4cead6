//! A login of the demo tool, or of an odd one, through a real daemon: provider files of an operator, and what a program sees of the
//! session through the API.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use super::person::{PASSWORD, root};
use super::support::{Daemon, Installation, Wanted, http_in_namespace, images, text};

/// Boot and the tool's own start, on an emulated CPU that others use too.
pub const BOOTS_WITHIN: Duration = Duration::from_secs(120);
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What every odd provider has in common with the shipped demo.
const HEAD: &str = r#"
name = "Odd tool"
image = "base"
[login]
env = { AIRLOCK_DEMO_ISSUER = "http://{gateway}:{demo_port}" }
url_prefixes = ["http://{gateway}:{demo_port}/authorize"]
"#;
const TAIL: &str = r#"
[[login.credentials]]
path = ".airlock-demo/credentials.json"
required = ["/access_token"]
"#;

/// A provider file: the demo's with other fields.
pub fn odd(id: &str, fields: &str) -> String {
    format!("id = \"{id}\"{HEAD}{fields}{TAIL}")
}

/// The shipped demo with these flows, on a machine without a browser.
pub fn demo(flows: &str) -> String {
    let shipped = fs::read_to_string(root().join("providers/demo.toml")).unwrap();
    let changed =
        shipped.replace("flows = [\"loopback\", \"paste_code\", \"device_code\"]", &format!("flows = [{flows}]"));
    assert_ne!(shipped, changed);
    changed.replace("image = \"browser\"", "image = \"base\"")
}

pub fn pasting() -> String {
    demo("\"paste_code\", \"loopback\", \"device_code\"")
}

/// A daemon with these provider files, its demo server, and these lines of configuration.
pub async fn daemon(files: &[String], config: &str) -> Daemon {
    let state = tempfile::Builder::new().prefix("airlock-vm-").tempdir().unwrap();
    for dir in ["images", "cache"] {
        symlink(images().join(dir), state.path().join(dir)).unwrap();
    }
    daemon_in(state, files, config).await
}

pub async fn daemon_in(state: tempfile::TempDir, files: &[String], config: &str) -> Daemon {
    let dir = state.path().join("providers");
    fs::create_dir(&dir).unwrap();
    for (number, text) in files.iter().enumerate() {
        fs::write(dir.join(format!("{number}.toml")), text).unwrap();
    }
    let config = format!("providers_dir = {dir:?}\n{config}");
    let wanted = Wanted { config: &config, demo_password: Some(PASSWORD), ..Wanted::default() };
    Daemon::on(Installation::in_dir(state, &wanted)).await
}

/// A session, and the machine that it got.
pub struct Login<'a> {
    pub daemon: &'a Daemon,
    pub user: String,
    pub id: String,
    pub link: String,
    pub vm: String,
    pub addr: Ipv4Addr,
}

impl<'a> Login<'a> {
    pub async fn start(daemon: &'a Daemon, user: &str, provider: &str) -> Self {
        let started = daemon.start_session(user, provider).await;
        let (id, link) = (text(&started, "sessionId").to_owned(), text(&started, "novncURL").to_owned());
        let vm = text(&daemon.session(&id).await, "vmId").to_owned();
        Self { daemon, user: user.to_owned(), id, link, vm, addr: text(&started, "browserIP").parse().unwrap() }
    }

    pub async fn post(&self, what: &str, body: Option<Value>) -> (u16, Value) {
        self.daemon.call("POST", &format!("/api/auth/session/{}/{what}", self.id), body).await
    }

    /// The code of an error that a request is answered with.
    pub async fn refused(&self, what: &str, body: Option<Value>) -> String {
        let (status, answer) = self.post(what, body).await;
        assert_eq!(status, 409, "{answer}");
        assert!(text(&answer["error"], "remedy").len() > 10, "{answer}");
        text(&answer["error"], "code").to_owned()
    }

    /// Waits until a try ended so; the person may act then, and the machine is the one that it was.
    pub async fn ends(&self, attempt: u32, outcome: &str) {
        let it = |session: &Value| session["login"]["outcome"].is_string() && session["login"]["attempt"] == attempt;
        let what = format!("{outcome} in try {attempt}");
        let session = self.daemon.wait_until(&self.id, &what, BOOTS_WITHIN, it).await;
        let login = &session["login"];
        assert_eq!((text(login, "outcome"), &login["codeWanted"]), (outcome, &json!(false)), "{session}");
        assert_eq!((text(&session, "state"), text(&session, "vmId")), ("awaiting_user", self.vm.as_str()));
        let (status, page) = self.daemon.call("GET", &format!("/api/auth/session/{}/oauth-url", self.id), None).await;
        assert_eq!((status, text(&page["error"], "code")), (409, "no_login_url"), "a page of no use any more");
    }

    pub async fn retry(&self, flow: &str) {
        let (status, answer) = self.post("retry", Some(json!({ "flow": flow }))).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!((text(&answer, "state"), text(&answer, "vmId")), ("awaiting_user", self.vm.as_str()));
        assert_eq!(text(&answer["login"], "flow"), flow);
    }

    /// The page whose code the tool of this try asks for.
    pub async fn asks(&self, attempt: u32) -> String {
        let it = |session: &Value| {
            let login = &session["login"];
            session["state"] == "awaiting_user" && login["codeWanted"] == true && login["attempt"] == attempt
        };
        self.daemon.wait_until(&self.id, "asking for a code", BOOTS_WITHIN, it).await;
        let (status, page) = self.daemon.call("GET", &format!("/api/auth/session/{}/oauth-url", self.id), None).await;
        assert_eq!((status, text(&page, "flow")), (200, "paste_code"), "{page}");
        text(&page, "url").to_owned()
    }

    /// The code that the tool of this try shows for the provider's page.
    pub async fn shows(&self, attempt: u32) -> String {
        let it = |session: &Value| session["login"]["userCode"].is_string() && session["login"]["attempt"] == attempt;
        let session = self.daemon.wait_until(&self.id, "showing a code", BOOTS_WITHIN, it).await;
        let login = &session["login"];
        let (status, page) = self.daemon.call("GET", &format!("/api/auth/session/{}/oauth-url", self.id), None).await;
        assert_eq!((status, &page["flow"], &page["userCode"]), (200, &json!("device_code"), &login["userCode"]));
        assert_eq!(page["url"], login["verificationUrl"]);
        text(login, "userCode").to_owned()
    }

    pub async fn enters(&self, code: &str) {
        let (status, answer) = self.post("code", Some(json!({ "code": code }))).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// A code that is not taken: the tool asks for another one.
    pub async fn is_refused(&self, attempt: u32, code: &str) {
        self.enters(code).await;
        self.asks(attempt).await;
    }

    pub async fn completes(&self) -> Value {
        self.daemon.wait_for(&self.id, &["completed"], ANSWERS_WITHIN).await;
        self.gone().await;
        let path = format!("/api/auth/credentials/{}/demo", self.user);
        let (status, credential) = self.daemon.call("GET", &path, None).await;
        assert_eq!(status, 200, "{credential}");
        assert_eq!(text(&credential["credential"], "sessionId"), self.id);
        serde_json::from_str(text(&credential["files"][0], "content")).unwrap()
    }

    /// Waits until the session failed with this cause, which is told with a remedy and kept with evidence.
    pub async fn fails(&self, cause: &str) -> Value {
        let session = self.daemon.wait_for(&self.id, &["failed"], BOOTS_WITHIN).await;
        assert_eq!(text(&session, "cause"), cause, "{session}");
        assert!(text(&session, "remedy").len() > 10, "{session}");
        assert_eq!((text(&session["error"], "code"), text(&session["error"], "cause")), ("session_failed", cause));
        assert_eq!(self.refused("retry", None).await, "session_ended");
        self.gone().await;
        self.nothing_stored().await;
        session
    }

    /// Nothing of the machine is left, and the receipt says so.
    pub async fn gone(&self) {
        let (status, answer) = self.daemon.call("DELETE", &format!("/api/vms/{}", self.vm), None).await;
        assert!((200..300).contains(&status), "{answer}");
        let out = self.daemon.cli(&["session", "receipt", &self.id, "--json"]);
        let receipt: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((&receipt["valid"], &receipt["detail"]["left"]), (&json!(true), &json!([])), "{receipt}");
    }

    pub async fn nothing_stored(&self) {
        let (_, stored) = self.daemon.call("GET", &format!("/api/auth/credentials/{}", self.user), None).await;
        assert_eq!(stored["credentials"], json!([]));
    }

    /// Seconds since the machine's kernel began, as its agent counts them.
    pub fn uptime(&self) -> f64 {
        let answer = http_in_namespace(self.daemon, self.addr, 8080, "/health");
        let health: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(text(&health, "vm_id"), self.vm);
        health["uptime_s"].as_f64().unwrap()
    }
}
