//! Drivers that start a VMM. One trait, one contract, a fake beside the real ones.
//!
//! A driver starts a process inside the installation's namespace and says where its files are; it keeps nothing in memory, so a
//! VM that an earlier daemon started is handled the same way: [`ProcessHandle::open`] and [`VmmDriver::paths`] give it back.
//! When [`VmmDriver::hold`] or [`VmmDriver::run`] fails, no process is left. Its error quotes the last lines of the VMM's own log.

pub mod fake;
pub mod firecracker;
pub mod qemu;
#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::config::FirecrackerConfig;
use airlock_domain::vmm::{DriverKind, ProcessId, VmmExit, VmmSpec};
use async_trait::async_trait;

use crate::network::{Network, NetworkError};
use crate::process::{self, HeldProcess, ProcessError, ProcessHandle, SpawnSpec};

/// How long a VMM may take to vanish after SIGKILL (it may have to free gigabytes).
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How much of a VMM's log an error quotes.
const LOG_LINES: usize = 8;

/// Starts and ends VMs of one kind of VMM.
#[async_trait]
pub trait VmmDriver: Send + Sync + std::fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> DriverKind;

    /// Whether the VMM is installed, and its version.
    async fn check(&self) -> Result<DriverInfo, DriverError>;

    /// Where the files of a VM are, given its directory.
    fn paths(&self, dir: &Path) -> VmmPaths;

    /// Makes the VMM's process, inside the namespace, and holds it before the VMM's first instruction: the caller records its
    /// id, then lets it [`VmmDriver::run`]. Dropped, it is gone.
    async fn hold(&self, spec: &VmmSpec, network: &Network) -> Result<HeldVmm, DriverError>;

    /// Lets a held VMM run. Returns when it has accepted its configuration and runs the guest.
    async fn run(&self, held: HeldVmm) -> Result<VmmHandle, DriverError>;

    /// [`VmmDriver::hold`] and [`VmmDriver::run`] for a process that nobody records.
    async fn spawn(&self, spec: &VmmSpec, network: &Network) -> Result<VmmHandle, DriverError> {
        self.run(self.hold(spec, network).await?).await
    }

    /// Ends the VMM: asks, waits for `grace`, kills, and waits until the process is gone. Fine if it is gone already.
    async fn terminate(&self, vm: &VmmHandle, grace: Duration) -> Result<VmmExit, DriverError>;

    /// Removes what a VM that is gone left outside its directory. Most leave nothing.
    fn sweep(&self, _dir: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

/// The drivers of an installation, by kind.
#[derive(Debug)]
pub struct Drivers {
    only: Option<Arc<dyn VmmDriver>>,
    firecracker: FirecrackerConfig,
}

impl Drivers {
    /// The real ones.
    pub fn real(firecracker: FirecrackerConfig) -> Self {
        Self { only: None, firecracker }
    }

    /// One that stands in for all, for tests and benches.
    pub fn only(driver: Arc<dyn VmmDriver>) -> Self {
        Self { only: Some(driver), firecracker: FirecrackerConfig::default() }
    }

    /// The driver of a kind.
    pub fn get(&self, kind: DriverKind) -> Arc<dyn VmmDriver> {
        if let Some(driver) = &self.only {
            return driver.clone();
        }
        match kind {
            DriverKind::QemuKvm => Arc::new(qemu::QemuDriver::new(qemu::Accel::Kvm)),
            DriverKind::QemuTcg => Arc::new(qemu::QemuDriver::new(qemu::Accel::Tcg)),
            DriverKind::Firecracker => Arc::new(firecracker::FirecrackerDriver::new(self.firecracker.clone())),
        }
    }
}

/// What a driver found installed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DriverInfo {
    /// The VMM's version, e.g. `7.2.17`.
    pub version: String,
    /// The program.
    pub program: PathBuf,
}

/// Files of one VM, all in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmPaths {
    /// The guest's serial console, written by the VMM itself.
    pub console: PathBuf,
    /// What the VMM prints.
    pub log: PathBuf,
    /// Unix socket of the control channel.
    pub control_socket: PathBuf,
    /// Port of the guest's vsock that the channel is asked for on that socket; none: the socket is the channel.
    pub control_port: Option<u32>,
    /// Unix socket of the VMM's own API (QMP of QEMU, HTTP of Firecracker).
    pub api_socket: PathBuf,
}

/// A VM's process and files.
#[derive(Debug, Clone)]
pub struct VmmHandle {
    /// Whose it is.
    pub vm_id: VmId,
    /// The VMM.
    pub process: ProcessHandle,
    /// Its files.
    pub paths: VmmPaths,
}

