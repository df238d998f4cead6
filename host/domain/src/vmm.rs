//! What a VMM driver is asked to start, and what it says about a process.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use airlock_protocol::MacAddr;
use serde::{Deserialize, Serialize};

use crate::ids::VmId;
use crate::seed::Seed;

/// Which VMM runs a guest, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// QEMU with hardware virtualization.
    QemuKvm,
    /// QEMU with emulation.
    QemuTcg,
    /// Firecracker.
    Firecracker,
}

impl std::fmt::Display for DriverKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::QemuKvm => "qemu-kvm",
            Self::QemuTcg => "qemu-tcg",
            Self::Firecracker => "firecracker",
        })
    }
}

/// How a guest meets its virtio devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// On a PCI bus.
    #[default]
    Pci,
    /// At addresses in memory, as on machines without PCI.
    Mmio,
}

/// One VM to start. Everything it names exists already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmSpec {
    /// Whose process it will be.
    pub vm_id: VmId,
    /// The VM's own directory: sockets, console, VMM log; removed with the VM.
    pub dir: PathBuf,
    /// Kernel as the image has it: a bzImage or an ELF file.
    pub kernel: PathBuf,
    /// The same kernel as an uncompressed ELF file, where `kernel` is none (Firecracker boots nothing else).
    #[serde(default)]
    pub kernel_elf: Option<PathBuf>,
    /// Initial RAM filesystem.
    pub initramfs: PathBuf,
    /// Root filesystem, opened read-only and shared.
    pub rootfs: PathBuf,
    /// The part of the kernel command line that does not depend on the driver.
    pub cmdline: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Network interfaces in the order of their slots.
    pub nics: Vec<Nic>,
    /// How it meets its devices.
    #[serde(default)]
    pub transport: Transport,
    /// What its seed drive holds ([`VmmSpec::seed_drive`]); none if its image reads none.
    #[serde(default)]
    pub seed: Option<Seed>,
    /// User that its process runs as, who therefore owns its TAPs; none: the daemon's.
    #[serde(default)]
    pub uid: Option<u32>,
}

impl VmmSpec {
    /// Where the seed drive is, in the VM's directory.
    pub fn seed_drive(&self) -> Option<PathBuf> {
        self.seed.as_ref().map(|_| self.dir.join("seed.img"))
    }
}

/// Everything that the steps of one VM need, decided before the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPlan {
    /// The VM's leased address.
    pub address: Ipv4Addr,
    /// Which VMM runs it.
    pub driver: DriverKind,
    /// Why that one; kept with the VM's configuration.
    pub driver_reason: String,
    /// What that VMM is asked to start.
    pub vmm: VmmSpec,
}

/// Everything that undoing the steps of one VM needs, all of it recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmTraces {
    /// The VM.
    pub vm_id: VmId,
    /// Which VMM runs it.
    pub driver: DriverKind,
    /// Its process, once recorded.
    pub process: Option<ProcessId>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// TAP in the installation's namespace; none for an interface that is connected to nothing.
    pub tap: Option<String>,
    /// Hardware address.
    pub mac: MacAddr,
}

/// A process that can be recognized after a restart: a pid alone is reused, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since the host booted (proc(5)).
    pub start_ticks: u64,
}

/// How a VMM process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmExit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal number, if it was killed.
    pub signal: Option<i32>,
}

impl std::fmt::Display for VmmExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => write!(f, "killed by signal {signal}"),
            (Some(code), None) => write!(f, "exited with code {code}"),
            (None, None) => f.write_str("ended, status unknown (not our child)"),
        }
    }
}
