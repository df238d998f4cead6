//! Bodies of Firecracker's API, as its OpenAPI file (1.16.1) has them; only the fields that are used. A field that is none is
//! not sent, so that Firecracker's own default holds.

use std::path::PathBuf;

use airlock_domain::config::{Bucket, RateLimit};
use serde::{Deserialize, Serialize};

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// E.g. `1.16.1`.
    pub firecracker_version: String,
}

/// `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// What `--id` said.
    pub id: String,
    /// Where the instance stands.
    pub state: InstanceState,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum InstanceState {
    /// It is being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its processors run.
    Running,
    /// They are held.
    Paused,
}

/// What a refused request is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Error {
    /// Firecracker's words.
    pub fault_message: String,
}

/// `PUT /actions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Which one.
    pub action_type: ActionType,
}

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ActionType {
    /// Starts the guest.
    InstanceStart,
    /// Presses three keys of an i8042 keyboard.
    SendCtrlAltDel,
    /// Writes the metrics now.
    FlushMetrics,
}

/// `PUT /logger`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logger {
    /// `Error`, `Warning`, `Info`, `Debug`, `Trace` or `Off`.
    pub level: &'static str,
    /// Whether each line says its level.
    pub show_level: bool,
}

/// `PUT /metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// File that a line is written to each minute.
    pub metrics_path: PathBuf,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineConfig {
    /// Processors.
    pub vcpu_count: u8,
    /// Memory in MiB.
    pub mem_size_mib: u32,
    /// Whether they look like threads of cores.
    pub smt: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// An ELF kernel.
    pub kernel_image_path: PathBuf,
    /// Its initial RAM filesystem.
    pub initrd_path: PathBuf,
    /// Its command line.
    pub boot_args: String,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its name, the same as in the path.
    pub drive_id: String,
    /// File.
    pub path_on_host: PathBuf,
    /// True would add `root=` to the kernel's command line; init mounts the root itself.
    pub is_root_device: bool,
    /// Whether the guest cannot write.
    pub is_read_only: bool,
    /// Limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its name, the same as in the path.
    pub iface_id: String,
    /// TAP. One that does not exist is made by a Firecracker that may (answer 204): look before and after.
    pub host_dev_name: String,
    /// Hardware address.
    pub guest_mac: String,
    /// Limit of what the guest receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limit of what it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's number; 3 for all, since each has a socket of its own (and a restored guest cannot change it).
    pub guest_cid: u32,
    /// The Unix socket before it.
    pub uds_path: PathBuf,
}

/// `PUT /entropy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entropy {
    /// Limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PUT /serial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Serial {
    /// File, so that the console outlives the daemon.
    pub serial_out_path: PathBuf,
    /// Limit in bytes; more is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}

/// `PUT /balloon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balloon {
    /// MiB taken from the guest.
    pub amount_mib: u32,
    /// Whether it gives back before the guest kills.
    pub deflate_on_oom: bool,
    /// Seconds between statistics; 0: none.
    pub stats_polling_interval_s: u16,
}

/// `GET /balloon/statistics`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonStats {
    /// What it is to hold.
    pub target_mib: u64,
    /// What it holds.
    pub actual_mib: u64,
    /// Memory that the guest could give, in bytes, once the guest said so.
    #[serde(default)]
    pub available_memory: Option<u64>,
}

/// `PUT /mmds/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MmdsConfig {
    /// `V2`: with a token. Firecracker's default is V1, which any server-side request forgery reads.
    pub version: &'static str,
    /// The interfaces it answers on.
    pub network_interfaces: Vec<String>,
}

/// `PATCH /vm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// `Paused` or `Resumed`.
    pub state: &'static str,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotCreate {
    /// `Full`; differences are a preview.
    pub snapshot_type: &'static str,
    /// File for the machine.
    pub snapshot_path: PathBuf,
    /// File for its memory.
    pub mem_file_path: PathBuf,
}

/// `PUT /snapshot/load`; only a process that was asked for nothing else takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotLoad {
    /// File with the machine.
    pub snapshot_path: PathBuf,
    /// Its memory.
    pub mem_backend: MemoryBackend,
    /// Whether it runs at once.
    pub resume_vm: bool,
    /// TAPs of the restored one.
    pub network_overrides: Vec<NetworkOverride>,
    /// Socket of the restored one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Moves the guest's clock to now.
    pub clock_realtime: bool,
}

/// Where a restored guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBackend {
    /// `File`.
    pub backend_type: &'static str,
    /// The file.
    pub backend_path: PathBuf,
}

/// Another TAP for an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkOverride {
    /// The interface.
    pub iface_id: String,
    /// Its TAP.
    pub host_dev_name: String,
}

/// Another socket for the vsock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockOverride {
    /// The socket.
    pub uds_path: PathBuf,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// Of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Of operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A token bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// How much it holds.
    pub size: u64,
    /// Milliseconds until it is full again.
    pub refill_time: u64,
    /// What may be taken before the limit begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
}

impl From<Bucket> for TokenBucket {
    fn from(bucket: Bucket) -> Self {
        Self { size: bucket.size, refill_time: bucket.refill_ms, one_time_burst: bucket.burst }
    }
}

impl From<RateLimit> for RateLimiter {
    fn from(limit: RateLimit) -> Self {
        Self { bandwidth: limit.bandwidth.map(Into::into), ops: limit.ops.map(Into::into) }
    }
}
