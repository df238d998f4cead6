//! The real router over the real engine: a state directory, a namespace and a database of their own. No guest boots here: the one
//! image has a kernel that no VMM takes, which is all that sessions, tickets and events need.

#![allow(clippy::unwrap_used, missing_docs)]
#![allow(dead_code, reason = "each test file uses its part")]

pub mod machine;
pub mod websocket;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use airlock_domain::admission::Limits;
use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::session::SessionState;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_effects::vmm::Drivers;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_engine::records::Scope;
use airlock_engine::store::{Accepted, NewSession, Room, Store};
use airlock_engine::vault::Vault;
use airlock_engine::{Engine, Moment, OpenError, capture};
use airlock_image::Manifest;
use airlock_protocol::Sensitive;
use airlock_protocol::message::CapturedFile;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::watch;
use tower::ServiceExt;
use uuid::Uuid;

use self::machine::Daemon;

/// Removes the namespace also when the test failed.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = Netns::delete(&self.0) {
            eprintln!("namespace {} is left: {error}", self.0);
        }
    }
}

/// A daemon whose machines are played ([`machine`]). Its namespace, its state directory and the processes that stand in for VMMs are
/// gone on every way out.
pub struct World {
    pub daemon: Daemon,
    _namespace: Namespace,
    state: tempfile::TempDir,
}

impl World {
    /// With a configuration that `adjust` changed.
    pub async fn open(adjust: impl FnOnce(&mut Config)) -> Self {
        let name = unique("airlock-screen");
        let namespace = Namespace(name.clone());
        let state = tempfile::tempdir().unwrap();
        publish_unbootable_image(state.path());
        let mut config = machine::config(&name, state.path());
        adjust(&mut config);
        Self { daemon: Daemon::serve(config).await, _namespace: namespace, state }
    }

    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Ends the daemon with its machines.
    pub async fn close(mut self) {
        self.daemon.end(airlock_server::Ending::EndVms).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        end_stand_ins(self.state.path());
    }
}

/// A stand-in ends when it is told a line. None is left after a daemon that ended in order.
fn end_stand_ins(state_dir: &Path) {
    for vm in fs::read_dir(state_dir.join("vms")).into_iter().flatten().flatten() {
        let quit = vm.path().join("quit.fifo");
        let told = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(quit);
        let _ = told.and_then(|mut pipe| pipe.write_all(b"\n"));
    }
}

/// A name that nobody else has.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub struct Api {
    pub engine: Engine,
    pub router: Router,
    pub admin: String,
    _close: watch::Sender<Option<airlock_server::Ending>>,
    _namespace: Namespace,
    state: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Why these tests cannot run here, printed; `None` if they can.
pub fn skipped() -> Option<&'static str> {
    let name = format!("airlock-api-probe-{}", std::process::id());
    if Netns::create(&name).is_ok() {
        let _ = Netns::delete(&name);
        return None;
    }
    let reason = "no network namespace can be made here (run as root)";
    println!("skipped: {reason}");
    Some(reason)
}

impl Drop for Api {
    fn drop(&mut self) {
        end_stand_ins(self.state.path());
    }
}

