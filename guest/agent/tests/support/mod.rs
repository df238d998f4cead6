//! A guest in this process: its programs, a home, a login's parts of the agent.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use airlock_agent::browser::Browser;
use airlock_agent::login::Logins;
use airlock_agent::login::tool::Environment;
use airlock_agent::outbox::Outbox;
use airlock_agent::service::take_urls;
use airlock_protocol::login::{LoginEvent, LoginSpec, Outcome, UrlSource};
use airlock_protocol::message::GuestMessage;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub const WITHIN: Duration = Duration::from_secs(20);

/// A guest of this test: its programs, its home, its agent.
pub struct Guest {
    pub dir: PathBuf,
    pub logins: Arc<Logins>,
    pub outbox: Arc<Outbox>,
    pub browser: Arc<Browser>,
    /// Events that came beside the others.
    pub asides: RefCell<Vec<LoginEvent>>,
    user: String,
}

impl Guest {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("airlock-login-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        for name in ["airlock-agent", "airlock-open", "airlock-demo-tool"] {
            symlink(env!("CARGO_BIN_EXE_airlock-agent"), dir.join("bin").join(name)).unwrap();
        }
        let environment = Environment {
            agent: dir.join("bin/airlock-agent"),
            bin: dir.join("bin"),
            display: None,
            home: Some(dir.join("home")),
        };
        let outbox = Arc::new(Outbox::new().unwrap());
        outbox.host_came(Vec::new);
        let browser = Arc::new(Browser::new(None, None, environment.clone()));
        let logins = Arc::new(Logins::new(environment, browser.clone(), outbox.clone()));
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
        Self { dir, logins, outbox, browser, asides: RefCell::default(), user }
    }

    pub fn with_shim(self) -> Self {
        take_urls(&self.dir.join("open.sock"), self.logins.clone()).unwrap();
        self
    }

    pub fn spec(&self, command: &[&str]) -> LoginSpec {
        let socket = self.dir.join("open.sock").display().to_string();
        LoginSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::from([("AIRLOCK_OPEN_SOCKET".to_owned(), socket)]),
            user: self.user.clone(),
            ..serde_json::from_value(serde_json::json!({"login_id": "login-1", "command": [], "env": {}, "user": "",
                "url_timeout_s": 20, "url_prefixes": ["https://idp.example/"],
                "credentials": [{"path": ".tool/c.json", "required": ["/token"]}]}))
            .unwrap()
        }
    }

    /// The next event of the login; what only accompanies one is kept in `asides`.
    pub fn next(&self) -> LoginEvent {
        let deadline = Instant::now() + WITHIN;
        loop {
            self.outbox.clear_wake();
            if let Some(GuestMessage::Login { login_id, event, .. }) = self.outbox.pop() {
                assert_eq!(login_id, "login-1");
                match event {
                    LoginEvent::CallbackListening { .. }
                    | LoginEvent::PageNotShown { .. }
                    | LoginEvent::StatusAnswered { .. } => self.asides.borrow_mut().push(event),
                    event => return event,
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            assert!(left > 0, "no event within {WITHIN:?}");
            let timeout = PollTimeout::try_from(left).unwrap();
            poll(&mut [PollFd::new(self.outbox.wake_fd(), PollFlags::POLLIN)], timeout).unwrap();
        }
    }

    pub fn started(&self) -> i32 {
        match self.next() {
            LoginEvent::ToolStarted { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    pub fn url(&self) -> (String, UrlSource) {
        match self.next() {
            LoginEvent::UrlSeen { url, source } => (url.expose().to_owned(), source),
            other => panic!("{other:?}"),
        }
    }

    pub fn failed(&self) -> (Outcome, String) {
        match self.next() {
            LoginEvent::Outcome { outcome, detail } => (outcome, detail),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.logins.cancel();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
