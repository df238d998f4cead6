//! QEMU, with hardware virtualization or without.
//!
//! ```text
//! run: process released ──> QMP greets (configuration accepted, guest runs) ──> handle
//!            └─ exits first ──> DriverError::Rejected with QEMU's own words
//! terminate: QMP quit ──> exited within grace, else SIGKILL ──> exited
//! ```
//! QEMU's working directory is the VM's directory and its sockets are named relative to it, so the length of the state
//! directory's path never meets the 107 bytes of a Unix socket address.

mod args;
mod qmp;
mod tsc;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::vmm::{DriverKind, VmmExit, VmmSpec};
use async_trait::async_trait;

use args::needs_tsc_khz;
pub use args::{kernel_cmdline, probe_args, qemu_args};

use super::{
    DriverError, DriverInfo, HeldVmm, VmmDriver, VmmHandle, VmmPaths, check_taps, hold, kill_and_wait, log_tail,
};
use crate::network::Network;
use crate::process::SpawnSpec;

/// How long QEMU may take from exec to its greeting. It takes 0.1 s; a machine under load is slower.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How guest code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Emulated, anywhere.
    Tcg,
    /// By the processor.
    Kvm,
}

/// The driver. It holds no state.
#[derive(Debug, Clone)]
pub struct QemuDriver {
    accel: Accel,
    program: PathBuf,
}

impl QemuDriver {
    /// A driver that runs `qemu-system-x86_64` from `PATH`.
    pub fn new(accel: Accel) -> Self {
        Self::with_program(accel, "qemu-system-x86_64")
    }

    /// A driver that runs another program.
    pub fn with_program(accel: Accel, program: impl Into<PathBuf>) -> Self {
        Self { accel, program: program.into() }
    }

    /// Waits until QEMU greets, or ends, or the deadline passes.
    async fn accepted(&self, vm: &VmmHandle) -> Result<(), DriverError> {
        let greeting = tokio::time::timeout(START_DEADLINE, qmp::Qmp::connect(&vm.paths.api_socket));
        let failure = tokio::select! {
            biased;
            exit = vm.process.exited() => {
                return Err(DriverError::Rejected { vm_id: vm.vm_id, exit, log: log_tail(&vm.paths.log) });
            }
            greeted = greeting => match greeted {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            },
        };
        // A connection that broke is most often a QEMU that is just ending: its words are worth more than ours.
        let (vm_id, socket) = (vm.vm_id, vm.paths.api_socket.clone());
        if failure.kind() != io::ErrorKind::TimedOut
            && let Ok(exit) = tokio::time::timeout(Duration::from_secs(1), vm.process.exited()).await
        {
            return Err(DriverError::Rejected { vm_id, exit, log: log_tail(&vm.paths.log) });
        }
        kill_and_wait(vm).await?;
        Err(DriverError::Silent { vm_id, socket, log: log_tail(&vm.paths.log), source: failure })
    }
}

/// Measured on a thread that may wait.
async fn tsc_khz() -> Option<u32> {
    tokio::task::spawn_blocking(tsc::khz).await.ok().flatten()
}

#[async_trait]
impl VmmDriver for QemuDriver {
    fn kind(&self) -> DriverKind {
        match self.accel {
            Accel::Tcg => DriverKind::QemuTcg,
            Accel::Kvm => DriverKind::QemuKvm,
        }
    }

    async fn check(&self) -> Result<DriverInfo, DriverError> {
        let program = self.program.clone();
        let output = tokio::process::Command::new(&program).arg("--version").output().await;
        let output = output.map_err(|source| DriverError::BinaryMissing { program: program.clone(), source })?;
        let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        let version = said.split("version ").nth(1).and_then(|rest| rest.split([' ', '(']).next()).unwrap_or_default();
        let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
        match major {
            // 6.0: `-sandbox` and `-chardev` as used here, virtio 1.0 by default.
            Some(6..) => Ok(DriverInfo { version: version.to_owned(), program }),
            _ => Err(DriverError::Version { program, said, wanted: "QEMU 6.0 or newer" }),
        }
    }

    fn paths(&self, dir: &Path) -> VmmPaths {
        VmmPaths {
            console: dir.join(args::CONSOLE),
            log: dir.join("vmm.log"),
            control_socket: dir.join(args::CONTROL_SOCKET),
            control_port: None,
            api_socket: dir.join(args::API_SOCKET),
        }
    }

    async fn hold(&self, spec: &VmmSpec, network: &Network) -> Result<HeldVmm, DriverError> {
        check_taps(spec, network).await?;
        let tsc_khz = if needs_tsc_khz(spec, self.accel) { tsc_khz().await } else { None };
        let process = SpawnSpec {
            program: self.program.clone().into(),
            args: qemu_args(spec, self.accel, tsc_khz),
            dir: spec.dir.clone(),
            output: Some(self.paths(&spec.dir).log),
            netns: Some(network.netns()),
            pid_namespace: false,
        };
        hold(spec, network, self.paths(&spec.dir), process).await
    }

    async fn run(&self, held: HeldVmm) -> Result<VmmHandle, DriverError> {
        let vm = held.release()?;
        self.accepted(&vm).await?;
        Ok(vm)
    }

    async fn terminate(&self, vm: &VmmHandle, grace: Duration) -> Result<VmmExit, DriverError> {
        let asked = async {
            // Whatever goes wrong with asking, killing follows.
            if let Ok(mut qmp) = qmp::Qmp::connect(&vm.paths.api_socket).await {
                let _ = qmp.execute("quit").await;
            }
            vm.process.exited().await
        };
        if let Some(exit) = vm.process.exit() {
            return Ok(exit);
        }
        let gone = async {
            tokio::select! {
                biased;
                exit = vm.process.exited() => exit,
                exit = asked => exit,
            }
        };
        match tokio::time::timeout(grace, gone).await {
            Ok(exit) => Ok(exit),
            Err(_) => kill_and_wait(vm).await,
        }
    }
}
