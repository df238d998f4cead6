//! Applying and undoing steps, with the journal around each: intent, apply, outcome.

use std::io;
use std::time::Duration;

use airlock_domain::boot::Failure;
use airlock_domain::network::boot_config;
use airlock_domain::step::{Step, Undo, unwind as plan_unwind};
use airlock_domain::vmm::{Nic, VmmSpec};
use airlock_domain::{Cause, VmId};
use airlock_effects::files;
use airlock_effects::process::ProcessHandle;
use airlock_effects::vmm::{VmmDriver, VmmHandle};
use airlock_protocol::{MacAddr, Stage};

use super::{VmTask, store_failure};
use crate::clock::now_ms;
use crate::context::Context;
use crate::error::chain;
use crate::records::VmState;

/// How long a VMM may take to quit before it is killed. The machine is disposable: nothing in it needs a clean end.
const QUIT_GRACE: Duration = Duration::from_millis(500);

impl VmTask {
    /// Applies one step inside its journal entry.
    pub(super) async fn apply(&mut self, step: Step) -> Result<(), Failure> {
        let vm_id = self.session.vm_id;
        let intent = self.ctx.store.journal_intent(vm_id, step, now_ms()).await;
        intent.map_err(|error| store_failure(&error, stage_of(step)))?;
        let applied = match step {
            Step::CreateTap => self.create_tap().await,
            Step::PrepareDisk => self.prepare_disk(),
            Step::WriteVmConfig => self.write_vm_config(),
            Step::SpawnVmm => self.spawn_vmm().await,
            Step::LeaseAddress | Step::AwaitReady => Ok(()),
        };
        let outcome = applied.as_ref().map_or_else(|failure| failure.detail.clone(), |()| "applied".into());
        let journaled = self.ctx.store.journal_outcome(vm_id, step, &outcome, now_ms()).await;
        applied?;
        journaled.map_err(|error| store_failure(&error, stage_of(step)))
    }

    async fn create_tap(&self) -> Result<(), Failure> {
        let made = self.ctx.network.ensure_tap(&self.ctx.tap(self.session.vm_id)).await;
        made.map_err(|error| failure(error.cause(), Cause::TapMissing, Step::CreateTap, &error))
    }

    /// The root is shared and read-only, so all there is to prepare is the VM's own directory. No byte of the image is copied.
    fn prepare_disk(&self) -> Result<(), Failure> {
        self.ctx
            .registry
            .find(&self.image.reference())
            .map_err(|error| failure(Some(error.code()), Cause::ImageMissing, Step::PrepareDisk, &error))?;
        files::create_private_dir(&self.ctx.vm_dir(self.session.vm_id))
            .map_err(|error| failure(error.cause(), Cause::DiskFull, Step::PrepareDisk, &error))
    }

    fn write_vm_config(&self) -> Result<(), Failure> {
        let spec = self.vmm_spec();
        let json = serde_json::to_vec_pretty(&spec)
            .map_err(|error| failure(None, Cause::VmmConfigRejected, Step::WriteVmConfig, &error))?;
        files::write_atomic(&spec.dir.join("vm.json"), &json, files::PRIVATE_FILE)
            .map_err(|error| failure(error.cause(), Cause::DiskFull, Step::WriteVmConfig, &error))
    }

    async fn spawn_vmm(&mut self) -> Result<(), Failure> {
        let handle = self.driver.spawn(&self.vmm_spec(), &self.ctx.network).await;
        let handle =
            handle.map_err(|error| failure(error.cause(), Cause::VmmConfigRejected, Step::SpawnVmm, &error))?;
        let process = handle.process.id();
        self.handle = Some(handle);
        let recorded = self.ctx.store.set_vm_process(self.session.vm_id, process).await;
        recorded.map_err(|error| store_failure(&error, Some(Stage::VmmStarted)))
    }

    fn vmm_spec(&self) -> VmmSpec {
        let (vm_id, config) = (self.session.vm_id, &self.ctx.config);
        let ours = Nic { tap: Some(vm_id.tap_name()), mac: MacAddr::from_lease(self.session.address) };
        let extra = (0..config.extra_nics).map(|n| Nic { tap: None, mac: MacAddr([0x02, 0, 0, 0, 0, n]) });
        VmmSpec {
            vm_id,
            dir: self.ctx.vm_dir(vm_id),
            kernel: self.image.kernel_path(),
            initramfs: self.image.initramfs_path(),
            rootfs: self.image.rootfs_path(),
            cmdline: boot_config(vm_id, config.network.subnet, self.session.address).to_cmdline(),
            memory_mib: self.image.manifest.memory_mib,
            vcpus: self.image.manifest.vcpus,
            nics: extra.chain([ours]).collect(),
        }
    }
}