/// A VMM that does not run yet.
#[derive(Debug)]
pub struct HeldVmm {
    spec: VmmSpec,
    network: Network,
    process: HeldProcess,
    paths: VmmPaths,
    /// What it is told once it runs; empty for those that are told everything in their arguments.
    calls: Vec<firecracker::Call>,
}

impl HeldVmm {
    /// The process that will be the VMM.
    pub fn process(&self) -> ProcessId {
        self.process.handle().id()
    }

    fn release(self) -> Result<VmmHandle, DriverError> {
        let Self { spec: VmmSpec { vm_id, .. }, process, paths, .. } = self;
        let process = process.release().map_err(|source| DriverError::Process { vm_id, source })?;
        Ok(VmmHandle { vm_id, process, paths })
    }
}

/// Makes the process of a VMM and holds it.
async fn hold(
    spec: &VmmSpec,
    network: &Network,
    paths: VmmPaths,
    process: SpawnSpec<'_>,
) -> Result<HeldVmm, DriverError> {
    let process = process::hold(process).await;
    let process = process.map_err(|source| DriverError::Process { vm_id: spec.vm_id, source })?;
    Ok(HeldVmm { spec: spec.clone(), network: network.clone(), process, paths, calls: Vec::new() })
}

/// What went wrong with a VMM.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The program is not installed.
    #[error("find {}", program.display())]
    BinaryMissing {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The program does not say a version that we know how to drive.
    #[error("{} says {said:?}, but {wanted} is needed", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// First line of what it said.
        said: String,
        /// What would do.
        wanted: &'static str,
    },
    /// The process cannot be started, signalled or watched.
    #[error("run the VMM of VM {vm_id}")]
    Process {
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: ProcessError,
    },
    /// A TAP that the VM is to be attached to is not there.
    #[error("namespace {namespace} has no TAP {tap} for VM {vm_id}")]
    TapMissing {
        /// The VM.
        vm_id: VmId,
        /// The TAP.
        tap: String,
        /// The namespace.
        namespace: String,
    },
    /// The namespace cannot be looked at.
    #[error("look for the TAPs of VM {vm_id}")]
    Network {
        /// The VM.
        vm_id: VmId,
        /// What went wrong.
        #[source]
        source: NetworkError,
    },
    /// A file of the VM cannot be made or read.
    #[error("prepare {} for VM {vm_id}", path.display())]
    File {
        /// The VM.
        vm_id: VmId,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The VMM ended before it ran the guest.
    #[error("the VMM of VM {vm_id} {exit} before the guest ran; it said: {log}")]
    Rejected {
        /// The VM.
        vm_id: VmId,
        /// How it ended.
        exit: VmmExit,
        /// The last lines of its log.
        log: String,
    },
    /// The VMM runs but does not answer on its API.
    #[error("the VMM of VM {vm_id} does not answer on {}; it said: {log}", socket.display())]
    Silent {
        /// The VM.
        vm_id: VmId,
        /// Its API's socket.
        socket: PathBuf,
        /// The last lines of its log.
        log: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The VMM refused its configuration, or did not answer as it should.
    #[error("configure the VMM of VM {vm_id}; its log says: {log}")]
    Api {
        /// The VM.
        vm_id: VmId,
        /// The last lines of its log.
        log: String,
        /// What went wrong; a refusal has the VMM's own words.
        #[source]
        source: Box<firecracker::ApiError>,
    },
    /// The VMM took the start and does not run.
    #[error("the VMM of VM {vm_id} was started and is {state:?}")]
    NotRunning {
        /// The VM.
        vm_id: VmId,
        /// What it is.
        state: firecracker::api::InstanceState,
    },
    /// This VMM cannot give the VM what it asks for.
    #[error("VM {vm_id} asks for {what}, which this VMM does not have")]
    Unsupported {
        /// The VM.
        vm_id: VmId,
        /// What it asks for.
        what: &'static str,
    },
    /// The kernel is in another form than this VMM boots.
    #[error("kernel {} of VM {vm_id} is no ELF file, and this VMM boots no other", path.display())]
    KernelFormat {
        /// The VM.
        vm_id: VmId,
        /// The kernel.
        path: PathBuf,
    },
    /// It did not even vanish after SIGKILL.
    #[error("process {pid} of VM {vm_id} is still there {waited:?} after SIGKILL")]
    StillAlive {
        /// The VM.
        vm_id: VmId,
        /// Its process.
        pid: i32,
        /// How long was waited.
        waited: Duration,
    },
}

impl DriverError {
    /// The catalogue's cause code, where the catalogue has one. Of a rejection the VMM's own words decide.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::BinaryMissing { .. } => Some("vmm_binary_missing"),
            Self::Process { source: ProcessError::Spawn { source, .. }, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Some("vmm_binary_missing")
            }
            Self::TapMissing { .. } => Some("tap_missing"),
            Self::Network { source, .. } => source.cause(),
            Self::Version { .. } => Some("vmm_version_unsupported"),
            Self::Rejected { log, exit, .. } => Some(cause_of_log(log, *exit)),
            Self::File { path, source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Some("disk_full"),
                Some(libc::ENOENT) if !path.exists() => Some("image_missing"),
                _ => None,
            },
            Self::Api { source, log, .. } => source.fault().map(|fault| cause_of_fault(fault, log)),
            Self::NotRunning { .. } => Some("vmm_exited"),
            Self::Unsupported { .. } | Self::KernelFormat { .. } => Some("vmm_config_rejected"),
            Self::Silent { .. } | Self::StillAlive { .. } | Self::Process { .. } => None,
        }
    }
}

