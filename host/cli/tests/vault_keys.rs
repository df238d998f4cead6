//! The vault's master key as its operator deals with it, with the real program: a bad one is refused before anything is served, one
//! comes from a systemd credential or a descriptor, and another one takes over while the daemon serves.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use airlock_domain::admission::Limits;
use airlock_domain::session::SessionState;
use airlock_domain::vault::VaultConfig;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_engine::store::{Accepted, NewSession, Room, Store};
use airlock_engine::vault::Vault;
use airlock_engine::{Moment, capture};
use airlock_protocol::Sensitive;
use airlock_protocol::message::CapturedFile;
use serde_json::{Value, json};
use support::{AIRLOCK, Daemon, Installation, Wanted, text};

const CONTENT: &str = r#"{"access_token":"sealed-before"}"#;

/// Why these tests cannot run here; `None` if they can.
fn skipped() -> Option<()> {
    let name = format!("airlock-keys-probe-{}", std::process::id());
    if Netns::create(&name).is_ok() {
        Netns::delete(&name).unwrap();
        return None;
    }
    println!("skipped: no network namespace can be made here (run as root)");
    Some(())
}

fn installation(vault: &str) -> Installation {
    let state = tempfile::Builder::new().prefix("airlock-keys-").tempdir().unwrap();
    let tables = format!("[vault]\n{vault}");
    Installation::in_dir(state, &Wanted { config: "driver = \"qemu-tcg\"", tables: &tables, ..Wanted::default() })
}

fn write_key(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A credential of `u1` with `demo`, captured as the daemon does.
async fn seal(state_dir: &Path) {
    let store = Store::open(&state_dir.join("airlock.db"), "seeding").await.unwrap();
    let new = NewSession {
        id: SessionId::from_uuid(uuid::Uuid::new_v4()),
        vm_id: VmId::from_uuid(uuid::Uuid::new_v4()),
        user_id: "u1".into(),
        provider: "demo".into(),
        idempotency_key: None,
        image: "base@sha256:00".into(),
        driver: DriverKind::QemuTcg,
        memory_mib: 64,
        now: Moment::now(),
        boot_id: "boot".into(),
        lasts_ms: 60_000,
    };
    let room = Room {
        limits: Limits::default(),
        subnet: "10.99.0.1/24".parse().unwrap(),
        memory_mib: 1 << 30,
        available_mib: 1 << 30,
    };
    let Accepted::Begun(session) = store.accept(&new, &room).await.unwrap() else { panic!("not begun") };
    assert!(store.move_session(session.id, session.state, SessionState::Capturing, None, 1).await.unwrap());
    let vault = Vault::open(&VaultConfig::default(), state_dir, true).unwrap();
    let (path, content) = (".airlock-demo/credentials.json".into(), Sensitive::new(CONTENT));
    let file = CapturedFile { path, mode: 0o600, modified_ms: 1, expires_ms: None, content };
    assert!(capture::commit(&store, &vault, &session, &[file]).await.unwrap().is_some());
    store.close().await;
}

/// What a daemon says that does not start.
fn refusal(at: &Installation) -> String {
    let out = at.serve().stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "it served: {said}");
    assert!(!String::from_utf8_lossy(&out.stdout).contains("serving on"), "it served first");
    said
}

#[tokio::test]
async fn a_key_that_is_none_or_that_others_may_read_is_refused() {
    if skipped().is_some() {
        return;
    }
    let at = installation("");
    let path = at.state.path().join("vault.key");
    for (len, mode, told) in [
        (32, 0o644, "has mode 644: others may read it"),
        (32, 0o640, "has mode 640: others may read it"),
        (31, 0o600, "has 31 bytes instead of 32"),
        (33, 0o600, "has more bytes instead of 32"),
        (0, 0o600, "has 0 bytes instead of 32"),
    ] {
        write_key(&path, &vec![7; len], mode);
        let said = refusal(&at);
        assert!(said.contains(told) && said.contains(path.to_str().unwrap()), "{said}");
        assert_eq!(fs::read(&path).unwrap(), vec![7; len], "it is left as it is");
    }
    // A key that is gone is made, unless something was sealed with it.
    fs::remove_file(&path).unwrap();
    seal(at.state.path()).await;
    fs::remove_file(&path).unwrap();
    let said = refusal(&at);
    assert!(said.contains("vault.key") && said.contains("No such file"), "{said}");
    assert!(!path.exists(), "no other key takes its place");
    assert!(refusal(&installation("key = \"credential:vault.key\"\n")).contains("CREDENTIALS_DIRECTORY"));
    assert!(refusal(&installation("key = \"fd:NO_SUCH_FD\"\n")).contains("NO_SUCH_FD"));
}