impl Api {
    pub async fn open() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config =
            Config { state_dir: state.path().to_owned(), driver: DriverChoice::QemuTcg, ..Config::default() };
        config.network.namespace = unique("airlock-api");
        Self::of(config, state, |config| Box::pin(Engine::open(config))).await
    }

    /// The same with machines that are played, and a configuration that `adjust` changed.
    pub async fn open_played(adjust: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = machine::config(&unique("airlock-played"), state.path());
        adjust(&mut config);
        let drivers = Drivers::only(Arc::new(FakeDriver::new()));
        Self::of(config, state, |config| Box::pin(Engine::open_with(config, drivers))).await
    }

    async fn of(
        config: Config,
        state: tempfile::TempDir,
        open: impl FnOnce(Config) -> Pin<Box<dyn Future<Output = Result<Engine, OpenError>>>>,
    ) -> Self {
        let namespace = Namespace(config.network.namespace.clone());
        publish_unbootable_image(state.path());
        let engine = open(config).await.unwrap();
        let (close, closing) = watch::channel(None);
        let router = airlock_server::router(engine.clone(), closing);
        let (_, admin) = engine.create_token("test", &[Scope::Admin], "test").await.unwrap();
        Self { engine, router, admin, _close: close, _namespace: namespace, state }
    }

    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    pub async fn token(&self, scope: Scope) -> String {
        self.engine.create_token("scoped", &[scope], "test").await.unwrap().1
    }

    pub async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).header(header::HOST, "127.0.0.1:4000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 22).await.unwrap().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, uri, headers, "").await
    }

    /// With the admin token.
    pub async fn as_admin(&self, method: Method, uri: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.admin);
        self.send(method, uri, &[("authorization", &bearer), ("content-type", "application/json")], body).await
    }

    /// Opens a viewer link: the cookie that it is exchanged for, if it is.
    pub async fn open_link(&self, link: &str) -> Option<String> {
        let answer = self.get(link, &[]).await;
        let set = answer.headers.get(header::SET_COOKIE)?.to_str().unwrap().to_owned();
        Some(set.split(';').next().unwrap().to_owned())
    }

    /// Lets every ticket and cookie be too old.
    pub async fn expire_viewer_secrets(&self) {
        self.sql("UPDATE viewer_secrets SET expires_ms = 1").await;
    }

    /// Says that the tickets and cookies of one session are another's.
    pub async fn move_viewer_secrets(&self, from: &str, to: &str) {
        self.sql(&format!("UPDATE viewer_secrets SET session_id = '{to}' WHERE session_id = '{from}'")).await;
    }

    /// Changes the records behind the daemon's back.
    async fn sql(&self, statement: &str) {
        let options = SqliteConnectOptions::new().filename(self.state.path().join("airlock.db"));
        let mut connection = options.connect().await.unwrap();
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }

    /// A credential in the vault, captured as the daemon does, by a session of its own; the session's id.
    pub async fn capture(&self, user: &str, provider: &str, content: &str) -> String {
        let store = Store::open(&self.state_dir().join("airlock.db"), "seeding").await.unwrap();
        let new = NewSession {
            id: SessionId::from_uuid(Uuid::new_v4()),
            vm_id: VmId::from_uuid(Uuid::new_v4()),
            user_id: user.into(),
            provider: provider.into(),
            idempotency_key: None,
            image: "base@sha256:00".into(),
            driver: DriverKind::QemuTcg,
            memory_mib: 64,
            now: Moment::now(),
            boot_id: "boot".into(),
            lasts_ms: 60_000,
        };
        let room = Room {
            limits: Limits { sessions_per_user: 0, ..Limits::default() },
            subnet: "10.99.0.1/24".parse().unwrap(),
            memory_mib: 1 << 30,
            available_mib: 1 << 30,
        };
        let Accepted::Begun(session) = store.accept(&new, &room).await.unwrap() else { panic!("not begun") };
        assert!(store.move_session(session.id, session.state, SessionState::Capturing, None, 1).await.unwrap());
        let vault = Vault::open(&self.engine.config().vault, self.state_dir(), false).unwrap();
        let content = Sensitive::new(content);
        let file = CapturedFile { path: ".tool/c.json".into(), mode: 0o600, modified_ms: 1, expires_ms: None, content };
        let session = store.session(session.id).await.unwrap().unwrap();
        assert!(capture::commit(&store, &vault, &session, &[file]).await.unwrap().is_some());
        store.close().await;
        session.id.to_string()
    }

    /// With a token, and what is sent as JSON.
    pub async fn as_token(&self, token: &str, method: Method, uri: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, uri, &[("authorization", &bearer), ("content-type", "application/json")], &body).await
    }

    /// Starts a session of the provider `shell`: its id and the path of its viewer link.
    pub async fn start(&self, user: &str) -> (String, String) {
        let body = format!("{{\"userId\":{user:?},\"provider\":\"shell\"}}");
        let answer = self.as_admin(Method::POST, "/api/auth/start", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let answer = answer.json();
        let link = answer["novncURL"].as_str().unwrap().strip_prefix("http://127.0.0.1:4000").unwrap();
        (answer["sessionId"].as_str().unwrap().to_owned(), link.to_owned())
    }
}

/// An image that is whole by its manifest, with a kernel that is none.
pub fn publish_unbootable_image(state_dir: &Path) {
    let facts = |name: &str, content: &str| serde_json::json!({"name": name, "sha256": hex(content.as_bytes()), "size": content.len()});
    let files = [("vmlinuz", "no kernel"), ("initramfs", "no initramfs"), ("rootfs.erofs", "no root")];
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": "base", "recipe_digest": "0", "build_id": "0", "epoch": 0, "suite": "none", "memory_mib": 64, "vcpus": 1,
        "network_owner": "airlock", "readiness": ["agent_up", "reachable"], "root_fs": "erofs", "modules": [],
        "kernel": {"package": "none", "release": "0", "config": {}},
        "files": {"kernel": facts("vmlinuz", files[0].1), "initramfs": facts("initramfs", files[1].1), "rootfs": facts("rootfs.erofs", files[2].1)},
        "services": [], "packages": {},
    }))
    .unwrap();
    let text = toml::to_string(&manifest).unwrap();
    let reference = format!("base@sha256:{}", hex(text.as_bytes()));
    let dir = state_dir.join("images").join(&reference);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("manifest.toml"), text).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    fs::write(state_dir.join("images/base.current"), reference).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
