//! A driver without a guest: its "VMM" is a process that waits on a pipe. It keeps the contract of the real ones (a real process
//! in the namespace, files in the VM's directory) and can be asked what it left behind.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::vmm::{DriverKind, ProcessId, VmmExit, VmmSpec};
use async_trait::async_trait;
use nix::sys::stat::Mode;

use super::{
    DriverError, DriverInfo, HeldVmm, VmmDriver, VmmHandle, VmmPaths, check_taps, hold, kill_and_wait, log_tail,
};
use crate::network::Network;
use crate::process::{SpawnSpec, is_alive};
use crate::watch::DirWatch;

/// The fake driver.
#[derive(Debug, Default)]
pub struct FakeDriver {
    spawned: Mutex<BTreeMap<VmId, ProcessId>>,
}

impl FakeDriver {
    /// One that started nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The VMs whose process still runs.
    pub fn alive(&self) -> Vec<VmId> {
        let spawned = self.spawned.lock().unwrap_or_else(PoisonError::into_inner);
        spawned.iter().filter(|(_, process)| is_alive(**process)).map(|(vm, _)| *vm).collect()
    }
}

#[async_trait]
impl VmmDriver for FakeDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::QemuTcg
    }

    async fn check(&self) -> Result<DriverInfo, DriverError> {
        Ok(DriverInfo { version: "fake".into(), program: "sh".into() })
    }

    fn paths(&self, dir: &Path) -> VmmPaths {
        VmmPaths {
            console: dir.join("console.log"),
            log: dir.join("vmm.log"),
            control_socket: dir.join("agent.sock"),
            control_port: None,
            api_socket: dir.join("quit.fifo"),
        }
    }

    async fn hold(&self, spec: &VmmSpec, network: &Network) -> Result<HeldVmm, DriverError> {
        let paths = self.paths(&spec.dir);
        check_taps(spec, network).await?;
        let file = |source| DriverError::File { vm_id: spec.vm_id, path: paths.api_socket.clone(), source };
        nix::unistd::mkfifo(&paths.api_socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| file(errno.into()))?;
        // It says that it runs as soon as it can be asked to end, then waits for a line. `exec 3<>` neither blocks nor sees an end.
        let script = "exec 3<>quit.fifo; echo running >console.log; read -r _ <&3";
        let process = SpawnSpec {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            dir: spec.dir.clone(),
            output: Some(paths.log.clone()),
            netns: Some(network.netns()),
            pid_namespace: false,
        };
        hold(spec, network, paths, process).await
    }

    async fn run(&self, held: HeldVmm) -> Result<VmmHandle, DriverError> {
        let (vm_id, console) = (held.spec.vm_id, held.paths.console.clone());
        let dir = console.parent().unwrap_or(Path::new("."));
        let watch = DirWatch::new(dir).map_err(|error| DriverError::File {
            vm_id,
            path: dir.to_owned(),
            source: error.source,
        })?;
        let vm = held.release()?;
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner).insert(vm_id, vm.process.id());
        while !std::fs::metadata(&console).is_ok_and(|console| console.len() > 0) {
            tokio::select! {
                () = watch.changed() => {}
                exit = vm.process.exited() => {
                    return Err(DriverError::Rejected { vm_id, exit, log: log_tail(&vm.paths.log) });
                }
            }
        }
        Ok(vm)
    }

    async fn terminate(&self, vm: &VmmHandle, grace: Duration) -> Result<VmmExit, DriverError> {
        // Fails if it is gone already; killing follows either way.
        let quit = || -> io::Result<()> {
            let mut pipe = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&vm.paths.api_socket)?;
            pipe.write_all(b"\n")
        };
        let asked = quit().is_ok();
        match tokio::time::timeout(if asked { grace } else { Duration::ZERO }, vm.process.exited()).await {
            Ok(exit) => Ok(exit),
            Err(_) => kill_and_wait(vm).await,
        }
    }
}
