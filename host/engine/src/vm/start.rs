//! How a task gets its VM: by starting it, step by step, or by adopting one that lives.

use airlock_domain::Cause;
use airlock_domain::boot::{BootEvent, Failure};
use airlock_domain::network::boot_config;
use airlock_domain::seed::Seed;
use airlock_domain::session::SessionEvent as Event;
use airlock_domain::step::{self, Step};
use airlock_domain::vmm::{DriverKind, Nic, ProcessId, VmPlan, VmmSpec};
use airlock_effects::process::ProcessHandle;
use airlock_effects::vmm::VmmHandle;
use airlock_protocol::guest_config::NetworkOwner;
use airlock_protocol::{MacAddr, Stage};

use super::{VmTask, store_failure};
use crate::error::chain;

impl VmTask {
    /// Applies the steps of a start, and says the stages they lead to.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        self.ctx.check_dhcp(self.image.manifest.network_addressing)?;
        self.on_boot(BootEvent::Reached(Stage::Planned)).await?;
        let plan = self.plan();
        // The last step is the boot itself; its outcome is written when the machine is ready.
        for step in step::start().into_iter().filter(|step| *step != Step::AwaitReady) {
            self.ctx.executor.apply(step, &plan).await.map_err(|error| error.failure())?;
            if step == Step::SpawnVmm {
                let recorded = self.ctx.store.vm(self.session.vm_id).await;
                let recorded = recorded.map_err(|error| store_failure(&error, Some(Stage::VmmStarted)))?;
                self.handle = Some(self.open_vmm(recorded.and_then(|vm| vm.process))?);
            }
            if let Some(stage) = reached(step) {
                self.on_boot(BootEvent::Reached(stage)).await?;
            }
        }
        self.move_session(Event::BootBegan, None).await
    }

    /// Takes over a VM whose steps were applied by another daemon. The console is read from its start and the agent repeats what
    /// it said, so nothing that happened meanwhile is missed; what is known already changes nothing.
    pub(super) async fn adopt(&mut self) -> Result<(), Failure> {
        let recorded = self.ctx.store.vm(self.session.vm_id).await;
        let recorded = recorded.map_err(|error| store_failure(&error, None))?;
        self.handle = Some(self.open_vmm(recorded.and_then(|vm| vm.process))?);
        let reached = |stage| self.boot.timeline().iter().any(|entry| entry.stage == stage && entry.ok);
        self.ready = reached(Stage::Ready);
        if reached(Stage::DisplayUp) {
            self.show_display();
        }
        self.move_session(Event::BootBegan, None).await
    }

    /// The VMM that was recorded, watched.
    fn open_vmm(&self, recorded: Option<ProcessId>) -> Result<VmmHandle, Failure> {
        let vm_id = self.session.vm_id;
        let failure = |detail| Failure::new(Cause::VmmExited, Some(Stage::VmmStarted), detail);
        let process = recorded.ok_or_else(|| failure(format!("VM {vm_id} has no recorded VMM")))?;
        let opened = ProcessHandle::open(process).map_err(|error| failure(chain(&error)))?;
        let process = opened.ok_or_else(|| failure(format!("the VMM, process {}, ended", process.pid)))?;
        let paths = self.ctx.drivers.get(self.session.driver).paths(&self.ctx.vm_dir(vm_id));
        Ok(VmmHandle { vm_id, process, paths })
    }

    /// Everything the VM's steps are applied with.
    pub(super) fn plan(&self) -> VmPlan {
        let (vm_id, config) = (self.session.vm_id, &self.ctx.config);
        let ours = Nic { tap: Some(vm_id.tap_name()), mac: MacAddr::from_lease(self.address) };
        let extra = (0..config.extra_nics).map(|n| Nic { tap: None, mac: MacAddr([0x02, 0, 0, 0, 0, n]) });
        let (boot, keys) = (boot_config(vm_id, config.network.subnet, self.address), config.network.guest.keys());
        let reads_seed = self.image.manifest.network_owner == NetworkOwner::CloudInit;
        let vmm = VmmSpec {
            vm_id,
            dir: self.ctx.vm_dir(vm_id),
            kernel: self.image.kernel_path(),
            kernel_elf: self.image.kernel_elf_path(),
            initramfs: self.image.initramfs_path(),
            rootfs: self.image.rootfs_path(),
            cmdline: format!("{}{}{}{}", boot.to_cmdline(), keys.to_cmdline(), config.naming(), config.extra_cmdline()),
            memory_mib: self.image.manifest.memory_mib,
            vcpus: self.image.manifest.vcpus,
            nics: extra.chain([ours]).collect(),
            transport: config.vmm.transport,
            seed: if reads_seed { Seed::of(&boot, &keys) } else { None },
            uid: match self.session.driver {
                DriverKind::Firecracker => config.vmm.firecracker.uid_of(self.address),
                DriverKind::QemuKvm | DriverKind::QemuTcg => None,
            },
        };
        let chosen = self.ctx.chosen.get().filter(|chosen| chosen.kind == self.session.driver);
        let driver_reason = chosen.map(|chosen| chosen.reason.clone()).unwrap_or_default();
        VmPlan { address: self.address, driver: self.session.driver, driver_reason, vmm }
    }
}

/// The stage that is reached when a step was applied.
fn reached(step: Step) -> Option<Stage> {
    match step {
        Step::LeaseAddress => Some(Stage::Leased),
        Step::GuardTap => Some(Stage::TapUp),
        Step::PrepareDisk => Some(Stage::DiskReady),
        Step::SpawnVmm => Some(Stage::VmmStarted),
        Step::CreateTap | Step::WriteVmConfig | Step::AwaitReady => None,
    }
}
