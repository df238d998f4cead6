//! A sign-in in a real VM with a real browser, and then a search for its secrets: the files of the installation (logs at trace level,
//! database, evidence), command lines and environments of all processes, and the daemon's memory. What a guest is played in
//! `canary.rs`, the real agent and the real tool do here.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/person.rs"]
mod person;
mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use person::{PASSWORD, sign_in};
use serde_json::{Value, json};
use support::canary::{in_files, in_memory, in_processes};
use support::{Daemon, Installation, Wanted, text};

#[tokio::test]
async fn secrets_of_a_real_sign_in_are_found_nowhere() {
    need_vms!();
    let at = Installation::new(&Wanted { demo_password: Some(PASSWORD), ..Wanted::default() });
    let config = at.config.clone();
    let log = fs::File::create(at.state.path().join("daemon.log")).unwrap();
    let mut serve = at.serve();
    serve.env("AIRLOCK_LOG", "trace").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let (child, base) = (serve.spawn().unwrap(), format!("http://127.0.0.1:{}", at.port));
    let daemon = Daemon::attach(child, at, base).await;
    let started = daemon.start_session("u1", "demo").await;
    let (id, link) = (text(&started, "sessionId").to_owned(), text(&started, "novncURL").to_owned());
    let (ok, outcome) = sign_in(&link, "secrets", &[]);
    assert!(ok, "{outcome}\n{}", daemon.log());
    let session = daemon.wait_for(&id, &["completed"], Duration::from_secs(20)).await;
    daemon.call("DELETE", &format!("/api/vms/{}", text(&session, "vmId")), None).await;
    daemon.at.assert_nothing_left();

    let (status, read) = daemon.call("GET", "/api/auth/credentials/u1/demo", None).await;
    assert_eq!(status, 200, "{read}");
    let content: Value = serde_json::from_str(text(&read["files"][0], "content")).unwrap();
    let ticket = link.split_once("ticket=").unwrap().1.to_owned();
    let secrets = [text(&content, "access_token"), text(&content, "refresh_token"), ticket.as_str()];
    let everything = [&secrets[..], &[PASSWORD]].concat();
    // What the test itself and its browser knew is not in another process.
    let daemon = daemon.without_connections().await;
    let mut found = in_files(daemon.at.state.path(), &everything);
    found.retain(|(path, mark)| !(*path == config && mark == PASSWORD));
    assert!(found.is_empty(), "in files: {found:?}");
    let found = in_processes(&everything);
    assert!(found.is_empty(), "in processes: {found:?}");
    // The demo server lives in the daemon: it knows its account's password, and the tokens it gave out.
    let found = in_memory(daemon.child.id(), &[&ticket]);
    println!("{}", json!({"canary": "vm", "memory": found.len()}));
    assert!(found.is_empty(), "in the daemon's memory: {found:#?}");

    // The receipt says that nothing is left, and the command line checks its signature.
    let out = daemon.cli(&["session", "receipt", &id, "--json"]);
    let receipt: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&receipt["valid"], &receipt["detail"]["left"]), (&json!(true), &json!([])), "{receipt}");
    assert_eq!(receipt["detail"]["credentialSealed"], true);
    let export = daemon.at.state.path().join("audit.jsonl");
    assert!(daemon.cli(&["audit", "export", "--to", export.to_str().unwrap()]).status.success());
    let verified = daemon.cli(&["audit", "verify", export.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
