//! The level of real processes: the engine in a process of its own (this program again), a VMM's stand-in with its TAP in a
//! namespace, and a guest that talks over the control socket as the agent does. Who dies is killed with SIGKILL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use airlock_domain::admission::Limits;
use airlock_domain::boot::TimelineEntry;
use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::network::NetworkSpec;
use airlock_domain::session::{SessionEvent, SessionState};
use airlock_domain::vault::VaultConfig;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{Cause, SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_effects::network::Network;
use airlock_effects::process::ProcessHandle;
use airlock_effects::steps::LinuxEffects;
use airlock_effects::vmm::Drivers;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_engine::executor::Executor;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::{Accepted, NewSession, Room, Store};
use airlock_engine::vault::Vault;
use airlock_engine::{Engine, Moment};
use airlock_image::Manifest;
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Matrix;
use crate::guest::{At, Played, SOON, Seen, Sends};
use crate::outcome::{judge, judge_log};
use crate::support::{IMAGE_FILES, make_ready, move_session, plan_of, scratch, vm_dir};

/// The environment variable that makes this program a daemon; it holds a [`Place`]'s facts.
const DAEMON: &str = "AIRLOCK_CAPTURE_DAEMON";
const TEST: &str = "capture_kill_real";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Vmm,
    /// The agent: its connection ends, another one greets the next host.
    Agent,
    /// The daemon, and the VMM before there is another one.
    DaemonThenVmm,
    /// The daemon, and every next one as soon as the guest knows it.
    Daemons,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Vmm => "VMM",
            Self::Agent => "agent",
            Self::DaemonThenVmm => "daemon, then VMM",
            Self::Daemons => "daemon thrice",
        }
    }
}

fn cells() -> Vec<(Victim, At)> {
    let of_all = [At::Connected, At::Asked, At::HalfSent, At::Sent(0), At::Sent(2000), At::Acknowledged(0)];
    let victims = [Victim::Daemon, Victim::Vmm, Victim::Agent, Victim::DaemonThenVmm, Victim::Daemons];
    let mut cells: Vec<_> = victims.into_iter().flat_map(|victim| of_all.map(|at| (victim, at))).collect();
    let later = [300, 700, 1300, 3000, 5000, 8000, 13_000, 21_000, 34_000].map(At::Sent);
    cells.extend(later.into_iter().chain([500, 3000, 10_000].map(At::Acknowledged)).map(|at| (Victim::Daemon, at)));
    cells.extend([5000, 13_000].map(|us| (Victim::Vmm, At::Sent(us))));
    cells
}

/// What a daemon is told.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    state_dir: PathBuf,
    namespace: String,
}

fn config(facts: &Facts) -> Config {
    let mut config = Config { state_dir: facts.state_dir.clone(), driver: DriverChoice::QemuTcg, ..Config::default() };
    config.network.namespace.clone_from(&facts.namespace);
    config
}

/// In a process that was started as a daemon: serves until it is killed, or until whoever started it is gone.
pub fn be_a_daemon_if_asked() {
    let Ok(facts) = std::env::var(DAEMON) else { return };
    let serve = || -> Result<()> {
        let facts: Facts = serde_json::from_str(&facts)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let drivers = Drivers::only(Arc::new(FakeDriver::new()));
        let engine = runtime.block_on(Engine::open_with(config(&facts), drivers))?;
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        drop(engine);
        Ok(())
    };
    if let Err(error) = serve() {
        eprintln!("{error:?}");
    }
    std::process::exit(3);
}

/// A daemon of its own. Dropped, it is killed.
struct Daemon(Child);

impl Daemon {
    fn start(facts: &Facts) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args([TEST, "--exact", "--nocapture"]).env(DAEMON, serde_json::to_string(facts)?);
        let log = fs::File::options().create(true).append(true).open(facts.state_dir.join("daemon.log"))?;
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().context("start a daemon")?))
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A namespace, a state directory, and what the test itself does there. Dropped, everything is gone.
struct Place {
    facts: Facts,
    image: String,
    store: Store,
    vault: Vault,
    executor: Executor,
    _state: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.facts.namespace);
    }
}

impl Place {
    async fn new() -> Result<Self> {
        let (state, namespace) = (scratch(), format!("alk-capture-{}", std::process::id()));
        let facts = Facts { state_dir: state.path().to_owned(), namespace };
        for name in IMAGE_FILES {
            fs::write(state.path().join(name), "x")?;
        }
        fs::create_dir_all(state.path().join("vms"))?;
        let image = publish_image(state.path())?;
        // The rows are those of the host that the daemon takes itself for.
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let store = Store::open(&state.path().join("airlock.db"), host.trim()).await?;
        let vault = Vault::open(&VaultConfig::default(), state.path(), true)?;
        let spec = NetworkSpec { namespace: facts.namespace.clone(), ..NetworkSpec::default() };
        let network = Network::open(&spec).await?;
        let effects = LinuxEffects::new(network, Arc::new(Drivers::only(Arc::new(FakeDriver::new()))), state.path());
        let executor = Executor::new(store.clone(), Arc::new(effects), state.path(), EvidenceLimits::default());
        Ok(Self { facts, image, store, vault, executor, _state: state })
    }

