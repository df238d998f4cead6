//! Firecracker: smallest overhead, needs hardware virtualization that boots stock guests.
//!
//! ```text
//! run: process released ──> API answers (version) ──> configured ──> TAPs are ours ──> InstanceStart ──> Running ──> handle
//!            └─ ended, refused, silent, or a TAP of its own making: killed, error with Firecracker's own words
//! terminate: agent powers off ──> Ctrl-Alt-Del ──> SIGKILL ──> exited
//! ```
//! The driver holds no state: whether a VM is jailed is seen in its directory, so one that an earlier daemon started is handled
//! whatever the configuration says now. A Firecracker is configured once and never reused. Of its exits only one that was asked
//! for is expected ([`exit`]).

pub mod api;
mod calls;
mod client;
#[cfg(test)]
mod contract;
pub mod exit;
pub mod jail;
#[cfg(test)]
mod tests;
mod version;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::config::FirecrackerConfig;
use airlock_domain::vmm::{DriverKind, VmmExit, VmmSpec};
use airlock_protocol::message::{HostMessage, VERSION};
use airlock_protocol::paths::CONTROL_VSOCK_PORT;
use async_trait::async_trait;

use calls::Seen;
pub use calls::{Call, kernel_cmdline};
pub use client::{ApiError, Client, Fault};
#[cfg(test)]
pub(super) use tests::bare_guest;

use super::{
    DriverError, DriverInfo, HeldVmm, VmmDriver, VmmHandle, VmmPaths, check_taps, hold, kill_and_wait, log_tail,
};
use crate::control::ControlChannel;
use crate::files;
use crate::network::Network;
use crate::process::{SpawnSpec, find_program};

/// How long it may take from exec to its API, and a jailer before it. It takes 4 ms; a machine under load is slower.
const API_DEADLINE: Duration = Duration::from_secs(10);
/// How long one call may take; each sets a field and opens a file at most.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long the start itself may take: it loads the kernel and makes the guest's memory.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long the agent's channel may take to open when it is asked to power off.
const AGENT_DEADLINE: Duration = Duration::from_millis(100);

/// The driver.
#[derive(Debug, Clone)]
pub struct FirecrackerDriver {
    config: FirecrackerConfig,
}

impl FirecrackerDriver {
    /// A driver that runs Firecracker as the configuration says.
    pub fn new(config: FirecrackerConfig) -> Self {
        Self { config }
    }

