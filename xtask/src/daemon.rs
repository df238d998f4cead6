//! What everything that runs an `airlock serve` of its own shares: starting it with a state directory, a namespace and a port of its
//! own, asking it, and ending it with all it made.
//!
//! The images are shared by links. Daemon, namespace and state directory are gone on every way out; whatever goes wrong with
//! that is said.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::bench::http;
use crate::run;

/// How long an answer, and the end of a daemon, may take.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What a daemon is started with.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// In the names of its state directory and namespace.
    pub name: &'a str,
    /// Lines of its configuration before the tables.
    pub config: &'a str,
    /// Lines of `[network]`, then more tables.
    pub network: &'a str,
    /// Program and arguments that end by executing what follows them: another mount namespace, say.
    pub wrapper: Vec<OsString>,
    /// `PATH`; none: ours.
    pub path: Option<OsString>,
}

/// A state directory with a configuration in it; no daemon yet.
#[derive(Debug)]
pub struct Installation {
    /// The state directory.
    pub state: tempfile::TempDir,
    /// Name of the network namespace.
    pub namespace: String,
    addr: SocketAddr,
}

impl Installation {
    /// Makes the state directory, with the images and the build cache of `images` linked into it.
    pub fn new(images: &Path, wanted: &Wanted<'_>) -> Result<Self> {
        let prefix = format!("airlock-{}-", wanted.name);
        let state = tempfile::Builder::new().prefix(&prefix).tempdir().context("make a state directory")?;
        for dir in ["images", "cache"] {
            std::os::unix::fs::symlink(images.join(dir), state.path().join(dir)).context("link the images")?;
        }
        Self::within(state, wanted)
    }

    /// Uses a state directory that has its images already.
    pub fn within(state: tempfile::TempDir, wanted: &Wanted<'_>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = addr.context("find a free port")?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("airlock-{}-{}-{count}", wanted.name, std::process::id());
        let text = format!(
            "state_dir = {:?}\nlisten = \"{addr}\"\n{}\n[network]\nnamespace = \"{namespace}\"\n{}",
            state.path(),
            wanted.config,
            wanted.network
        );
        let path = state.path().join("airlock.toml");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { state, namespace, addr })
    }

    /// Where its daemon serves, as clients want it.
    pub fn base(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn serve(&self, program: &Path, wanted: &Wanted<'_>) -> Result<Child> {
        let log = self.state.path().join("daemon.log");
        let out = File::options().append(true).create(true).open(&log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone().context("share the daemon's log")?;
        let mut words = wanted.wrapper.iter().cloned().chain([program.into(), "serve".into(), "--config".into()]);
        let mut serve = Command::new(words.next().unwrap_or_default());
        serve.args(words).arg(self.state.path().join("airlock.toml"));
        if let Some(path) = &wanted.path {
            serve.env("PATH", path);
        }
        serve.stdin(Stdio::null()).stdout(out).stderr(err);
        serve.spawn().with_context(|| format!("start {}", program.display()))
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    token: String,
    /// Its state directory and namespace.
    pub at: Installation,
}

impl Daemon {
    /// Starts a daemon on the images of `images` and waits until it serves.
    pub fn start(program: &Path, images: &Path, wanted: &Wanted<'_>) -> Result<Self> {
        Self::on(Installation::new(images, wanted)?, program, wanted)
    }

    /// Starts a daemon on an installation and waits until it serves.
    pub fn on(at: Installation, program: &Path, wanted: &Wanted<'_>) -> Result<Self> {
        let child = at.serve(program, wanted)?;
        let mut daemon = Self { child, token: String::new(), at };
        daemon.await_serving()?;
        Ok(daemon)
    }

    /// `kill -9`, and nothing else: its machines live on.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("kill the daemon").map(drop)
    }

    /// Another daemon on the same installation.
    pub fn restart(&mut self, program: &Path, wanted: &Wanted<'_>) -> Result<()> {
        self.child = self.at.serve(program, wanted)?;
        self.await_serving()
    }

    fn await_serving(&mut self) -> Result<()> {
        let start = Instant::now();
        while http::request(self.at.addr, "GET", "/health", None, None, STOP_DEADLINE).is_err() {
            let ended = self.child.try_wait().context("look at the daemon")?;
            if ended.is_some() || start.elapsed() > STOP_DEADLINE {
                bail!("the daemon does not serve ({ended:?})\n{}", run::tail(&self.log(), 20));
            }
            std::thread::sleep(ASK_EVERY);
        }
        let token = std::fs::read_to_string(self.at.state.path().join("admin.token")).context("read the token")?;
        self.token = token.trim().to_owned();
        Ok(())
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at.state.path().join("daemon.log")).unwrap_or_default()
    }

    /// One request with the admin token; status and body, whatever they are.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<http::Answer> {
        http::request(self.at.addr, method, path, Some(&self.token), body, STOP_DEADLINE)
    }

    /// One request with the admin token that must succeed; its answer's JSON.
    pub fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&str>) -> Result<T> {
        call(self.at.addr, &self.token, method, path, body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child, &self.at.namespace);
    }
}

/// One request with a token; its answer's JSON.
pub fn call<T: DeserializeOwned>(
    addr: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<T> {
    let answer = http::request(addr, method, path, Some(token), body, STOP_DEADLINE)?;
    if answer.status >= 300 {
        bail!("{method} {path}: {} {}", answer.status, answer.body);
    }
    serde_json::from_str(&answer.body).with_context(|| format!("read the answer of {method} {path}: {}", answer.body))
}

/// Ends a daemon and removes its namespace; for `drop`, so it says what goes wrong and goes on.
pub fn end(child: &mut Child, namespace: &str) {
    // SIGINT first: the daemon then takes its VMs down with it.
    if matches!(child.try_wait(), Ok(None))
        && let Ok(pid) = i32::try_from(child.id())
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
    let start = Instant::now();
    while start.elapsed() < STOP_DEADLINE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(ASK_EVERY);
    }
    if matches!(child.try_wait(), Ok(None)) {
        eprintln!("the daemon did not end on SIGINT in {} s: killing it", STOP_DEADLINE.as_secs());
        let _ = child.kill().and_then(|()| child.wait());
    }
    if Path::new("/run/netns").join(namespace).exists()
        && let Err(error) = run::run(Command::new("ip").args(["netns", "del", namespace]))
    {
        eprintln!("left behind: network namespace {namespace}: {error:#}");
    }
}
