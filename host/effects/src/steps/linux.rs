//! The steps on a real host.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::firewall::GuardSpec;
use airlock_domain::network::TapSpec;
use airlock_domain::reconcile::{GuardSeen, Observed, TapSeen};
use airlock_domain::step::{Step, Undo};
use airlock_domain::vmm::{DriverKind, ProcessId, VmPlan, VmTraces, VmmSpec};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{EffectError, Effects, Record, seed};
use crate::files::{self, FileError};
use crate::memory::Memory;
use crate::network::{Network, NetworkError};
use crate::process::{self, ProcessHandle, is_alive};
use crate::vmm::{Drivers, VmmHandle, chain};

/// How long a VMM may take to quit before it is killed. The machine is disposable: nothing in it needs a clean end.
const QUIT_GRACE: Duration = Duration::from_millis(500);
/// Pid and start time of a VM's VMM, for operators and for a step that is applied twice.
const PID_FILE: &str = "vmm.pid";

/// See the head of the module.
#[derive(Debug, Clone)]
pub struct LinuxEffects {
    network: Network,
    drivers: Arc<Drivers>,
    vms_dir: PathBuf,
}

impl LinuxEffects {
    /// Effects in a network, below `<state_dir>/vms`.
    pub fn new(network: Network, drivers: Arc<Drivers>, state_dir: &Path) -> Self {
        Self { network, drivers, vms_dir: state_dir.join("vms") }
    }

