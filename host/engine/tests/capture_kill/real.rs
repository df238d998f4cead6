//! The level of real processes: the engine in a process of its own (this program again), a VMM's stand-in with its TAP in a
//! namespace, and a guest that talks over the control socket as the agent does. Who dies is killed with SIGKILL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use airlock_domain::admission::Limits;
use airlock_domain::boot::TimelineEntry;
use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::network::NetworkSpec;
use airlock_domain::vault::VaultConfig;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_effects::network::Network;
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
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::{GuestMessage, HostMessage, LoginEvent, VERSION};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::outcome::{files_of, judge, judge_log};
use crate::support::{IMAGE_FILES, make_ready, plan_of, scratch, vm_dir};

/// The environment variable that makes this program a daemon; it holds a [`Place`]'s facts.
const DAEMON: &str = "AIRLOCK_CAPTURE_DAEMON";
const TEST: &str = "capture_kill_real";
const SOON: Duration = Duration::from_secs(30);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Vmm,
    /// The agent: its connection ends, another one greets the next host.
    Agent,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// When the host connected.
    Connected,
    /// When the host wants the login.
    Asked,
    /// When half of the frame with the files is on its way.
    HalfSent,
    /// So many microseconds after the whole of it is.
    Sent(u64),
    /// When the guest was told that its credential is safe, and so many microseconds later.
    Acknowledged(u64),
}

fn cells() -> Vec<(Victim, At)> {
    let of_all = [At::Connected, At::Asked, At::HalfSent, At::Sent(0), At::Sent(2000), At::Acknowledged(0)];
    let victims = [Victim::Daemon, Victim::Vmm, Victim::Agent];
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
    async fn ready(&self, user: &str) -> Result<SessionRecord> {
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
            lasts_ms: 600_000,
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

    async fn kill_vmm(&self, vm_id: VmId) -> Result<()> {
        let process = self.store.vm(vm_id).await?.and_then(|vm| vm.process).context("the VMM is recorded")?;
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).context("kill the VMM")
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

    fn log(&self) -> String {
        fs::read_to_string(self.facts.state_dir.join("daemon.log")).unwrap_or_default()
    }
}

/// What the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Connected,
    Asked,
    HalfSent,
    Sent,
    Acknowledged,
}

/// The agent's part: it greets every host and sends what it has until it is told that it is safe. `dies` is where its first
/// connection ends.
struct Guest {
    session: SessionId,
    vm: VmId,
    dies: Option<At>,
    seen: mpsc::UnboundedSender<Seen>,
    acknowledged: Arc<AtomicBool>,
}

