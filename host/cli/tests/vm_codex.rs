//! A sign-in with a real tool, from the command to the files that work elsewhere: OpenAI's Codex of npm in a real VM with a real Firefox,
//! against a real OpenID provider that stands in a namespace of the test for the vendor.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/person.rs"]
mod person;
mod support;
#[path = "support/vendors.rs"]
mod vendors;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use person::{PASSWORD, sign_in};
use serde_json::Value;
use support::canary::in_files;
use support::{AIRLOCK, Daemon, Wanted, lines, text};
use vendors::Vendors;

const PACKAGE: &str = "@openai/codex@0.169.0-linux-x64";
const PROGRAM: &str = "node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex";

/// `airlock login ... --json`: its lines as they come, until the first that has `key`.
fn first_with(lines: &mut impl Iterator<Item = String>, key: &str) -> Value {
    let mut values =
        lines.inspect(|line| println!("login: {line}")).filter_map(|line| serde_json::from_str(&line).ok());
    values.find(|value: &Value| !value[key].is_null()).unwrap_or_else(|| panic!("no line with {key}"))
}

/// The tool on this machine, from what the image's build fetched.
fn codex(dir: &Path) -> Command {
    let out = Command::new("npm")
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"])
        .arg(format!("--cache={}", support::images().join("cache/downloads/npm").display()))
        .arg(format!("--prefix={}", dir.display()))
        .arg(PACKAGE)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Command::new(dir.join(PROGRAM))
}

#[tokio::test]
async fn codex_signs_in_and_its_files_work_elsewhere() {
    need_vms!();
    let vendors = Vendors::start(&[]);
    let config = vendors.config(&["codex"]);
    let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;

    // The command, and the person at the link that it prints.
    let asked = Instant::now();
    let mut login = Command::new(AIRLOCK)
        .args(["--json", "login", "codex", "--user", "u1"])
        .env("AIRLOCK_SERVER", &daemon.base)
        .env("AIRLOCK_STATE_DIR", daemon.at.state.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = lines(&mut login);
    let started = first_with(&mut said, "novncURL");
    let id = text(&started, "sessionId").to_owned();
    let (ok, outcome) = sign_in(text(&started, "novncURL"), "codex", &[]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    let ended = said.last().unwrap();
    assert!(login.wait().unwrap().success(), "{ended}\n{}", daemon.log());
    println!("signed in after {:.1} s", asked.elapsed().as_secs_f64());
    let session = daemon.session(&id).await;
    assert_eq!(session["state"], "completed");

    // The tool spoke with the provider as with its vendor: the code, then a key for it.
    assert_eq!(vendors.answered("auth.openai.com", "/oauth/token", 200), 2);

    // The machine is gone, and a receipt says so.
    assert!((200..300).contains(&daemon.call("DELETE", &format!("/api/vms/{}", text(&session, "vmId")), None).await.0));
    daemon.at.assert_nothing_left();
    let (status, receipt) = daemon.call("GET", &format!("/api/auth/session/{id}/receipt"), None).await;
    assert_eq!(status, 200, "{receipt}");
    let log = daemon.at.state.path().join("audit.jsonl");
    for args in
        [&["audit", "export", "--to", log.to_str().unwrap()][..], &["audit", "verify", log.to_str().unwrap()][..]]
    {
        let out = daemon.cli(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
    }

    // What was exported is what the tool works with.
    let home = tempfile::tempdir().unwrap();
    let to = home.path().join("u1");
    let out = daemon.cli(&["credentials", "export", "u1", "codex", "--to", to.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let file = to.join(".codex/auth.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let auth: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((text(&auth, "auth_mode"), text(&auth["tokens"], "account_id")), ("chatgpt", "acct-test"));
    let mut tool = codex(&home.path().join("tool"));
    let status = tool.args(["login", "status"]).env("CODEX_HOME", to.join(".codex")).output().unwrap();
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.success() && said.contains("Logged in using ChatGPT"), "{status:?}");

    // Neither the password nor a token is anywhere in the clear.
    let secrets = [PASSWORD, text(&auth["tokens"], "access_token"), text(&auth["tokens"], "refresh_token")];
    let found = in_files(daemon.at.state.path(), &secrets);
    assert!(found.is_empty(), "plaintext left: {found:?}");
}

#[tokio::test]
async fn a_cancelled_login_leaves_nothing() {
    need_vms!();
    let vendors = Vendors::start(&[]);
    let config = vendors.config(&["codex"]);
    let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;
    let started = daemon.start_session("u2", "codex").await;
    let id = text(&started, "sessionId").to_owned();
    daemon.wait_for(&id, &["awaiting_user"], Duration::from_secs(120)).await;
    let (status, url) = daemon.call("GET", &format!("/api/auth/session/{id}/oauth-url"), None).await;
    assert_eq!((status, text(&url, "flow")), (200, "loopback"));
    assert!(text(&url, "url").starts_with("https://auth.openai.com/oauth/authorize?"));
    let (status, session) = daemon.call("POST", &format!("/api/auth/session/{id}/cancel"), None).await;
    assert!((200..300).contains(&status), "{session}");
    assert_eq!(daemon.session(&id).await["state"], "cancelled");
    let (_, credentials) = daemon.call("GET", "/api/auth/credentials/u2", None).await;
    assert_eq!(credentials["credentials"].as_array().map(Vec::len), Some(0));
    daemon.at.assert_nothing_left();
}