    /// What the process is made of, and what it will see.
    fn process<'a>(&self, spec: &VmmSpec, network: &'a Network) -> Result<(SpawnSpec<'a>, Seen), DriverError> {
        let (vm_id, log) = (spec.vm_id, spec.dir.join("vmm.log"));
        let own: [OsString; 2] = ["--api-sock".into(), calls::API_SOCKET.into()];
        let (program, args, seen) = match &self.config.jailer {
            None => {
                let id: [OsString; 2] = ["--id".into(), vm_id.to_string().into()];
                (&self.config.program, own.into_iter().chain(id).collect(), Seen::on_host(spec))
            }
            Some(jailer) => {
                let uid = spec.uid.unwrap_or(jailer.first_uid);
                let program = find_program(&self.config.program).ok_or_else(|| DriverError::BinaryMissing {
                    program: self.config.program.clone(),
                    source: io::ErrorKind::NotFound.into(),
                })?;
                let seen = jail::prepare(spec, &program, uid);
                let seen = seen.map_err(|(path, source)| DriverError::File { vm_id, path, source })?;
                let args = jail::args(spec, jailer, &program, uid, jail::cgroup2().is_some());
                (&jailer.program, args.into_iter().chain(own).collect(), seen)
            }
        };
        let process = SpawnSpec {
            program: program.clone().into(),
            args,
            dir: spec.dir.clone(),
            output: Some(log),
            netns: Some(network.netns()),
            pid_namespace: self.config.jailer.is_some(),
        };
        Ok((process, seen))
    }

    /// Everything from the first answer of the API to a guest that runs.
    async fn start(&self, vm: &VmmHandle, calls: &[Call], taps: Taps<'_>) -> Result<(), DriverError> {
        let vm_id = vm.vm_id;
        let api = |source| DriverError::Api { vm_id, log: log_tail(&vm.paths.log), source: Box::new(source) };
        let connected = tokio::time::timeout(API_DEADLINE, Client::connect(&vm.paths.api_socket)).await;
        let mut client = connected
            .map_err(|_| DriverError::Silent {
                vm_id,
                socket: vm.paths.api_socket.clone(),
                log: log_tail(&vm.paths.log),
                source: io::ErrorKind::TimedOut.into(),
            })?
            .map_err(api)?;
        let api::Version { firecracker_version } = client.get("/version", CALL_DEADLINE).await.map_err(api)?;
        if !version::is_driven(&firecracker_version) {
            let program = self.config.program.clone();
            return Err(DriverError::Version { program, said: firecracker_version, wanted: version::WANTED });
        }
        for call in calls {
            client.put(&call.path, &call.body, CALL_DEADLINE).await.map_err(api)?;
        }
        // A TAP that vanished since the first look was made anew by Firecracker: answered 204, but no port of our bridge.
        taps.check_attached().await?;
        client.put("/actions", &calls::START, START_DEADLINE).await.map_err(api)?;
        let api::InstanceInfo { state, .. } = client.get("/", CALL_DEADLINE).await.map_err(api)?;
        if state == api::InstanceState::Running { Ok(()) } else { Err(DriverError::NotRunning { vm_id, state }) }
    }

    /// Asks the guest, then its keyboard; never ends by itself unless nobody can be asked.
    async fn ask(vm: &VmmHandle, grace: Duration) {
        let by_agent = async {
            let connect = ControlChannel::connect(&vm.paths.control_socket, vm.paths.control_port, AGENT_DEADLINE);
            let (sender, mut receiver) = connect.await.ok()?.split();
            sender.send(&HostMessage::Hello { version: VERSION, now_ms: 0, vnc_password: None }).await.ok()?;
            sender.send(&HostMessage::PowerOff).await.ok()?;
            // Until the guest closes it, which it does when it ends.
            while receiver.recv().await.is_some() {}
            Some(())
        };
        let half = tokio::time::Instant::now() + grace / 2;
        if let Ok(Some(())) = tokio::time::timeout_at(half, by_agent).await {
            // It ends its programs now; the keys would cut that short. Whoever waits for the process does not wait for this.
            tokio::time::sleep_until(half).await;
        }
        let by_keyboard = async {
            let mut client = Client::connect(&vm.paths.api_socket).await?;
            let press = api::Action { action_type: api::ActionType::SendCtrlAltDel };
            client.put("/actions", &press, CALL_DEADLINE).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(grace, by_keyboard).await {
            tracing::debug!(vm_id = %vm.vm_id, error = super::chain(&error), "Ctrl-Alt-Del is not possible");
        }
    }
}

/// The TAPs of a VM, for the second look at them.
struct Taps<'a> {
    spec: &'a VmmSpec,
    network: &'a Network,
}

impl Taps<'_> {
    async fn check_attached(&self) -> Result<(), DriverError> {
        let vm_id = self.spec.vm_id;
        for tap in self.spec.nics.iter().filter_map(|nic| nic.tap.as_ref()) {
            let attached = self.network.is_attached_port(tap).await;
            if !attached.map_err(|source| DriverError::Network { vm_id, source })? {
                let namespace = self.network.namespace().to_owned();
                return Err(DriverError::TapMissing { vm_id, tap: tap.clone(), namespace });
            }
        }
        Ok(())
    }
}

/// What Firecracker boots begins with the magic number of ELF; told before a process is made for it.
fn check_kernel(spec: &VmmSpec) -> Result<(), DriverError> {
    let (vm_id, path) = (spec.vm_id, calls::kernel(spec));
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == *b"\x7fELF" => Ok(()),
        Ok(()) => Err(DriverError::KernelFormat { vm_id, path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(DriverError::KernelFormat { vm_id, path: path.to_owned() })
        }
        Err(source) => Err(DriverError::File { vm_id, path: path.to_owned(), source }),
    }
}

