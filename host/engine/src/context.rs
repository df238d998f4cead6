//! What every VM task shares: configuration, store, network, driver, vault.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use airlock_domain::VmId;
use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::provider::Provider;
use airlock_domain::vmm::DriverKind;
use airlock_effects::memory::Memory;
use airlock_effects::network::Network;
use airlock_effects::network::dhcp::DhcpServer;
use airlock_effects::probe::firecracker::{ProbeImage, probe_firecracker};
use airlock_effects::probe::{self, ProbeVerdict};
use airlock_effects::vmm::Drivers;
use airlock_image::{GoldenImage, Registry};
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::executor::Executor;
use crate::store::{Room, Store};
use crate::vault::Vault;

/// What a guest's control channel needs under Firecracker.
const VSOCK_MODULE: &str = "vmw_vsock_virtio_transport";

/// Which driver was chosen, and why.
#[derive(Debug, Clone, Serialize)]
pub struct DriverReport {
    /// The driver; none as long as no image is there to probe with.
    pub kind: Option<DriverKind>,
    /// Why.
    pub reason: String,
}

/// A driver with the reason it was chosen for.
#[derive(Debug, Clone)]
pub(crate) struct ChosenDriver {
    pub kind: DriverKind,
    pub reason: String,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub config: Config,
    pub store: Store,
    pub network: Network,
    pub dhcp: DhcpServer,
    pub registry: Registry,
    pub providers: Vec<Provider>,
    pub vault: Vault,
    pub drivers: Arc<Drivers>,
    pub chosen: OnceCell<ChosenDriver>,
    pub executor: Executor,
    pub boot_id: String,
}

impl Context {
    pub fn vm_dir(&self, id: VmId) -> PathBuf {
        self.config.state_dir.join("vms").join(id.dir_name())
    }

    /// What a new VM may take its place in, as it is now.
    pub fn room(&self) -> Room {
        let memory = Memory::read();
        Room {
            limits: self.config.limits.clone(),
            subnet: self.config.network.subnet,
            memory_mib: memory.total_mib,
            available_mib: memory.available_mib,
        }
    }

    /// The driver, chosen once: `auto` boots a probe guest from `image`, whose verdict is cached until the host reboots.
    pub async fn driver(&self, image: &GoldenImage) -> Result<&ChosenDriver, Error> {
        self.chosen.get_or_try_init(|| self.choose_driver(image)).await
    }

    /// Firecracker if its probe guest reaches its init, else QEMU with KVM if that one does, else QEMU that emulates; with what was
    /// seen of each that was not taken.
    async fn probe_drivers(&self, image: &GoldenImage) -> (DriverKind, String) {
        let cache = self.config.state_dir.join("cache");
        let firecracker = self.probe_firecracker(image, &cache).await;
        if firecracker.usable {
            return (DriverKind::Firecracker, firecracker.reason);
        }
        let kvm = probe::probe_kvm(&image.kernel_path(), &image.initramfs_path(), &cache).await;
        let kind = if kvm.usable { DriverKind::QemuKvm } else { DriverKind::QemuTcg };
        (kind, format!("firecracker: {}; qemu-kvm: {}", firecracker.reason, kvm.reason))
    }

    async fn probe_firecracker(&self, image: &GoldenImage, cache: &Path) -> ProbeVerdict {
        // Without it nobody would hear of the agent, and every boot would fail at its deadline.
        if !image.manifest.modules.iter().any(|module| module.starts_with(VSOCK_MODULE)) {
            let reason = format!("image {} has no module {VSOCK_MODULE}", image.manifest.name);
            return ProbeVerdict::unusable("modules_mismatch", reason);
        }
        let files = ProbeImage {
            kernel: image.kernel_elf_path().unwrap_or_else(|| image.kernel_path()),
            initramfs: image.initramfs_path(),
            rootfs: image.rootfs_path(),
        };
        let driver = self.drivers.get(DriverKind::Firecracker);
        probe_firecracker(driver.as_ref(), &files, &self.network, cache).await
    }

    async fn choose_driver(&self, image: &GoldenImage) -> Result<ChosenDriver, Error> {
        let (kind, reason) = match self.config.driver {
            DriverChoice::Firecracker => (DriverKind::Firecracker, "the configuration says so".to_owned()),
            DriverChoice::QemuTcg => (DriverKind::QemuTcg, "the configuration says so".to_owned()),
            DriverChoice::QemuKvm => (DriverKind::QemuKvm, "the configuration says so".to_owned()),
            DriverChoice::Auto => self.probe_drivers(image).await,
        };
        self.drivers.get(kind).check().await.map_err(Error::Driver)?;
        tracing::info!(driver = %kind, reason, "driver chosen");
        Ok(ChosenDriver { kind, reason })
    }
}
