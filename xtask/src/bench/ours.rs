//! Our side of the boot bench: the real `airlock` daemon, real `base` VMs, the daemon's own timeline.
//!
//! The daemon gets a namespace and a port of its own, so a running installation is not touched; both are gone on every way
//! out. The golden image is kept in the bench's state directory.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use airlock_api::session::{SessionView, StageView, StartRequest, StartResponse, Timeline};
use airlock_api::vm::VmView;
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::qemu::SharedFlags;
use super::{http, millis_since};
use crate::daemon::{self, STOP_DEADLINE};
use crate::run;

/// Starts a `base` VM and no login.
const PROVIDER: &str = "shell";
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where our side is found.
#[derive(Debug, clap::Args)]
pub struct OursArgs {
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds (or gets) the golden image `base`.
    #[arg(long, default_value = "target/bench-state")]
    state_dir: PathBuf,
}

/// One measured boot.
#[derive(Debug)]
pub struct Boot {
    /// Request sent to `reachable` seen in the timeline, by the bench's own clock.
    pub reachable_ms: u64,
    /// Bytes in files that were made for this VM, logs and configuration not counted.
    pub bytes_copied: u64,
    /// The daemon's timeline.
    pub stages: Vec<StageView>,
    /// Flags of the QEMU that ran.
    pub flags: SharedFlags,
    /// What the daemon calls its driver.
    pub driver: String,
}

/// A daemon of the bench's own; ended with its namespace when this goes.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    addr: SocketAddr,
    token: String,
    state_dir: PathBuf,
    namespace: String,
}

impl Daemon {
    /// Builds the image if it is missing, then starts the daemon and waits until it serves.
    pub fn start(args: &OursArgs) -> Result<Self> {
        let root = run::workspace_root();
        let (program, state_dir) = (root.join(&args.airlock), root.join(&args.state_dir));
        if !program.exists() {
            bail!("{} is missing: cargo build -p airlock, or name another with --airlock", program.display());
        }
        std::fs::create_dir_all(&state_dir).with_context(|| format!("create {}", state_dir.display()))?;
        build_image(&program, &state_dir)?;

        let addr = free_address()?;
        let namespace = format!("airlock-bench-{}-ours", std::process::id());
        let config = state_dir.join("bench.toml");
        std::fs::write(&config, config_text(&state_dir, addr, &namespace))
            .with_context(|| format!("write {}", config.display()))?;
        let log = state_dir.join("bench-serve.log");
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new(&program)
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("share the daemon's log")?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut daemon = Self { child, addr, token: String::new(), state_dir, namespace };
        daemon.await_serving(&log)?;
        let token = daemon.state_dir.join("admin.token");
        daemon.token =
            std::fs::read_to_string(&token).with_context(|| format!("read {}", token.display()))?.trim().to_owned();
        Ok(daemon)
    }

    fn await_serving(&mut self, log: &Path) -> Result<()> {
        let start = Instant::now();
        // The first start boots a probe guest to choose a driver.
        while start.elapsed() < BOOT_DEADLINE {
            if let Some(status) = self.child.try_wait().context("look at the daemon")? {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the daemon ended with {status}\n{}", run::tail(&text, 20));
            }
            if http::request(self.addr, "GET", "/health", None, None, ASK_EVERY * 50).is_ok() {
                return Ok(());
            }
            std::thread::sleep(ASK_EVERY);
        }
        bail!(
            "the daemon does not serve on {} after {} s; its log is {}",
            self.addr,
            BOOT_DEADLINE.as_secs(),
            log.display()
        )
    }

    /// Boots one VM, waits until it is reachable, destroys it and waits until it is gone.
    pub fn boot(&self) -> Result<Boot> {
        let start = Instant::now();
        let request = StartRequest { user_id: "bench".into(), provider: PROVIDER.into() };
        let started: StartResponse = self.call("POST", "/api/auth/start", Some(&serde_json::to_string(&request)?))?;
        let session: SessionView = self.call("GET", &format!("/api/auth/session/{}", started.session_id), None)?;
        let vm = format!("/api/vms/{}", session.vm_id);
        let result = self.await_reachable(&vm, &started.session_id, start);
        self.destroy(&vm).with_context(|| format!("destroy the VM {}", session.vm_id))?;
        result
    }

