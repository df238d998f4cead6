//! A host in memory: it does what the kernel would do with each step, knows who owns what, and can be asked what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use airlock_domain::VmId;
use airlock_domain::reconcile::{GuardSeen, Observed, TapSeen};
use airlock_domain::step::{Step, Undo};
use airlock_domain::vmm::{ProcessId, VmPlan, VmTraces};
use airlock_protocol::MacAddr;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{EffectError, Effects, Record};
use crate::files::FileError;
use crate::network::NetworkError;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct FakeEffects {
    world: Mutex<World>,
}

/// What is on the fake host.
#[derive(Debug, Default, Clone)]
pub struct World {
    /// TAPs by name: alias, and whether it is in service.
    pub taps: BTreeMap<String, (String, bool)>,
    /// Senders that guarded ports let through.
    pub guards: BTreeMap<String, (MacAddr, Ipv4Addr)>,
    /// Entries below `vms/`, and whether a configuration is in them.
    pub dirs: BTreeMap<String, bool>,
    /// Processes, each with the directory it works in.
    pub processes: BTreeMap<ProcessId, String>,
    /// What the file in a VM's directory says about its VMM.
    pid_files: BTreeMap<String, ProcessId>,
    next_pid: i32,
}

impl World {
    /// Starts a process in a directory.
    pub fn start_process(&mut self, dir: &str) -> ProcessId {
        self.next_pid += 1;
        let process = ProcessId { pid: 100 + self.next_pid, start_ticks: 1 };
        self.processes.insert(process, dir.to_owned());
        process
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty() && self.guards.is_empty() && self.dirs.is_empty() && self.processes.is_empty()
    }
}

impl FakeEffects {
    /// An empty host.
    pub fn new() -> Self {
        Self::default()
    }

    /// The host's inside, to look at or to change behind everybody's back.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_tap(&self, vm_id: VmId) -> Result<(), EffectError> {
        let mut world = self.world();
        let (owner, _) = world.taps.entry(vm_id.tap_name()).or_insert_with(|| (vm_id.to_string(), false));
        check_owner(vm_id, owner)
    }

    fn guard_tap(&self, vm_id: VmId, address: Ipv4Addr) -> Result<(), EffectError> {
        let name = vm_id.tap_name();
        let mut world = self.world();
        let Some((_, in_service)) = world.taps.get_mut(&name) else {
            let source = std::io::Error::from_raw_os_error(libc::ENODEV);
            return Err(NetworkError::SetUp { link: name, source }.into());
        };
        *in_service = true;
        world.guards.insert(name, (MacAddr::from_lease(address), address));
        Ok(())
    }

    async fn spawn_vmm(&self, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError> {
        let (vm_id, dir) = (plan.vmm.vm_id, plan.vmm.vm_id.dir_name());
        let process = {
            let mut world = self.world();
            if world.pid_files.get(&dir).is_some_and(|vmm| world.processes.contains_key(vmm)) {
                return Ok(());
            }
            world.start_process(&dir)
        };
        let mut held = Held { host: self, process, released: false };
        record(process).await.map_err(|source| EffectError::Record { vm_id, source })?;
        self.world().pid_files.insert(dir, process);
        held.released = true;
        Ok(())
    }

    /// Whether the name of a VM's TAP is taken by somebody else's.
    fn is_foreign(&self, vm_id: VmId) -> bool {
        self.world().taps.get(&vm_id.tap_name()).is_some_and(|(owner, _)| *owner != vm_id.to_string())
    }
}

/// A process that was not let run yet. It ends by itself when whoever holds it fails or is gone.
struct Held<'a> {
    host: &'a FakeEffects,
    process: ProcessId,
    released: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.released {
            self.host.world().processes.remove(&self.process);
        }
    }
}

fn check_owner(vm_id: VmId, owner: &str) -> Result<(), EffectError> {
    if owner == vm_id.to_string() {
        return Ok(());
    }
    let (owner, wanted) = (owner.to_owned(), vm_id.to_string());
    Err(NetworkError::TapNameCollision { tap: vm_id.tap_name(), owner, wanted }.into())
}

#[async_trait]
impl Effects for FakeEffects {
    async fn apply(&self, step: Step, plan: &VmPlan, record: Record<'_>) -> Result<(), EffectError> {
        let vm_id = plan.vmm.vm_id;
        match step {
            Step::LeaseAddress | Step::AwaitReady => Ok(()),
            Step::CreateTap => self.create_tap(vm_id),
            Step::GuardTap => self.guard_tap(vm_id, plan.address),
            Step::PrepareDisk => {
                self.world().dirs.entry(vm_id.dir_name()).or_insert(false);
                Ok(())
            }
            Step::WriteVmConfig => match self.world().dirs.get_mut(&vm_id.dir_name()) {
                Some(written) => {
                    *written = true;
                    Ok(())
                }
                None => {
                    let source = std::io::Error::from_raw_os_error(libc::ENOENT);
                    Err(FileError::Write { path: plan.vmm.dir.join("vm.json"), source }.into())
                }
            },
            Step::SpawnVmm => self.spawn_vmm(plan, record).await,
        }
    }

    async fn undo(&self, step: Step, traces: &VmTraces) -> Result<(), EffectError> {
        let (foreign, mut world) = (self.is_foreign(traces.vm_id), self.world());
        let (tap, dir) = (traces.vm_id.tap_name(), traces.vm_id.dir_name());
        match step.undo() {
            Undo::ReleaseAddress | Undo::Nothing(_) => {}
            Undo::StopVmm => drop(traces.process.and_then(|process| world.processes.remove(&process))),
            Undo::RemoveDir => {
                world.pid_files.remove(&dir);
                world.dirs.remove(&dir);
            }
            Undo::RemoveGuard | Undo::DeleteTap if foreign => {}
            Undo::RemoveGuard => {
                world.guards.remove(&tap);
                world.taps.entry(tap).and_modify(|(_, in_service)| *in_service = false);
            }
            Undo::DeleteTap => drop(world.taps.remove(&tap)),
        }
        Ok(())
    }

    async fn repair(&self, vm_id: VmId, address: Ipv4Addr) -> Result<(), EffectError> {
        self.create_tap(vm_id)?;
        self.guard_tap(vm_id, address)
    }

    async fn remove_guard(&self, tap: &str) -> Result<(), EffectError> {
        self.world().guards.remove(tap);
        Ok(())
    }

    async fn describe(&self, vm_id: VmId) -> Value {
        let world = self.world();
        json!({"tap": world.taps.get(&vm_id.tap_name()), "directory": world.dirs.get(&vm_id.dir_name())})
    }

    async fn observe(&self) -> Result<Observed, EffectError> {
        let world = self.world();
        let tap = |(name, (alias, in_service)): (&String, &(String, bool))| TapSeen {
            name: name.clone(),
            alias: alias.clone(),
            in_service: *in_service,
        };
        let guard =
            |(tap, sender): (&String, &(MacAddr, Ipv4Addr))| GuardSeen { tap: tap.clone(), sender: Some(*sender) };
        Ok(Observed {
            taps: world.taps.iter().map(tap).collect(),
            guards: world.guards.iter().map(guard).collect(),
            processes: world.processes.keys().copied().collect::<BTreeSet<_>>(),
            in_vm_dir: world.processes.iter().map(|(process, dir)| (*process, dir.clone())).collect(),
            dirs: world.dirs.keys().cloned().collect(),
        })
    }
}
