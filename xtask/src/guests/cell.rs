//! One cell of the matrix: a daemon of its own, one session of the bare machine from the image, its timeline until `reachable`.
//!
//! Daemon, namespace and state directory are gone on every way out; the images are shared by links.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use airlock_api::session::{SessionView, StartRequest, StartResponse, Timeline};
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::bench::http;
use crate::daemon::{self, STOP_DEADLINE};
use crate::run;

/// Starts a machine and no login.
const PROVIDER: &str = "shell";
const BOOT_DEADLINE_S: u64 = 180;
const ASK_EVERY: Duration = Duration::from_millis(50);

struct Daemon {
    child: Child,
    addr: SocketAddr,
    token: String,
    namespace: String,
    state: tempfile::TempDir,
}

/// How long a boot took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the request to `reachable`.
    pub reachable: u64,
    /// From PID 1 to `route_set`, by the guest's clock.
    pub network: u64,
}

/// Boots `image` until it is ready.
pub fn boot(program: &Path, images: &Path, image: &str, config: &str) -> Result<Times> {
    let daemon = Daemon::start(program, images, image, config)?;
    let request = StartRequest { user_id: "guests".into(), provider: PROVIDER.into() };
    let started: StartResponse = daemon.call("POST", "/api/auth/start", Some(&serde_json::to_string(&request)?))?;
    let start = Instant::now();
    loop {
        let session: SessionView = daemon.call("GET", &format!("/api/auth/session/{}", started.session_id), None)?;
        if session.is_over() {
            let why = session.error.map(|error| error.message).unwrap_or_default();
            let stage = session.stage.map_or("no stage", Stage::name);
            bail!("{} at {stage}: {} ({why})", session.state, session.cause.unwrap_or_default());
        }
        let timeline: Timeline = daemon.call("GET", &format!("/api/vms/{}/timeline", session.vm_id), None)?;
        if let Some(times) = times(&timeline) {
            return Ok(times);
        }
        if start.elapsed() > Duration::from_secs(BOOT_DEADLINE_S + 20) {
            bail!("the daemon did not judge the boot by its deadline: {session:?}");
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// The times of a boot that is ready.
fn times(timeline: &Timeline) -> Option<Times> {
    let at = |wanted| timeline.stages.iter().find(|stage| stage.stage == wanted && stage.ok).map(|stage| stage.at_ms);
    let (reachable, _) = (at(Stage::Reachable)?, at(Stage::Ready)?);
    let network = at(Stage::RouteSet)? - at(Stage::InitStarted)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of one boot")]
    let whole = |ms: f64| ms.round() as u64;
    Some(Times { reachable: whole(reachable), network: whole(network) })
}

impl Daemon {
    fn start(program: &Path, images: &Path, image: &str, config: &str) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("airlock-guests-").tempdir().context("make a state directory")?;
        for dir in ["images", "cache"] {
            std::os::unix::fs::symlink(images.join(dir), state.path().join(dir)).context("link the images")?;
        }
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = addr.context("find a free port")?;
        let namespace = format!("airlock-guests-{}", std::process::id());
        let text = format!(
            "state_dir = {:?}\nlisten = \"{addr}\"\nboot_deadline_s = {BOOT_DEADLINE_S}\n{config}\
             provider_images = {{ {PROVIDER} = \"{image}\" }}\n\n[network]\nnamespace = \"{namespace}\"\n",
            state.path()
        );
        let path = state.path().join("airlock.toml");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let out = File::create(state.path().join("daemon.log")).context("create the daemon's log")?;
        let err = out.try_clone().context("share the daemon's log")?;
        let mut serve = Command::new(program);
        serve.args(["serve", "--config"]).arg(&path).stdin(Stdio::null()).stdout(out).stderr(err);
        let child = serve.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut daemon = Self { child, addr, token: String::new(), namespace, state };
        daemon.await_serving()?;
        let token = std::fs::read_to_string(daemon.state.path().join("admin.token")).context("read the token")?;
        daemon.token = token.trim().to_owned();
        Ok(daemon)
    }

    fn await_serving(&mut self) -> Result<()> {
        let start = Instant::now();
        while http::request(self.addr, "GET", "/health", None, None, STOP_DEADLINE).is_err() {
            let ended = self.child.try_wait().context("look at the daemon")?;
            if ended.is_some() || start.elapsed() > STOP_DEADLINE {
                let log = std::fs::read_to_string(self.state.path().join("daemon.log")).unwrap_or_default();
                bail!("the daemon does not serve ({ended:?})\n{}", run::tail(&log, 20));
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&str>) -> Result<T> {
        daemon::call(self.addr, &self.token, method, path, body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        daemon::end(&mut self.child, &self.namespace);
    }
}
