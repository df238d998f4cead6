//! The body of the agent's `GET /health`.

use serde::{Deserialize, Serialize};

use crate::MacAddr;
use crate::stage::StageReport;

/// What the guest says of itself over its own network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `"ok"` while the agent serves.
    pub status: String,
    /// The agent's build id; must equal the image manifest's, else `agent_build_mismatch`.
    pub build_id: String,
    /// The VM id from the kernel command line.
    pub vm_id: String,
    /// The IPv4 addresses that the guest's interfaces really have (read from the kernel, not from the configuration).
    pub addresses: Vec<GuestAddress>,
    /// Seconds since the guest's kernel started (CLOCK_BOOTTIME).
    pub uptime_s: f64,
    /// Every stage reported so far, by init and by the agent.
    pub timeline: Vec<StageReport>,
}

/// One IPv4 address of one guest interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAddress {
    /// Interface name in the guest.
    pub dev: String,
    /// Hardware address of the interface.
    pub mac: MacAddr,
    /// Address with prefix length, e.g. `192.168.100.8/24`.
    pub addr: String,
}