/// The failure of a step. Its own cause counts, `otherwise` stands in where the catalogue has none for it.
fn failure(cause: Option<&str>, otherwise: Cause, step: Step, error: &dyn std::error::Error) -> Failure {
    let cause = cause.and_then(|code| code.parse().ok()).unwrap_or(otherwise);
    Failure::new(cause, stage_of(step), chain(error))
}

fn stage_of(step: Step) -> Option<Stage> {
    match step {
        Step::LeaseAddress => Some(Stage::Leased),
        Step::CreateTap => Some(Stage::TapUp),
        Step::PrepareDisk | Step::WriteVmConfig => Some(Stage::DiskReady),
        Step::SpawnVmm => Some(Stage::VmmStarted),
        Step::AwaitReady => None,
    }
}

/// Undoes everything that was begun for a VM, in reverse order, and records what came of it. A failed undo stops the
/// unwinding there, so that the lease never outlives less than the process, and leaves the VM as `needs_attention`.
pub(crate) async fn unwind(ctx: &Context, driver: &dyn VmmDriver, vm_id: VmId, handle: Option<VmmHandle>) {
    let begun = match ctx.store.begun_steps(vm_id).await {
        Ok(begun) => begun,
        Err(error) => return needs_attention(ctx, vm_id, &chain(&error)).await,
    };
    for (step, undo) in plan_unwind(&begun) {
        let undone = match undo {
            Undo::StopVmm => stop_vmm(ctx, driver, vm_id, handle.clone()).await,
            Undo::DeleteTap => ctx.network.delete_tap(&ctx.tap(vm_id)).await.map(drop).map_err(|error| chain(&error)),
            Undo::RemoveDir => remove_dir(ctx, vm_id).await,
            Undo::ReleaseAddress => ctx.store.release_lease(vm_id).await.map_err(|error| chain(&error)),
            Undo::Nothing(_) => Ok(()),
        };
        let journaled = ctx.store.journal_undo(vm_id, step, undone.as_ref().err().map(String::as_str), now_ms()).await;
        let result = undone.and_then(|()| journaled.map_err(|error| chain(&error)));
        if let Err(detail) = result {
            return needs_attention(ctx, vm_id, &format!("undo of {}: {detail}", step.name())).await;
        }
    }
    if let Err(error) = ctx.store.set_vm_state(vm_id, VmState::Destroyed, None, now_ms()).await {
        tracing::error!(%vm_id, error = chain(&error), "end not recorded");
    }
    tracing::info!(%vm_id, "nothing left");
}

async fn needs_attention(ctx: &Context, vm_id: VmId, detail: &str) {
    tracing::error!(%vm_id, detail, "needs attention");
    let failure = Failure::new(Cause::Inconclusive, None, detail);
    if let Err(error) = ctx.store.set_vm_state(vm_id, VmState::NeedsAttention, Some(&failure), now_ms()).await {
        tracing::error!(%vm_id, error = chain(&error), "state not recorded");
    }
}

/// Ends the recorded process, whoever started it, and returns when it is gone.
async fn stop_vmm(ctx: &Context, driver: &dyn VmmDriver, vm_id: VmId, handle: Option<VmmHandle>) -> Result<(), String> {
    let handle = match handle {
        Some(handle) => Some(handle),
        None => {
            let recorded = ctx.store.vm(vm_id).await.map_err(|error| chain(&error))?.and_then(|vm| vm.process);
            let process = recorded.map(ProcessHandle::open).transpose().map_err(|error| chain(&error))?.flatten();
            process.map(|process| VmmHandle { vm_id, process, paths: driver.paths(&ctx.vm_dir(vm_id)) })
        }
    };
    match handle {
        Some(handle) => driver.terminate(&handle, QUIT_GRACE).await.map(drop).map_err(|error| chain(&error)),
        None => Ok(()),
    }
}

async fn remove_dir(ctx: &Context, vm_id: VmId) -> Result<(), String> {
    let dir = ctx.vm_dir(vm_id);
    match tokio::fs::remove_dir_all(&dir).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("remove {}: {error}", dir.display())),
        _ => Ok(()),
    }
}
