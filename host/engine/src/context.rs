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
use tokio::sync::OnceCell;

use crate::choice::{ChosenDriver, check_image, first_usable};
use crate::error::Error;
use crate::executor::Executor;
use crate::store::{Room, Store};
use crate::vault::Vault;

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

    /// The driver, chosen once: `auto` boots a probe guest from `image`, whose verdict is cached until the host reboots. Whether
    /// the driver's guests can be of `image` is asked each time.
    pub async fn driver(&self, image: &GoldenImage) -> Result<&ChosenDriver, Error> {
        let chosen = self.chosen.get_or_try_init(|| self.choose_driver(image)).await?;
        check_image(chosen.kind, image)?;
        Ok(chosen)
    }

    async fn probe_firecracker(&self, image: &GoldenImage, cache: &Path) -> ProbeVerdict {
        if let Err(error) = check_image(DriverKind::Firecracker, image) {
            return ProbeVerdict::unusable(error.code(), error.to_string());
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
        let configured = |kind| ChosenDriver { kind, reason: "the configuration says so".to_owned() };
        let chosen = match self.config.driver {
            DriverChoice::Firecracker => configured(DriverKind::Firecracker),
            DriverChoice::QemuTcg => configured(DriverKind::QemuTcg),
            DriverChoice::QemuKvm => configured(DriverKind::QemuKvm),
            DriverChoice::Auto => {
                let cache = self.config.state_dir.join("cache");
                let (kernel, initramfs) = (image.kernel_path(), image.initramfs_path());
                let kvm = probe::probe_kvm(&kernel, &initramfs, &cache);
                first_usable(self.probe_firecracker(image, &cache), kvm).await
            }
        };
        self.drivers.get(chosen.kind).check().await.map_err(Error::Driver)?;
        tracing::info!(driver = %chosen.kind, reason = chosen.reason, "driver chosen");
        Ok(chosen)
    }
}