impl Guest {
    async fn run(mut self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            // A host that is gone shows as an error: the next one is waited for.
            let _ = self.serve(stream).await;
        }
    }

    async fn serve(&mut self, mut host: UnixStream) -> Result<()> {
        let _ = self.seen.send(Seen::Connected);
        if self.dies_at(At::Connected) {
            return Ok(());
        }
        let (mut decoder, mut bytes) = (Decoder::new(), vec![0; 65536]);
        loop {
            let count = host.read(&mut bytes).await?;
            ensure!(count > 0, "the host is gone");
            decoder.push(&bytes[..count]);
            while let Some(message) = decoder.next_message::<HostMessage>() {
                match message {
                    HostMessage::Hello { .. } => {
                        let (build_id, vm_id) = (String::new(), self.vm.to_string());
                        let hello = GuestMessage::Hello {
                            version: VERSION,
                            build_id,
                            vm_id,
                            addresses: vec![],
                            timeline: vec![],
                        };
                        host.write_all(&encode(&hello)?).await?;
                    }
                    HostMessage::StartLogin(_) => {
                        let _ = self.seen.send(Seen::Asked);
                        if self.dies_at(At::Asked) || self.send_files(&mut host).await? {
                            return Ok(());
                        }
                    }
                    HostMessage::CredentialStored { login_id } => {
                        ensure!(login_id == self.session.to_string(), "another login's");
                        self.acknowledged.store(true, Ordering::SeqCst);
                        let _ = self.seen.send(Seen::Acknowledged);
                        if self.dies_at(At::Acknowledged(0)) {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether it died in the middle, or right behind it.
    async fn send_files(&mut self, host: &mut UnixStream) -> Result<bool> {
        let event = LoginEvent::Captured { files: files_of(self.session), confirmed: Some(true) };
        let frame = encode(&GuestMessage::Login { login_id: self.session.to_string(), attempt: 1, event })?;
        let (first, second) = frame.split_at(frame.len() / 2);
        host.write_all(first).await?;
        let _ = self.seen.send(Seen::HalfSent);
        if self.dies_at(At::HalfSent) {
            return Ok(true);
        }
        host.write_all(second).await?;
        let _ = self.seen.send(Seen::Sent);
        if let Some(At::Sent(us)) = self.dies {
            tokio::time::sleep(Duration::from_micros(us)).await;
            self.dies = None;
            return Ok(true);
        }
        Ok(false)
    }

    fn dies_at(&mut self, at: At) -> bool {
        let dies = self.dies == Some(at);
        if dies {
            self.dies = None;
        }
        dies
    }
}

async fn cell(place: &Place, user: &str, victim: Victim, at: At) -> Result<()> {
    let session = place.ready(user).await?;
    let socket = vm_dir(&place.facts.state_dir, session.vm_id).join("agent.sock");
    let listener = UnixListener::bind(&socket).context("listen as the guest")?;
    let (seen, mut sees) = mpsc::unbounded_channel();
    let acknowledged = Arc::new(AtomicBool::new(false));
    let guest = Guest {
        session: session.id,
        vm: session.vm_id,
        dies: (victim == Victim::Agent).then_some(at),
        seen,
        acknowledged: acknowledged.clone(),
    };
    let guest = tokio::spawn(guest.run(listener));
    let mut daemon = Daemon::start(&place.facts)?;
    let (wanted, us) = match at {
        At::Connected => (Seen::Connected, 0),
        At::Asked => (Seen::Asked, 0),
        At::HalfSent => (Seen::HalfSent, 0),
        At::Sent(us) => (Seen::Sent, us),
        At::Acknowledged(us) => (Seen::Acknowledged, us),
    };
    let waited = tokio::time::timeout(SOON, async { while sees.recv().await.is_some_and(|seen| seen != wanted) {} });
    ensure!(waited.await.is_ok(), "{wanted:?} was never seen: {}", place.log());
    tokio::time::sleep(Duration::from_micros(us)).await;
    match victim {
        Victim::Daemon => {
            daemon.kill();
            daemon = Daemon::start(&place.facts)?;
        }
        // It may be gone already, with everything else.
        Victim::Vmm => drop(place.kill_vmm(session.vm_id).await),
        Victim::Agent => {}
    }
    place.gone(session.vm_id).await?;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    judge(&place.store, &place.vault, session.id, user, victim == Victim::Vmm, acknowledged).await?;
    ensure!(!vm_dir(&place.facts.state_dir, session.vm_id).exists(), "its directory is left");
    guest.abort();
    drop(daemon);
    Ok(())
}

/// Every cell; how many there were, and which were inconsistent.
pub async fn run() -> (usize, Vec<String>) {
    let place = Place::new().await.unwrap();
    let (cells, mut inconsistent) = (cells(), Vec::new());
    for (number, (victim, at)) in cells.iter().enumerate() {
        if let Err(error) = cell(&place, &format!("u{number}"), *victim, *at).await {
            inconsistent.push(format!("{victim:?} killed at {at:?}: {error:#}"));
        }
    }
    match judge_log(&place.store).await {
        Ok(entries) => println!("real: {entries} entries of the log are chained and signed"),
        Err(error) => inconsistent.push(format!("the log: {error:#}")),
    }
    (cells.len(), inconsistent)
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