/// The daemon's keys, by its command line.
fn keys(daemon: &Daemon) -> Vec<Value> {
    let out = daemon.cli(&["vault", "status", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let status: Value = serde_json::from_slice(&out.stdout).unwrap();
    status["keys"].as_array().unwrap().clone()
}

async fn spawned(at: Installation, mut serve: Command) -> Daemon {
    let log = fs::File::create(at.state.path().join("daemon.log")).unwrap();
    serve.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let base = format!("http://127.0.0.1:{}", at.port);
    Daemon::attach(serve.spawn().unwrap(), at, base).await
}

#[tokio::test]
async fn a_key_comes_from_systemd_or_through_a_pipe() {
    if skipped().is_some() {
        return;
    }
    let credentials = tempfile::tempdir().unwrap();
    let key = credentials.path().join("vault.key");
    write_key(&key, &[3; 32], 0o400);
    let at = installation("key = \"credential:vault.key\"\n");
    let mut serve = at.serve();
    serve.env("CREDENTIALS_DIRECTORY", credentials.path());
    let by_systemd = spawned(at, serve).await;
    let at = installation("key = \"fd:VAULT_FD\"\n");
    let mut serve = Command::new("bash");
    let script = "exec 99< <(cat \"$0\"); VAULT_FD=99 exec \"$@\"";
    serve.args(["-c", script, key.to_str().unwrap(), AIRLOCK, "serve", "--config", at.config.to_str().unwrap()]);
    let by_pipe = spawned(at, serve).await;
    let pid = by_pipe.child.id();
    assert!(fs::read_link(format!("/proc/{pid}/fd/99")).is_err_and(|error| error.raw_os_error() == Some(2)), "closed");

    let shown = [keys(&by_systemd), keys(&by_pipe)];
    assert_eq!(shown[0][0]["id"], shown[1][0]["id"], "the same key has the same id");
    assert_eq!((&shown[0][0]["place"], &shown[1][0]["place"]), (&json!("credential:vault.key"), &json!("fd:VAULT_FD")));
    for daemon in [&by_systemd, &by_pipe] {
        assert!(!daemon.at.state.path().join("vault.key").exists(), "no key of its own is made");
        let refused = daemon.cli(&["vault", "rotate", "--json"]);
        let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!((refused.status.code(), text(&said["error"], "code")), (Some(4), "vault_key_fixed"));
    }
}

#[tokio::test]
async fn another_key_takes_over_while_the_daemon_serves() {
    if skipped().is_some() {
        return;
    }
    let at = installation("");
    seal(at.state.path()).await;
    let path = at.state.path().join("vault.key");
    let former = fs::read(&path).unwrap();
    let daemon = Daemon::on(at).await;
    let before = keys(&daemon);
    let out = daemon.cli(&["vault", "rotate", "--forget"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let after = keys(&daemon);
    assert!(after.len() == 1 && after[0]["credentials"] == 1 && after[0]["id"] != before[0]["id"], "{after:?}");
    assert_ne!(fs::read(&path).unwrap(), former);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = fs::read_dir(daemon.at.state.path()).unwrap().flatten().map(|entry| entry.path());
    for file in files.filter(|path| path.is_file()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(former.len()).any(|part| part == former), "the former key is in {}", file.display());
    }
    // As the tool expects it, with its rights; and everything of it is in the log.
    let to = tempfile::tempdir().unwrap();
    let out = daemon.cli(&["credentials", "export", "u1", "demo", "--to", to.path().to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let exported = to.path().join(".airlock-demo/credentials.json");
    assert_eq!(fs::read_to_string(&exported).unwrap(), CONTENT);
    assert_eq!(fs::metadata(&exported).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, log) = daemon.call("GET", "/api/audit", None).await;
    let actions: Vec<_> = log["entries"].as_array().unwrap().iter().map(|entry| text(entry, "action")).collect();
    let expected = ["vault_key_changed", "vault_rewrapped", "vault_key_removed", "credential_exported"];
    assert!(actions.ends_with(&expected), "{actions:?}");
    // The next daemon opens it with what is there now.
    let mut daemon = daemon;
    daemon.stop();
    daemon.restart().await;
    let (status, read) = daemon.call("GET", "/api/auth/credentials/u1/demo", None).await;
    assert_eq!((status, text(&read["files"][0], "content")), (200, CONTENT));
}
