//! What every VM task shares: configuration, store, network, driver, vault.

use std::path::PathBuf;
use std::sync::Arc;

use airlock_domain::VmId;
use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::network::TapSpec;
use airlock_domain::provider::Provider;
use airlock_domain::vmm::DriverKind;
use airlock_effects::network::Network;
use airlock_effects::vmm::VmmDriver;
use airlock_effects::vmm::qemu::{Accel, QemuDriver};
use airlock_image::{GoldenImage, Registry};
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::store::Store;
use crate::vault::Vault;

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
    pub driver: Arc<dyn VmmDriver>,
    pub reason: String,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub config: Config,
    pub store: Store,
    pub network: Network,
    pub registry: Registry,
    pub providers: Vec<Provider>,
    pub vault: Vault,
    pub driver: OnceCell<ChosenDriver>,
}

impl Context {
    pub fn vm_dir(&self, id: VmId) -> PathBuf {
        self.config.state_dir.join("vms").join(id.dir_name())
    }

    /// The VMM runs as the daemon's own user, who therefore owns the TAP.
    pub fn tap(&self, id: VmId) -> TapSpec {
        TapSpec::of_vm(id, 0)
    }

    /// The driver, chosen once: `auto` boots a probe guest from `image`, whose verdict is cached until the host reboots.
    pub async fn driver(&self, image: &GoldenImage) -> Result<&ChosenDriver, Error> {
        self.driver.get_or_try_init(|| self.choose_driver(image)).await
    }

    async fn choose_driver(&self, image: &GoldenImage) -> Result<ChosenDriver, Error> {
        let (accel, reason) = match self.config.driver {
            DriverChoice::QemuTcg => (Accel::Tcg, "the configuration says so".to_owned()),
            DriverChoice::QemuKvm => (Accel::Kvm, "the configuration says so".to_owned()),
            DriverChoice::Auto => {
                let verdict = airlock_effects::probe::probe_kvm(
                    &image.kernel_path(),
                    &image.initramfs_path(),
                    &self.config.state_dir.join("cache"),
                )
                .await;
                (if verdict.usable { Accel::Kvm } else { Accel::Tcg }, verdict.reason)
            }
        };
        let driver = QemuDriver::new(accel);
        driver.check().await.map_err(Error::Driver)?;
        tracing::info!(driver = %driver.kind(), reason, "driver chosen");
        Ok(ChosenDriver { driver: Arc::new(driver), reason })
    }
}