    async fn spawn_vmm(&self, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError> {
        let pid_file = plan.vmm.dir.join(PID_FILE);
        if read_pid_file(&pid_file).is_some_and(is_alive) {
            return Ok(());
        }
        let vm_id = plan.vmm.vm_id;
        let driver = self.drivers.get(plan.driver);
        let held = driver.hold(&plan.vmm, &self.network).await?;
        let process = held.process();
        record(process).await.map_err(|source| EffectError::Record { vm_id, source })?;
        let text = format!("{} {}\n", process.pid, process.start_ticks);
        std::fs::write(&pid_file, text).map_err(|source| FileError::Write { path: pid_file, source })?;
        driver.run(held).await?;
        Ok(())
    }

    async fn stop_vmm(&self, traces: &VmTraces) -> Result<(), EffectError> {
        let found = traces.process.map(ProcessHandle::open).transpose()?.flatten();
        let (driver, dir) = (self.drivers.get(traces.driver), self.dir_of(traces.vm_id));
        if let Some(process) = found {
            let paths = driver.paths(&dir);
            driver.terminate(&VmmHandle { vm_id: traces.vm_id, process, paths }, QUIT_GRACE).await?;
        }
        driver.sweep(&dir).map_err(|source| EffectError::Look { path: dir, source })
    }

    fn dir_of(&self, vm_id: VmId) -> PathBuf {
        self.vms_dir.join(vm_id.dir_name())
    }
}

#[async_trait]
impl Effects for LinuxEffects {
    async fn apply(&self, step: Step, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError> {
        let spec = &plan.vmm;
        match step {
            Step::LeaseAddress | Step::AwaitReady => {}
            Step::CreateTap => {
                let owner = spec.uid.unwrap_or(VMM_UID);
                self.network.create_tap_port(&TapSpec::of_vm(spec.vm_id, owner)).await?;
            }
            Step::GuardTap => self.network.guard_tap(&GuardSpec::of_vm(spec.vm_id, plan.address)).await?,
            Step::PrepareDisk => {
                for path in [&spec.kernel, &spec.initramfs, &spec.rootfs] {
                    File::open(path).map_err(|source| EffectError::Image { path: path.clone(), source })?;
                }
                files::create_private_dir(&spec.dir)?;
            }
            Step::WriteVmConfig => {
                let path = spec.dir.join("vm.json");
                let record = Recorded { driver: plan.driver, driver_reason: &plan.driver_reason, vmm: spec };
                let json = serde_json::to_vec_pretty(&record)
                    .map_err(|error| FileError::Write { path: path.clone(), source: error.into() })?;
                if let (Some(path), Some(seed)) = (spec.seed_drive(), &spec.seed) {
                    let image = seed::image(seed).map_err(|source| EffectError::Seed { vm_id: spec.vm_id, source })?;
                    files::replace(&path, &image, files::PRIVATE_FILE)?;
                }
                files::replace(&path, &json, files::PRIVATE_FILE)?;
            }
            Step::SpawnVmm => self.spawn_vmm(plan, record).await?,
        }
        Ok(())
    }

    async fn undo(&self, step: Step, traces: &VmTraces) -> Result<(), EffectError> {
        let tap = TapSpec::of_vm(traces.vm_id, VMM_UID);
        match step.undo() {
            Undo::ReleaseAddress | Undo::Nothing(_) => {}
            Undo::StopVmm => self.stop_vmm(traces).await?,
            Undo::RemoveDir => drop(files::remove_dir(&self.dir_of(traces.vm_id))?),
            // The name is somebody else's: ours is not there, and the rules and the state of that port are theirs.
            Undo::RemoveGuard | Undo::DeleteTap if self.network.is_foreign(&tap).await? => {}
            Undo::RemoveGuard => self.network.unguard_tap(&tap.name).await?,
            Undo::DeleteTap => drop(self.network.delete_tap(&tap).await?),
        }
        Ok(())
    }

    async fn repair(&self, vm_id: VmId, address: Ipv4Addr) -> Result<(), EffectError> {
        self.network.create_tap_port(&TapSpec::of_vm(vm_id, VMM_UID)).await?;
        Ok(self.network.guard_tap(&GuardSpec::of_vm(vm_id, address)).await?)
    }

    async fn remove_guard(&self, tap: &str) -> Result<(), EffectError> {
        Ok(self.network.unguard_tap(tap).await?)
    }

    async fn describe(&self, vm_id: VmId) -> Value {
        fn seen<T: serde::Serialize>(what: Result<T, NetworkError>) -> Value {
            what.map_or_else(|error| json!({"error": chain(&error)}), |what| json!(what))
        }
        let (name, alias) = (vm_id.tap_name(), vm_id.to_string());
        let tap = self.network.taps().await.map(|taps| taps.into_iter().find(|tap| tap.alias == alias));
        let guard = self.network.guard(&name).await;
        let memory = Memory::read();
        json!({
            "tap": seen(tap),
            "guard": seen(guard),
            "firewall": seen(self.network.firewall().await),
            "vmm": read_pid_file(&self.dir_of(vm_id).join(PID_FILE)).map(|id| json!({"pid": id.pid, "alive": is_alive(id)})),
            "host": {"memoryMib": memory.total_mib, "availableMib": memory.available_mib},
        })
    }

    async fn observe(&self) -> Result<Observed, EffectError> {
        let bridge = &self.network.spec().bridge;
        let taps = self.network.taps().await?.into_iter().map(|tap| TapSeen {
            in_service: tap.up && tap.isolated && tap.master.as_ref() == Some(bridge),
            name: tap.name,
            alias: tap.alias,
        });
        let guards = self
            .network
            .guards()
            .await?
            .into_iter()
            .map(|guard| GuardSeen { sender: guard.mac.zip(guard.address), tap: guard.tap });
        let (taps, guards) = (taps.collect(), guards.collect());
        let vms_dir = self.vms_dir.clone();
        let look = move || {
            let processes = process::all()?;
            let in_vm_dir = processes.iter().filter_map(|id| Some((*id, dir_of_process(*id, &vms_dir)?))).collect();
            Ok::<_, io::Error>((processes, in_vm_dir))
        };
        let proc_error = |source| EffectError::Look { path: "/proc".into(), source };
        let (processes, in_vm_dir) =
            tokio::task::spawn_blocking(look).await.map_err(|join| proc_error(join.into()))?.map_err(proc_error)?;
        let dirs =
            files::entries(&self.vms_dir).map_err(|source| EffectError::Look { path: self.vms_dir.clone(), source })?;
        Ok(Observed { taps, guards, processes: processes.into_iter().collect(), in_vm_dir, dirs })
    }
}

/// What a VM was started with, for whoever looks at its directory or at its evidence.
#[derive(serde::Serialize)]
struct Recorded<'a> {
    driver: DriverKind,
    driver_reason: &'a str,
    #[serde(flatten)]
    vmm: &'a VmmSpec,
}

/// Unless it is jailed, the VMM runs as the daemon's own user, who therefore owns the TAP.
const VMM_UID: u32 = 0;

/// The VM's directory that a process works in, also when it was removed under it.
fn dir_of_process(id: ProcessId, vms_dir: &Path) -> Option<String> {
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", id.pid)).ok()?;
    let first = cwd.strip_prefix(vms_dir).ok()?.components().next()?;
    let name = first.as_os_str().to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

fn read_pid_file(path: &Path) -> Option<ProcessId> {
    let text = std::fs::read_to_string(path).ok()?;
    let (pid, start_ticks) = text.trim().split_once(' ')?;
    Some(ProcessId { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
}