    fn await_reachable(&self, vm: &str, session: &str, start: Instant) -> Result<Boot> {
        loop {
            let timeline: Timeline = self.call("GET", &format!("{vm}/timeline"), None)?;
            if let Some(failed) = timeline.stages.iter().find(|stage| !stage.ok) {
                bail!(
                    "stage {} failed: {} {}",
                    failed.stage,
                    failed.errno.as_deref().unwrap_or(""),
                    failed.detail.as_deref().unwrap_or("")
                );
            }
            if timeline.stages.iter().any(|stage| stage.stage == Stage::Reachable) {
                let reachable_ms = millis_since(start);
                let view: VmView = self.call("GET", vm, None)?;
                let pid = view.pid.context("a reachable VM without a pid")?;
                return Ok(Boot {
                    reachable_ms,
                    bytes_copied: self.bytes_of(&view.id)?,
                    flags: SharedFlags::of_process(pid)?,
                    driver: view.driver,
                    stages: timeline.stages,
                });
            }
            if start.elapsed() > BOOT_DEADLINE {
                let session: SessionView = self.call("GET", &format!("/api/auth/session/{session}"), None)?;
                bail!("not reachable after {} s: {session:?}", BOOT_DEADLINE.as_secs());
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn destroy(&self, vm: &str) -> Result<()> {
        let start = Instant::now();
        let answer = http::request(self.addr, "DELETE", vm, Some(&self.token), None, STOP_DEADLINE)?;
        if answer.status >= 300 && answer.status != 404 {
            bail!("DELETE {vm}: {} {}", answer.status, answer.body);
        }
        while start.elapsed() < STOP_DEADLINE {
            let answer = http::request(self.addr, "GET", vm, Some(&self.token), None, STOP_DEADLINE)?;
            if answer.status == 404
                || serde_json::from_str::<VmView>(&answer.body).is_ok_and(|view| view.state == "destroyed")
            {
                return Ok(());
            }
            std::thread::sleep(ASK_EVERY);
        }
        bail!("not destroyed after {} s", STOP_DEADLINE.as_secs())
    }

    /// Bytes that files of the VM's own directory occupy: a copied root or memory image would be here.
    fn bytes_of(&self, vm_id: &str) -> Result<u64> {
        let vms = self.state_dir.join("vms");
        let mut bytes = 0;
        for dir in std::fs::read_dir(&vms).with_context(|| format!("list {}", vms.display()))?.flatten() {
            if !dir.file_name().to_string_lossy().contains(vm_id.trim_start_matches("vm-")) {
                continue;
            }
            for file in std::fs::read_dir(dir.path()).context("list the VM's directory")?.flatten() {
                let path = file.path();
                let is_record = path
                    .extension()
                    .is_some_and(|ext| ["log", "json", "jsonl", "toml", "pid"].iter().any(|e| ext == *e));
                if let Ok(meta) = path.symlink_metadata()
                    && meta.is_file()
                    && !is_record
                {
                    bytes += meta.blocks() * 512;
                }
            }
        }
        Ok(bytes)
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

/// Builds what the program would boot now. An image that is current costs nothing; one of an older program would be measured.
fn build_image(program: &Path, state_dir: &Path) -> Result<()> {
    eprintln!("building the golden image base, unless it is current");
    let log = state_dir.join("bench-image.log");
    run::run_logged(
        Command::new(program).args(["image", "build", "base", "--no-boot-test", "--state-dir"]).arg(state_dir),
        &log,
    )
}

fn config_text(state_dir: &Path, addr: SocketAddr, namespace: &str) -> String {
    format!(
        "state_dir = {:?}\nlisten = \"{addr}\"\n\n[network]\nnamespace = \"{namespace}\"\n",
        state_dir.display().to_string()
    )
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("find a free port")
}
