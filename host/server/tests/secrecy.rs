//! Nothing of a ticket, a cookie or a screen's password is in the daemon's log, at its most talkative; nor is it in the pages, the
//! evidence or the records. In a process of its own, because the log is the process's.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use airlock_protocol::{Sensitive, vnc_auth};
use axum::http::{StatusCode, header};
use support::machine::greeted;
use support::{Api, World, skipped};
use tracing_subscriber::fmt::MakeWriter;

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Files below `dir` that hold `secret`.
fn holding(dir: &Path, secret: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, secret));
        } else if kind.is_file() && std::fs::read(&path).unwrap().windows(secret.len()).any(|part| part == secret) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_cookies_and_passwords_are_in_no_log_and_no_file() {
    if skipped().is_some() {
        return;
    }
    let log = Log::default();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).init();

    // A link that is opened, opened again, and opened too late; a viewer that is let in and one that is not.
    let api = Api::open().await;
    let (id, link) = api.start("u").await;
    let ticket = link.split_once("ticket=").unwrap().1.to_owned();
    let cookie = api.open_link(&link).await.unwrap();
    let secret = cookie.split_once('=').unwrap().1.to_owned();
    assert_eq!(api.get(&link, &[]).await.status, StatusCode::FORBIDDEN);
    let shown = api.get(&format!("/api/auth/session/{id}/novnc"), &[("cookie", &cookie)]).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.headers.get(header::SET_COOKIE).is_none() && !shown.text.contains(&secret));

    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (socket, screen) = tokio::join!(world.daemon.look(&machine), machine.let_in(&password));
    let (mut socket, _screen) = (socket.unwrap(), screen.unwrap());
    greeted(&mut socket).await.unwrap();
    let other = Sensitive::new("another8");
    let (refused, _) = tokio::join!(world.daemon.look(&machine), machine.let_in(&other));
    assert_eq!(refused.unwrap().reader.closed().await.map(|(code, _)| code), Some(4005));
    let watched = machine.cookie.split_once('=').unwrap().1.to_owned();

    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        text.contains("/novnc") && text.contains("vnc_auth_mismatch"),
        "the log says what happened: {} bytes",
        text.len()
    );
    for (what, secret) in [
        ("ticket", ticket.as_str()),
        ("cookie", &secret),
        ("cookie of the bridge", &watched),
        ("password", password.expose()),
    ] {
        assert!(!text.contains(secret), "a {what} is in the log");
        for dir in [api.state_dir(), world.state_dir()] {
            assert_eq!(holding(dir, secret.as_bytes()), Vec::<String>::new(), "a {what} is in a file");
        }
    }
    // As a password file holds it, it is no better hidden.
    assert_eq!(holding(world.state_dir(), &vnc_auth::password_file(&password)), Vec::<String>::new());
    world.close().await;
}
