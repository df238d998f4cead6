//! Two users sign in with the same provider at the same time, each in a machine of their own. Neither sees anything of the other:
//! page, codes, events, screen, credential; nor does one's machine reach the other's session.
//!
//! The API is the real one over the real engine; the machines are played: their health, and their agents on the control sockets.
//! Every secret of a user holds the user's name, and no word of an answer looks like one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use airlock_engine::Engine;
use airlock_engine::records::{SessionEvent, SessionRecord};
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::health::{GuestAddress, Health};
use airlock_protocol::login::Flow;
use airlock_protocol::message::{CapturedFile, GuestMessage, HostMessage, LoginEvent, UrlSource, VERSION};
use airlock_protocol::paths::HEALTH_PORT;
use airlock_protocol::{MacAddr, Sensitive, Stage, StageReport};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Answer, Api, skipped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tower::ServiceExt;

const WITHIN: Duration = Duration::from_secs(30);
const ORIGIN: &str = "http://127.0.0.1:4000";
const USERS: [&str; 2] = ["ann-x4711", "bob-x4712"];
const VENDOR: &str = r#"
id = "vendor"
name = "Vendor"
image = "base"
[login]
command = ["vendor", "login"]
flows = ["device_code"]
url_prefixes = ["https://idp.test/"]
user_code_pattern = "code: ([a-z0-9-]+)"
[[login.credentials]]
path = ".vendor/credentials.json"
required = ["/access_token"]
"#;

/// A secret of a user.
fn secret(what: &str, user: &str) -> String {
    format!("{what}-of-{user}")
}

fn files(user: &str) -> Vec<CapturedFile> {
    let content = Sensitive::new(json!({"access_token": secret("token", user)}).to_string());
    vec![CapturedFile {
        path: ".vendor/credentials.json".into(),
        mode: 0o600,
        modified_ms: 1,
        expires_ms: None,
        content,
    }]
}

/// Waits until a session is as `wanted`.
async fn until(engine: &Engine, id: SessionId, wanted: impl Fn(&SessionRecord) -> bool) -> SessionRecord {
    let seen = async {
        let mut watch = engine.watch(id).await.unwrap();
        let mut now = watch.session.clone();
        while !wanted(&now) {
            match watch.events.recv().await.unwrap() {
                SessionEvent::State(record) => now = *record,
                SessionEvent::Stage(_) => {}
            }
        }
        now
    };
    match tokio::time::timeout(WITHIN, seen).await {
        Ok(record) => record,
        Err(_) => {
            let session = engine.session(id).await.unwrap();
            panic!("not as wanted: {session:?}, {:?}", engine.timeline(session.vm_id).await.unwrap())
        }
    }
}

/// The agent of one machine.
struct Agent {
    user: &'static str,
    own: SessionId,
    vm_id: String,
    /// Whose session its machine tries to write into.
    other: SessionId,
}

impl Agent {
    /// What it was told: pages, codes, and whose credential is stored.
    async fn run(self, listener: UnixListener) -> Vec<String> {
        let (mut host, _) = listener.accept().await.unwrap();
        let (mut decoder, mut bytes, mut heard) = (Decoder::new(), vec![0; 65536], Vec::new());
        loop {
            let count = host.read(&mut bytes).await.unwrap_or(0);
            decoder.push(&bytes[..count]);
            while let Some(message) = decoder.next_message::<HostMessage>() {
                let answers =
                    match message {
                        HostMessage::Hello { .. } => {
                            vec![self.hello(), GuestMessage::Stage(StageReport::reached(1, 1, Stage::AgentUp))]
                        }
                        HostMessage::StartLogin(login) => {
                            assert_eq!(login.login_id, self.own.to_string());
                            self.login()
                        }
                        HostMessage::OpenUrl { url } => {
                            heard.push(url.expose().to_owned());
                            vec![]
                        }
                        HostMessage::EnterCode { code } => {
                            heard.push(code.expose().to_owned());
                            vec![self.says(
                                self.own,
                                LoginEvent::Captured { files: files(self.user), confirmed: Some(true) },
                            )]
                        }
                        HostMessage::CredentialStored { login_id } => {
                            heard.push(login_id);
                            return heard;
                        }
                        _ => vec![],
                    };
                for answer in answers {
                    host.write_all(&encode(&answer).unwrap()).await.unwrap();
                }
            }
            assert!(count > 0, "the host is gone: {heard:?}");
        }
    }