    /// A session whose machine is ready: everything but the login was done by an earlier daemon.
    async fn ready(&self, user: &str, lasts_ms: i64) -> Result<SessionRecord> {
        let new = NewSession {
            id: SessionId::from_uuid(Uuid::new_v4()),
            vm_id: VmId::from_uuid(Uuid::new_v4()),
            user_id: user.into(),
            provider: "demo".into(),
            idempotency_key: None,
            image: self.image.clone(),
            driver: DriverKind::QemuTcg,
            memory_mib: 64,
            now: Moment::now(),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            lasts_ms,
        };
        let room = Room {
            limits: Limits { sessions_per_user: 0, ..Limits::default() },
            subnet: NetworkSpec::default().subnet,
            memory_mib: 1 << 30,
            available_mib: 1 << 30,
        };
        let Accepted::Begun(session) = self.store.accept(&new, &room).await? else { bail!("not begun") };
        self.executor.start(&plan_of(&session, &self.facts.state_dir)).await?;
        for (stage, at_ms) in Stage::ALL.iter().zip([0.0, 1.0, 2.0].into_iter().chain(std::iter::repeat(3.0))) {
            let entry = TimelineEntry { stage: *stage, ok: true, at_ms, guest_us: None, errno: None, detail: None };
            self.store.add_stage(session.vm_id, &entry).await?;
        }
        make_ready(&self.store, &session).await;
        Ok(session)
    }

    /// Kills the VMM, if it is still there; by pid and start time, so that nobody else is hit.
    async fn kill_vmm(&self, vm_id: VmId) -> Result<()> {
        let process = self.store.vm(vm_id).await?.and_then(|vm| vm.process).context("the VMM is recorded")?;
        if let Some(vmm) = ProcessHandle::open(process)? {
            vmm.kill()?;
        }
        Ok(())
    }

