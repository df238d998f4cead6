//! What a start asks of Firecracker's API, in this order: a pure function of what is to be started. The recorded sequence is
//! `start.snapshot`, a reviewed text.
//!
//! Every path is as the process sees it: relative to its working directory (the VM's directory, or the root of its jail), so that
//! no path meets the 107 bytes of a Unix socket's address.

use std::path::{Path, PathBuf};

use airlock_domain::config::FirecrackerConfig;
use airlock_domain::vmm::{Nic, VmmSpec};
use serde::Serialize;
use serde_json::{Value, json};

use super::api;

/// The guest's serial console.
pub(super) const CONSOLE: &str = "console.log";
/// The Unix socket before the guest's vsock.
pub(super) const VSOCK: &str = "agent.sock";
/// A line each minute.
pub(super) const METRICS: &str = "metrics.json";
/// The socket of the API.
pub(super) const API_SOCKET: &str = "api.sock";
/// The guest's end of the vsock.
const GUEST_CID: u32 = 3;

/// Kernel arguments that belong to this machine and not to the VM. `reboot=k`: by the keyboard controller, which is how a guest
/// ends a Firecracker; it has no power switch on x86-64 (its FAQ), so init, told to power off, resets where it reads this word.
/// `panic=-1`: a panic resets at once. `pci=off`: there is no PCI to look for, ACPI names every device. The i8042 is only a reset
/// button.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet loglevel=4 random.trust_cpu=on mitigations=off net.ifnames=0 \
                       cryptomgr.notests pci=off i8042.noaux i8042.nomux i8042.dumbkbd";

/// The kernel command line: the machine's part, then the VM's.
pub fn kernel_cmdline(spec: &VmmSpec) -> String {
    format!("{CMDLINE} {}", spec.cmdline)
}

/// One `PUT`.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Path.
    pub path: String,
    /// Body.
    pub body: Value,
}

/// The files of an image and of a VM as the process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Kernel, ELF.
    pub kernel: PathBuf,
    /// Initial RAM filesystem.
    pub initramfs: PathBuf,
    /// Root filesystem.
    pub rootfs: PathBuf,
    /// Seed drive, if there is one.
    pub seed: Option<PathBuf>,
}

impl Seen {
    /// Without a jail: as they are.
    pub fn on_host(spec: &VmmSpec) -> Self {
        Self {
            kernel: kernel(spec).to_owned(),
            initramfs: spec.initramfs.clone(),
            rootfs: spec.rootfs.clone(),
            seed: spec.seed_drive(),
        }
    }
}

/// The kernel that Firecracker boots.
pub fn kernel(spec: &VmmSpec) -> &Path {
    spec.kernel_elf.as_deref().unwrap_or(&spec.kernel)
}

/// Everything before the start itself.
pub fn configuration(spec: &VmmSpec, config: &FirecrackerConfig, seen: &Seen) -> serde_json::Result<Vec<Call>> {
    let mut calls = Calls::default();
    // Its lines go to its standard output, which is the VM's `vmm.log`: one file, appended to by whoever writes.
    calls.put("/logger", &api::Logger { level: "Warning", show_level: true })?;
    calls.put("/metrics", &api::Metrics { metrics_path: METRICS.into() })?;
    calls.put(
        "/machine-config",
        &api::MachineConfig { vcpu_count: spec.vcpus, mem_size_mib: spec.memory_mib, smt: config.smt },
    )?;
    let rate_limiter = config.serial_limit.map(Into::into);
    calls.put("/serial", &api::Serial { serial_out_path: CONSOLE.into(), rate_limiter })?;
    calls.put(
        "/boot-source",
        &api::BootSource {
            kernel_image_path: seen.kernel.clone(),
            initrd_path: seen.initramfs.clone(),
            boot_args: kernel_cmdline(spec),
        },
    )?;
    // In the order of their names in the guest: the root is /dev/vda, the seed is found by its label.
    calls.drive("root", &seen.rootfs, config)?;
    if let Some(seed) = &seen.seed {
        calls.drive("seed", seed, config)?;
    }
    for (slot, nic) in spec.nics.iter().enumerate() {
        calls.nic(slot, nic, config)?;
    }
    let rate_limiter = config.entropy_limit.map(Into::into);
    calls.put("/entropy", &api::Entropy { rate_limiter })?;
    calls.put("/vsock", &api::Vsock { guest_cid: GUEST_CID, uds_path: VSOCK.into() })?;
    if let Some(balloon) = config.balloon {
        calls.put(
            "/balloon",
            &api::Balloon {
                amount_mib: balloon.amount_mib,
                deflate_on_oom: balloon.deflate_on_oom,
                stats_polling_interval_s: balloon.stats_interval_s,
            },
        )?;
    }
    if config.mmds && !spec.nics.is_empty() {
        let network_interfaces = (0..spec.nics.len()).map(interface).collect();
        calls.put("/mmds/config", &api::MmdsConfig { version: "V2", network_interfaces })?;
        calls.put("/mmds", &json!({"airlock": {"vm_id": spec.vm_id.to_string()}}))?;
    }
    Ok(calls.list)
}

/// The start itself.
pub const START: api::Action = api::Action { action_type: api::ActionType::InstanceStart };

/// Name of the interface in a slot.
fn interface(slot: usize) -> String {
    format!("net{slot}")
}

#[derive(Default)]
struct Calls {
    list: Vec<Call>,
}

impl Calls {
    fn put(&mut self, path: impl Into<String>, body: &impl Serialize) -> serde_json::Result<()> {
        self.list.push(Call { path: path.into(), body: serde_json::to_value(body)? });
        Ok(())
    }

    fn drive(&mut self, name: &str, path: &Path, config: &FirecrackerConfig) -> serde_json::Result<()> {
        let drive = api::Drive {
            drive_id: name.to_owned(),
            path_on_host: path.to_owned(),
            is_root_device: false,
            is_read_only: true,
            rate_limiter: config.drive_limit.map(Into::into),
        };
        self.put(format!("/drives/{name}"), &drive)
    }

    fn nic(&mut self, slot: usize, nic: &Nic, config: &FirecrackerConfig) -> serde_json::Result<()> {
        let Some(tap) = &nic.tap else { return Ok(()) };
        let iface_id = interface(slot);
        let interface = api::NetworkInterface {
            iface_id: iface_id.clone(),
            host_dev_name: tap.clone(),
            guest_mac: nic.mac.to_string(),
            rx_rate_limiter: config.rx_limit.map(Into::into),
            tx_rate_limiter: config.tx_limit.map(Into::into),
        };
        self.put(format!("/network-interfaces/{iface_id}"), &interface)
    }
}