    fn says(&self, session: SessionId, event: LoginEvent) -> GuestMessage {
        GuestMessage::Login { login_id: session.to_string(), attempt: 1, event }
    }

    fn hello(&self) -> GuestMessage {
        let vm_id = self.vm_id.clone();
        GuestMessage::Hello { version: VERSION, build_id: "0".into(), vm_id, addresses: vec![], timeline: vec![] }
    }

    /// First for the other's session, as a machine that somebody took over would; then its own.
    fn login(&self) -> Vec<GuestMessage> {
        let page = |what| Sensitive::new(format!("https://idp.test/{}", secret(what, self.user)));
        let code = Sensitive::new(secret("usercode", self.user));
        vec![
            self.says(self.other, LoginEvent::UrlSeen { url: page("forged"), source: UrlSource::Shim }),
            self.says(self.other, LoginEvent::Captured { files: files(self.user), confirmed: Some(true) }),
            self.says(self.own, LoginEvent::ToolStarted { pid: 7, flow: Some(Flow::DeviceCode) }),
            self.says(self.own, LoginEvent::UserCode { code, url: page("page") }),
            self.says(self.own, LoginEvent::CodeWanted),
        ]
    }
}

/// Answers every request of one machine's health.
async fn be_healthy(listener: TcpListener, address: Ipv4Addr, vm_id: String) {
    let addr = format!("{address}/24");
    let addresses = vec![GuestAddress { dev: "eth0".into(), mac: MacAddr::from_lease(address), addr }];
    let health =
        Health { status: "ok".into(), build_id: "0".into(), vm_id, addresses, uptime_s: 1.0, timeline: vec![] };
    let body = serde_json::to_string(&health).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let _ = stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await;
    }
}

/// One user in front of their viewer.
struct Person {
    user: &'static str,
    id: SessionId,
    record: SessionRecord,
    cookie: String,
    ticket: String,
    /// Everything of the event stream, which ends with the session.
    events: JoinHandle<String>,
}

impl Person {
    async fn start(api: &Api, user: &'static str) -> Self {
        let bearer = format!("Bearer {}", api.admin);
        // The same key as the other's: it is the other's start no less.
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", "first")];
        let body = json!({"userId": user, "provider": "vendor"}).to_string();
        let started = api.send(Method::POST, "/api/auth/start", &headers, &body).await;
        assert_eq!(started.status, StatusCode::OK, "{}", started.text);
        let started = started.json();
        let id: SessionId = started["sessionId"].as_str().unwrap().parse().unwrap();
        let link = started["novncURL"].as_str().unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
        // A link for another browser, not used yet.
        let more = api.as_admin(Method::POST, &format!("/api/auth/session/{id}/ticket"), "").await.json();
        let ticket = more["novncURL"].as_str().unwrap().split_once('?').unwrap().1.to_owned();
        let cookie = api.open_link(&link).await.unwrap();
        let request = Request::get(format!("/api/auth/session/{id}/events")).header(header::COOKIE, &cookie);
        let stream = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        let mut stream = stream.into_body().into_data_stream();
        let events = tokio::spawn(async move {
            let mut text = String::new();
            while let Some(chunk) = stream.next().await {
                text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            }
            text
        });
        let record = api.engine.session(id).await.unwrap();
        Self { user, id, record, cookie, ticket, events }
    }