    /// Waits until nothing of a VM is left.
    async fn gone(&self, vm_id: VmId) -> Result<()> {
        let gone = async {
            while self.store.vm(vm_id).await?.is_some_and(|vm| vm.state != VmState::Destroyed) {
                // Another process writes it: there is nothing to wait for but time.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(SOON, gone).await;
        waited.unwrap_or_else(|_| bail!("VM {vm_id} is not gone after {SOON:?}: {}", self.log()))
    }

    fn vm_dir(&self, session: &SessionRecord) -> PathBuf {
        vm_dir(&self.facts.state_dir, session.vm_id)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.facts.state_dir.join("daemon.log")).unwrap_or_default()
    }
}

/// Whether the daemon that was killed left the session completed; none if it was not killed.
async fn cell(place: &Place, user: &str, victim: Victim, at: At) -> Result<Option<bool>> {
    let session = place.ready(user, 600_000).await?;
    let mut guest =
        Played::begin(&place.vm_dir(&session), &session, Sends::Files, (victim == Victim::Agent).then_some(at))?;
    let mut daemon = Daemon::start(&place.facts)?;
    let (wanted, us) = match at {
        At::Connected => (Seen::Connected, 0),
        At::Asked => (Seen::Asked, 0),
        At::HalfSent => (Seen::HalfSent, 0),
        At::Sent(us) => (Seen::Sent, us),
        At::Acknowledged(us) => (Seen::Acknowledged, us),
    };
    guest.until(wanted).await.with_context(|| place.log())?;
    tokio::time::sleep(Duration::from_micros(us)).await;
    let mut left = None;
    match victim {
        Victim::Daemon | Victim::DaemonThenVmm | Victim::Daemons => {
            daemon.kill();
            let state = place.store.session(session.id).await?.context("the session is recorded")?.state;
            ensure!(state == SessionState::Completed || !state.is_terminal(), "the daemon left it {state}");
            left = Some(state == SessionState::Completed);
            if victim == Victim::DaemonThenVmm {
                place.kill_vmm(session.vm_id).await?;
            }
            daemon = Daemon::start(&place.facts)?;
        }
        Victim::Vmm => place.kill_vmm(session.vm_id).await?,
        Victim::Agent => {}
    }
    if victim == Victim::Daemons && left == Some(false) {
        for _ in 0..2 {
            guest.until(Seen::Connected).await.with_context(|| place.log())?;
            daemon.kill();
            daemon = Daemon::start(&place.facts)?;
        }
    }
    place.gone(session.vm_id).await?;
    let acknowledged = guest.acknowledged.load(Ordering::SeqCst);
    let vmm_died = matches!(victim, Victim::Vmm | Victim::DaemonThenVmm);
    judge(&place.store, &place.vault, session.id, user, vmm_died, acknowledged).await?;
    ensure!(!place.vm_dir(&session).exists(), "its directory is left");
    drop(daemon);
    Ok(left)
}

/// A capture that a daemon began, and that the guest never sends to the next one: the session does not outlast its deadline.
async fn never_sent(place: &Place) -> Result<()> {
    let session = place.ready("silent", 2000).await?;
    move_session(&place.store, session.id, SessionEvent::CredentialWritten).await;
    let mut guest = Played::begin(&place.vm_dir(&session), &session, Sends::Nothing, None)?;
    let _daemon = Daemon::start(&place.facts)?;
    guest.until(Seen::Asked).await.with_context(|| place.log())?;
    place.gone(session.vm_id).await?;
    let ended = place.store.session(session.id).await?.context("the session is recorded")?;
    let cause = ended.failure.as_ref().map(|failure| failure.cause);
    ensure!(ended.state == SessionState::Failed && cause == Some(Cause::DaemonInterrupted), "it is {ended:?}");
    ensure!(ended.ended_ms.is_some_and(|ms| ms >= session.deadline_ms), "it did not last until its deadline");
    ensure!(place.store.credential("silent", &session.provider).await?.is_none(), "there is a credential");
    ensure!(place.store.receipt(session.id).await?.is_some(), "there is no receipt");
    Ok(())
}

/// A guest that somebody took over, and that sends a file which is not its tool's: nothing of it gets into the vault.
async fn not_its_files(place: &Place) -> Result<()> {
    let session = place.ready("foreign", 600_000).await?;
    let _guest = Played::begin(&place.vm_dir(&session), &session, Sends::OtherFiles, None)?;
    let _daemon = Daemon::start(&place.facts)?;
    place.gone(session.vm_id).await?;
    let ended = place.store.session(session.id).await?.context("the session is recorded")?;
    let cause = ended.failure.as_ref().map(|failure| failure.cause);
    ensure!(ended.state == SessionState::Failed && cause == Some(Cause::CredentialMalformed), "it is {ended:?}");
    ensure!(place.store.credential("foreign", &session.provider).await?.is_none(), "there is a credential");
    Ok(())
}

/// Every cell.
pub async fn run() -> Matrix {
    let place = Place::new().await.unwrap();
    let mut matrix = Matrix::default();
    for (number, (victim, at)) in cells().into_iter().enumerate() {
        let cell = cell(&place, &format!("u{number}"), victim, at).await;
        matrix.add(victim.name(), cell, || format!("{victim:?} killed at {at:?}"));
    }
    let never_sent = never_sent(&place).await.map(|()| None);
    matrix.add("daemon, files gone", never_sent, || "never sent again".into());
    let not_its_files = not_its_files(&place).await.map(|()| None);
    matrix.add("nobody, other files", not_its_files, || "a file that is not the tool's".into());
    match judge_log(&place.store).await {
        Ok(entries) => println!("real: {entries} entries of the log are chained and signed"),
        Err(error) => matrix.inconsistent.push(format!("the log: {error:#}")),
    }
    matrix
}

/// An image that is whole by its manifest; nothing of it is ever run. Returns its reference.
fn publish_image(state_dir: &Path) -> Result<String> {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let files = [("vmlinuz", "no kernel"), ("initramfs", "no initramfs"), ("rootfs.erofs", "no root")];
    let [kernel, initramfs, rootfs] = files.map(
        |(name, content)| serde_json::json!({"name": name, "sha256": hex(content.as_bytes()), "size": content.len()}),
    );
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": "base", "recipe_digest": "0", "build_id": "0", "epoch": 0, "suite": "none", "memory_mib": 64, "vcpus": 1,
        "network_owner": "airlock", "readiness": ["reachable"], "root_fs": "erofs", "modules": [],
        "kernel": {"package": "none", "release": "0", "config": {}},
        "files": {"kernel": kernel, "initramfs": initramfs, "rootfs": rootfs}, "services": [], "packages": {},
    }))?;
    let text = toml::to_string(&manifest)?;
    let reference = format!("base@sha256:{}", hex(text.as_bytes()));
    let dir = state_dir.join("images").join(&reference);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("manifest.toml"), text)?;
    for (name, content) in files {
        fs::write(dir.join(name), content)?;
    }
    fs::write(state_dir.join("images/base.current"), &reference)?;
    Ok(reference)
}