/// Reads a cause out of what QEMU prints when it refuses to start. The phrases are QEMU's own, stable since 2.x.
fn cause_of_log(log: &str, exit: VmmExit) -> &'static str {
    let says = |phrases: &[&str]| phrases.iter().all(|phrase| log.contains(phrase));
    if says(&["KVM", "Permission denied"]) {
        "kvm_permission"
    } else if says(&["KVM", "No such file"]) {
        "kvm_missing"
    } else if says(&["failed to initialize kvm"]) {
        "kvm_unusable"
    } else if says(&["/dev/net/tun", "busy"]) || says(&["TUNSETIFF", "busy"]) {
        "tap_busy"
    } else if says(&["Failed to unlink socket"]) || says(&["Failed to bind socket"]) {
        "vmm_socket_stale"
    } else if says(&["could not load kernel"]) || says(&["could not load initrd"]) || says(&["No such file"]) {
        "image_missing"
    } else if says(&["Cannot allocate memory"]) || says(&["cannot set up guest memory"]) {
        "memory_insufficient"
    } else if exit.signal.is_some() || exit.code == Some(0) {
        // With 0 it refused nothing: its guest reset, or its KVM gave up without a word (Firecracker).
        "vmm_exited"
    } else {
        "vmm_config_rejected"
    }
}

/// Reads a cause out of what Firecracker refuses with: its `fault_message`, and its log behind it.
fn cause_of_fault(fault: &str, log: &str) -> &'static str {
    let says = |phrases: &[&str]| phrases.iter().all(|phrase| fault.contains(phrase) || log.contains(phrase));
    if says(&["KVM", "Permission denied"]) {
        "kvm_permission"
    } else if says(&["KVM", "No such file"]) {
        "kvm_missing"
    } else if says(&["/dev/net/tun", "Permission denied"]) {
        "tun_permission"
    } else if says(&["Open tap device failed", "busy"]) || says(&["TUNSETIFF", "busy"]) {
        "tap_busy"
    } else if says(&["Address in use"]) || says(&["Address already in use"]) {
        "vmm_socket_stale"
    } else if says(&["No such file"]) {
        "image_missing"
    } else if says(&["Cannot allocate memory"]) {
        "memory_insufficient"
    } else {
        "vmm_config_rejected"
    }
}

/// Checks that every TAP of the VM exists.
async fn check_taps(spec: &VmmSpec, network: &Network) -> Result<(), DriverError> {
    for tap in spec.nics.iter().filter_map(|nic| nic.tap.as_ref()) {
        let found = network.has_tap(tap).await.map_err(|source| DriverError::Network { vm_id: spec.vm_id, source })?;
        if !found {
            let namespace = network.namespace().to_owned();
            return Err(DriverError::TapMissing { vm_id: spec.vm_id, tap: tap.clone(), namespace });
        }
    }
    Ok(())
}

/// SIGKILL, and wait until the process is gone.
async fn kill_and_wait(vm: &VmmHandle) -> Result<VmmExit, DriverError> {
    vm.process.kill().map_err(|source| DriverError::Process { vm_id: vm.vm_id, source })?;
    tokio::time::timeout(KILL_DEADLINE, vm.process.exited()).await.map_err(|_| DriverError::StillAlive {
        vm_id: vm.vm_id,
        pid: vm.process.id().pid,
        waited: KILL_DEADLINE,
    })
}

/// The last lines of a VMM's log, joined by ` | `; at most 64 KiB of the file is read.
pub fn log_tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let start = file.metadata()?.len().saturating_sub(64 * 1024);
        file.seek(SeekFrom::Start(start))?;
        file.take(64 * 1024).read_to_end(&mut text)
    });
    if let Err(error) = read {
        return format!("(its log {} cannot be read: {error})", path.display());
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "(nothing)".into() } else { lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ") }
}

/// An error and its sources on one line, for texts that outlive the error.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let texts: Vec<String> = std::iter::successors(Some(error), |e| (*e).source()).map(ToString::to_string).collect();
    texts.join(": ")
}