    /// A request with the cookie of the person's viewer, from our page.
    async fn send(&self, api: &Api, method: Method, uri: &str, body: &Value) -> Answer {
        let headers = [("cookie", self.cookie.as_str()), ("origin", ORIGIN), ("content-type", "application/json")];
        api.send(method, uri, &headers, &if body.is_null() { String::new() } else { body.to_string() }).await
    }
}

/// Makes a session's machine: its address, its health, its agent.
async fn play(api: &Api, person: &Person, other: SessionId) -> JoinHandle<Vec<String>> {
    until(&api.engine, person.id, |record| record.state == SessionState::Booting).await;
    let (address, vm_id) = (person.record.address.unwrap(), person.record.vm_id);
    let namespace = &api.engine.config().network.namespace;
    let added =
        Command::new("ip").args(["-n", namespace, "addr", "add", &format!("{address}/32"), "dev", "lo"]).status();
    assert!(added.unwrap().success());
    let health = api.engine.network().listen(SocketAddr::from((address, HEALTH_PORT))).await.unwrap();
    tokio::spawn(be_healthy(health, address, vm_id.to_string()));
    let socket = api.state_dir().join("vms").join(vm_id.dir_name()).join("agent.sock");
    let agent = Agent { user: person.user, own: person.id, vm_id: vm_id.to_string(), other };
    tokio::spawn(agent.run(UnixListener::bind(socket).unwrap()))
}

