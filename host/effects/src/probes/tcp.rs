//! A TCP connection to the guest, closed at once.

use std::net::SocketAddr;

use airlock_domain::diagnosis::facts::Probe;
use tokio::time::{Instant, timeout_at};

use super::errno::outcome;
use crate::network::{Network, NetworkError};

/// Connects once.
pub(super) async fn ask(network: &Network, addr: SocketAddr, ends: Instant) -> Result<Probe, NetworkError> {
    let socket = network.tcp_socket().await?;
    Ok(match timeout_at(ends, socket.connect(addr)).await {
        Ok(Ok(_)) => Probe::Ok,
        Ok(Err(error)) => outcome(&error, "connect"),
        Err(_) => Probe::TimedOut,
    })
}