/// Sockets of an earlier process in the same directory: Firecracker refuses to start over them.
fn remove_stale_sockets(dir: &Path) -> io::Result<()> {
    for name in files::entries(dir)? {
        if name == calls::API_SOCKET || name.starts_with(calls::VSOCK) {
            std::fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

/// A program's version, by its `--version`.
async fn version_of(program: &Path, name: &str) -> Result<String, DriverError> {
    let missing = |source| DriverError::BinaryMissing { program: program.to_owned(), source };
    let found = find_program(program).ok_or_else(|| missing(io::Error::from_raw_os_error(libc::ENOENT)))?;
    let output = tokio::process::Command::new(&found).arg("--version").output().await.map_err(missing)?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    match version::said(&said, name) {
        Some(version) if version::is_driven(&version) => Ok(version),
        _ => Err(DriverError::Version { program: program.to_owned(), said, wanted: version::WANTED }),
    }
}

#[async_trait]
impl VmmDriver for FirecrackerDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Firecracker
    }

    async fn check(&self) -> Result<DriverInfo, DriverError> {
        let program = self.config.program.clone();
        let version = version_of(&program, "Firecracker").await?;
        if let Some(jailer) = &self.config.jailer {
            let jailers = version_of(&jailer.program, "Jailer").await?;
            if jailers != version {
                let wanted = "the jailer of Firecracker's own version";
                return Err(DriverError::Version { program: jailer.program.clone(), said: jailers, wanted });
            }
        }
        Ok(DriverInfo { version, program })
    }

    fn paths(&self, dir: &Path) -> VmmPaths {
        let root: PathBuf = jail::root_of(dir).unwrap_or_else(|| dir.to_owned());
        VmmPaths {
            console: root.join(calls::CONSOLE),
            log: dir.join("vmm.log"),
            control_socket: root.join(calls::VSOCK),
            control_port: Some(CONTROL_VSOCK_PORT),
            api_socket: root.join(calls::API_SOCKET),
        }
    }

    async fn hold(&self, spec: &VmmSpec, network: &Network) -> Result<HeldVmm, DriverError> {
        let vm_id = spec.vm_id;
        if spec.nics.iter().any(|nic| nic.tap.is_none()) {
            return Err(DriverError::Unsupported { vm_id, what: "an interface that is connected to nothing" });
        }
        check_kernel(spec)?;
        check_taps(spec, network).await?;
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| DriverError::File { vm_id, path, source }
        };
        remove_stale_sockets(&spec.dir).map_err(file(&spec.dir))?;
        let (process, seen) = self.process(spec, network)?;
        let paths = self.paths(&spec.dir);
        let calls = calls::configuration(spec, &self.config, &seen);
        let calls = calls.map_err(|error| file(&spec.dir)(error.into()))?;
        let held = hold(spec, network, paths, process).await?;
        Ok(HeldVmm { calls, ..held })
    }

    async fn run(&self, held: HeldVmm) -> Result<VmmHandle, DriverError> {
        let (spec, network, calls) = (held.spec.clone(), held.network.clone(), held.calls.clone());
        let vm = held.release()?;
        let vm_id = vm.vm_id;
        let rejected = |exit| DriverError::Rejected { vm_id, exit, log: log_tail(&vm.paths.log) };
        let started = tokio::select! {
            biased;
            exit = vm.process.exited() => return Err(rejected(exit)),
            started = self.start(&vm, &calls, Taps { spec: &spec, network: &network }) => started,
        };
        let Err(error) = started else { return Ok(vm) };
        // An exchange that broke is most often a Firecracker that is just ending: its words are worth more than ours.
        let broke = |source: &ApiError| matches!(source, ApiError::Exchange { .. } | ApiError::Connect { .. });
        if matches!(&error, DriverError::Api { source, .. } if broke(source))
            && let Ok(exit) = tokio::time::timeout(Duration::from_secs(1), vm.process.exited()).await
        {
            return Err(rejected(exit));
        }
        kill_and_wait(&vm).await?;
        Err(error)
    }

    async fn terminate(&self, vm: &VmmHandle, grace: Duration) -> Result<VmmExit, DriverError> {
        if let Some(exit) = vm.process.exit() {
            return Ok(exit);
        }
        let gone = async {
            tokio::select! {
                biased;
                exit = vm.process.exited() => exit,
                exit = async { Self::ask(vm, grace).await; vm.process.exited().await } => exit,
            }
        };
        let exit = match tokio::time::timeout(grace, gone).await {
            Ok(exit) => exit,
            Err(_) => kill_and_wait(vm).await?,
        };
        if !exit::is_expected(exit, true) {
            tracing::warn!(vm_id = %vm.vm_id, %exit, meaning = exit::meaning(exit), "Firecracker ended in its own way");
        }
        Ok(exit)
    }

    fn sweep(&self, dir: &Path) -> io::Result<()> {
        jail::remove_cgroup(dir).map(drop)
    }
}
