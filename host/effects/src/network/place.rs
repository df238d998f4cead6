//! A network namespace to work in: one with a thread of its own, or that of the daemon.

use airlock_domain::network::Uplink;

use crate::netns::{Netns, NetnsError};

#[derive(Clone)]
pub(super) enum Place {
    /// The daemon's own. No thread is moved out of it, so any thread will do.
    Host,
    /// A named one.
    Named(Netns),
}

impl Place {
    /// Where an uplink leads; none if nowhere.
    pub(super) async fn of_uplink(uplink: &Uplink) -> Result<Option<Self>, NetnsError> {
        match uplink {
            Uplink::None => Ok(None),
            Uplink::Host => Ok(Some(Self::Host)),
            Uplink::Namespace(name) => {
                let wanted = name.clone();
                let opened = tokio::task::spawn_blocking(move || Netns::open(&wanted)).await;
                let opened = opened.unwrap_or_else(|_| Err(NetnsError::Panicked { name: name.clone() }));
                opened.map(|netns| Some(Self::Named(netns)))
            }
        }
    }

    /// Runs `work` there. Keep it short.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        match self {
            Self::Host => tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| NetnsError::Panicked { name: Uplink::Host.to_string() }),
            Self::Named(netns) => netns.call(work).await,
        }
    }

    /// A netlink socket of the place, carried by the current runtime until the handle is dropped.
    pub(super) async fn netlink(&self) -> Result<std::io::Result<rtnetlink::Handle>, NetnsError> {
        let runtime = tokio::runtime::Handle::current();
        let made = self
            .call(move || {
                // The socket registers with the runtime, but belongs to the namespace of the thread that makes it.
                let _entered = runtime.enter();
                rtnetlink::new_connection()
            })
            .await?;
        Ok(made.map(|(connection, handle, _)| {
            tokio::spawn(connection);
            handle
        }))
    }
}
