//! Machines.

use std::net::Ipv4Addr;

use airlock_protocol::{MacAddr, Stage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorDetail;

/// A machine as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmView {
    /// Id of the machine.
    pub id: String,
    /// Session that holds it.
    pub session_id: Option<String>,
    /// Golden image it was booted from.
    pub image: String,
    /// `qemu-tcg`, `qemu-kvm` or `firecracker`.
    pub driver: String,
    /// `starting`, `ready`, `destroying`, `destroyed`, `failed`, `needs_attention`.
    pub state: String,
    /// Last stage reached; of a failed boot the first stage that failed.
    #[schema(value_type = Option<String>)]
    pub stage: Option<Stage>,
    /// Leased address.
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    /// Hardware address, derived from the lease.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// Name of its TAP in the installation's namespace.
    pub tap: String,
    /// Pid of the VMM process, while it lives.
    pub pid: Option<i32>,
    /// When it was planned (RFC 3339).
    pub created_at: String,
    /// When it was gone (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// Live machines and the last ended ones, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmList {
    /// The machines.
    pub vms: Vec<VmView>,
}
