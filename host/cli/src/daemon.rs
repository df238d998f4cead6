//! What `serve`, `up` and `demo-idp` share: binding an address, opening the engine.

use std::io;
use std::net::SocketAddr;

use airlock_domain::config::Config;
use airlock_effects::files::StateLock;
use airlock_engine::{Engine, OpenError};
use tokio::net::TcpListener;

use crate::failure::{FAILED, Failure, Outcome, REFUSED, USAGE};

/// Before any secret is in this process: nobody dumps it, nobody but root reads its memory, none of it is swapped.
fn harden() {
    if let Err(error) = airlock_effects::secret::harden_process() {
        tracing::warn!(%error, "the daemon's memory can be dumped: LimitCORE=0 of its unit helps");
    }
    match airlock_effects::secret::keep_out_of_swap() {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the daemon's memory may be swapped, all but its keys: CAP_IPC_LOCK helps"),
        Err(error) => tracing::warn!(%error, "the daemon's memory may be swapped, all but its keys"),
    }
}

/// Listens on `addr`.
pub async fn bind(addr: SocketAddr) -> Outcome<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        let (exit, code, remedy) = match error.kind() {
            io::ErrorKind::AddrInUse => (REFUSED, "port_in_use", "stop what listens there, or choose another --listen"),
            io::ErrorKind::PermissionDenied => (REFUSED, "port_forbidden", "choose a port above 1023, or run as root"),
            io::ErrorKind::AddrNotAvailable => {
                (USAGE, "address_not_local", "choose an address of this host for --listen")
            }
            _ => (FAILED, "listen_failed", "see the cause"),
        };
        Failure::new(exit, code, format!("listen on {addr}"), remedy).because(&error)
    })
}

/// Binds and opens everything, in the order in which a refusal costs least: state directory, port, network.
pub async fn open(mut config: Config) -> Outcome<(Engine, TcpListener)> {
    harden();
    // Only asked, so that a second daemon hears of the first and not of its port; the engine takes the lock to keep it.
    drop(StateLock::take(&config.state_dir).map_err(OpenError::StateDir)?);
    let listener = bind(config.listen).await?;
    // Port 0 asks for a free one; links and clients need the one that was given.
    config.listen = listener.local_addr().unwrap_or(config.listen);
    let engine = Engine::open(config).await?;
    Ok((engine, listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_remedy() {
        let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let failure = bind(first.local_addr().unwrap()).await.unwrap_err();
        assert_eq!((failure.exit, failure.detail.code.as_str()), (REFUSED, "port_in_use"));
        assert!(failure.detail.remedy.is_some() && !failure.chain.is_empty());
    }
}