/// What one of two may not do with what is theirs, to what is the other's.
async fn tries(api: &Api, own: &Person, other: &Person) {
    let of_other = |path: &str| format!("/api/auth/session/{}{path}", other.id);
    for path in ["", "/timeline", "/events", "/diagnosis", "/oauth-url", "/receipt", "/novnc", "/vnc"] {
        let answer = own.send(api, Method::GET, &of_other(path), &Value::Null).await;
        assert!(answer.status.is_client_error(), "{path} answers {} to a foreign cookie", answer.status);
        assert!(!answer.text.contains(other.user), "{path} shows {}", answer.text);
    }
    let page = json!({"url": format!("https://idp.test/{}", secret("pushed", own.user))});
    for (path, body) in [
        ("/code", json!({"code": secret("typed", own.user)})),
        ("/open-url", page),
        ("/retry", json!({})),
        ("/cancel", Value::Null),
        ("/heartbeat", Value::Null),
    ] {
        let answer = own.send(api, Method::POST, &of_other(path), &body).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}: {}", answer.text);
    }
    // A ticket opens its own session and is still good for it afterwards.
    let swapped = of_other(&format!("/novnc?{}", own.ticket));
    assert_eq!(api.get(&swapped, &[]).await.status, StatusCode::FORBIDDEN);
    // A viewer's cookie is no token.
    for path in [format!("/api/auth/sessions/{}", other.user), format!("/api/auth/credentials/{}/vendor", other.user)] {
        let answer = own.send(api, Method::GET, &path, &Value::Null).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// Everything that is about one user, by the cookie and by the admin's token.
async fn everything_of(api: &Api, person: &Person) -> String {
    let mut seen = String::new();
    for path in ["", "/timeline", "/oauth-url", "/novnc"] {
        let uri = format!("/api/auth/session/{}{path}", person.id);
        let answer = person.send(api, Method::GET, &uri, &Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", answer.text);
        seen.push_str(&answer.text);
    }
    let sessions = api.as_admin(Method::GET, &format!("/api/auth/sessions/{}", person.user), "").await;
    seen + &sessions.text
}

fn assert_nothing_of(other: &SessionRecord, seen: &str, whose: &str) {
    let (id, vm, address) = (other.id.to_string(), other.vm_id.to_string(), other.address.unwrap());
    for foreign in [&other.user_id, &id, &vm, &format!("\"{address}\"")] {
        assert!(!seen.contains(foreign), "{whose} shows {foreign}: {seen}");
    }
}

#[tokio::test]
async fn two_who_sign_in_at_once_see_nothing_of_each_other() {
    if skipped().is_some() {
        return;
    }
    let providers = tempfile::tempdir().unwrap();
    std::fs::write(providers.path().join("vendor.toml"), VENDOR).unwrap();
    let api = Api::open_played(|config| config.providers_dir = Some(providers.path().to_owned())).await;
    let [ann, bob] = USERS.map(|user| Person::start(&api, user));
    let (ann, bob) = tokio::join!(ann, bob);
    assert_ne!(ann.id, bob.id, "the same key of another user is another start");
    let (of_ann, of_bob) = tokio::join!(play(&api, &ann, bob.id), play(&api, &bob, ann.id));
    for person in [&ann, &bob] {
        let record = until(&api.engine, person.id, |record| record.login.as_ref().is_some_and(|l| l.code_wanted)).await;
        assert_eq!(record.state, SessionState::AwaitingUser, "the other machine's words moved nothing");
    }

    // Both sign-ins wait for their persons.
    for (own, other) in [(&ann, &bob), (&bob, &ann)] {
        tries(&api, own, other).await;
        let seen = everything_of(&api, own).await;
        assert!(["usercode", "page"].iter().all(|what| seen.contains(&secret(what, own.user))), "{seen}");
        assert_nothing_of(&other.record, &seen, own.user);
        let link = format!("/api/auth/session/{}/novnc?{}", own.id, own.ticket);
        assert!(api.open_link(&link).await.is_some(), "the ticket was not used up by the other's session");
    }

    // Both type their codes in the same moment.
    let together = Arc::new(Barrier::new(2));
    let finish = async |person: &Person| {
        together.wait().await;
        let uri = format!("/api/auth/session/{}/code", person.id);
        let typed = person.send(&api, Method::POST, &uri, &json!({"code": secret("typed", person.user)})).await;
        assert_eq!(typed.status, StatusCode::OK, "{}", typed.text);
        until(&api.engine, person.id, |record| record.state.is_terminal()).await
    };
    let (ann_ended, bob_ended) = tokio::join!(finish(&ann), finish(&bob));
    assert_eq!((ann_ended.state, bob_ended.state), (SessionState::Completed, SessionState::Completed));
    for (own, heard) in [(&ann, of_ann), (&bob, of_bob)] {
        let heard = tokio::time::timeout(WITHIN, heard).await.unwrap().unwrap();
        assert_eq!(heard, [secret("typed", own.user), own.id.to_string()], "the machine of {}", own.user);
    }

    // What is left: each has their own.
    for (own, other) in [(&ann, &bob), (&bob, &ann)] {
        for path in ["", "/vendor"] {
            let uri = format!("/api/auth/credentials/{}{path}", own.user);
            let answer = api.as_admin(Method::GET, &uri, "").await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            assert_nothing_of(&other.record, &answer.text, &uri);
            assert_eq!(path.is_empty(), !answer.text.contains(&secret("token", own.user)));
        }
    }
    for (own, other) in [(&ann, &bob), (&bob, &ann)] {
        let uri = format!("/api/auth/credentials/{}/vendor", own.user);
        assert_eq!(api.as_admin(Method::DELETE, &uri, "").await.status, StatusCode::NO_CONTENT);
        let left = api.as_admin(Method::GET, &format!("/api/auth/credentials/{}", other.user), "").await.json();
        let expected = usize::from(own.user == ann.user);
        assert_eq!(left["credentials"].as_array().unwrap().len(), expected, "only one's own is deleted");
    }
    for (events, own, other) in [(ann.events, &ann_ended, &bob_ended), (bob.events, &bob_ended, &ann_ended)] {
        let told = tokio::time::timeout(WITHIN, events).await.unwrap().unwrap();
        assert!(told.contains(&secret("usercode", &own.user_id)) && told.contains("\"completed\""), "{told}");
        assert_nothing_of(other, &told, &format!("the event stream of {}", own.user_id));
    }
    api.engine.shutdown().await;
}
