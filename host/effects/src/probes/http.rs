//! The agent's `GET /health` as a probe.

use std::net::SocketAddr;

use airlock_domain::VmId;
use airlock_domain::diagnosis::facts::Probe;
use airlock_domain::redaction::redact_text;
use tokio::time::Instant;

use super::errno::outcome;
use crate::http::{HealthError, get_health};
use crate::network::{Network, NetworkError};

/// The longest detail, in characters: it may quote a stranger.
const MAX_DETAIL: usize = 300;

/// Asks once. Whoever answers for another VM is wrong.
pub(super) async fn ask(
    network: &Network,
    vm_id: VmId,
    addr: SocketAddr,
    ends: Instant,
) -> Result<Probe, NetworkError> {
    let left = ends.saturating_duration_since(Instant::now());
    let error = match get_health(network, addr, left).await {
        Ok(health) if health.vm_id == vm_id.to_string() => return Ok(Probe::Ok),
        Ok(health) => return Ok(wrong(&format!("{addr} answers for the VM {:?}", health.vm_id))),
        Err(error) => error,
    };
    Ok(match error {
        HealthError::Network { source, .. } => return Err(source),
        HealthError::Refused { .. } => Probe::Refused,
        HealthError::TimedOut { .. } => Probe::TimedOut,
        HealthError::Unreachable { source, .. } | HealthError::Connect { source, .. } => outcome(&source, "connect"),
        other => wrong(&crate::vmm::chain(&other)),
    })
}

fn wrong(detail: &str) -> Probe {
    Probe::Wrong { detail: redact_text(detail).chars().take(MAX_DETAIL).collect() }
}
