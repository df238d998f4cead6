//! The DHCP server of an installation: hands out the leases that are recorded and nothing else
//! ([`airlock_domain::network::dhcp`] decides).
//!
//! ```text
//! frame of the bridge -> request -> whose lease? -> decision -> answer into that VM's TAP
//!                            └─ silence, counted under its reason
//! ```
//! One task. What it cannot do for one guest it says in the log and counts. When it cannot serve at all (the port is taken, the
//! bridge is gone) it says so once, stands in [`DhcpStatus`] with the reason, and tries again until it can: leases are recorded
//! elsewhere, so nothing is lost meanwhile. It ends with its handle.

mod socket;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use airlock_domain::VmId;
use airlock_domain::network::dhcp::{self, Answer, Lease, Request, Silence, Terms, Throttle};
pub use futures_util::future::BoxFuture;
use tokio::task::AbortHandle;

use self::socket::Sockets;
use super::{Network, NetworkError};
use crate::vmm::chain;

/// Pause before it is tried again to serve.
const RETRY: Duration = Duration::from_secs(1);

/// Says who has leased an address now.
pub type LeaseHolder =
    Arc<dyn Fn(Ipv4Addr) -> BoxFuture<'static, Result<Option<VmId>, Box<dyn Error + Send + Sync>>> + Send + Sync>;

/// How the server is.
#[derive(Debug, Clone, Default)]
pub struct DhcpStatus {
    /// Why it does not serve; none if it does.
    pub failure: Option<Arc<NetworkError>>,
    /// Requests since it was started, by what came of them: kinds of answers and reasons of silence.
    pub outcomes: BTreeMap<&'static str, u64>,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct DhcpServer {
    status: Arc<Mutex<DhcpStatus>>,
    task: AbortHandle,
}

impl DhcpServer {
    /// How it is now.
    pub fn status(&self) -> DhcpStatus {
        lock(&self.status).clone()
    }

    /// Ends it.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The map is whole after every statement that holds the lock.
fn lock(status: &Mutex<DhcpStatus>) -> MutexGuard<'_, DhcpStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Starts the DHCP server on the bridge. Returns when it serves, or when it is known why it does not yet.
    pub async fn serve_dhcp(&self, terms: Terms, holder: LeaseHolder) -> DhcpServer {
        let status = Arc::new(Mutex::new(DhcpStatus::default()));
        let server = Server {
            network: self.clone(),
            terms,
            holder,
            status: status.clone(),
            throttle: Throttle::default(),
            started: Instant::now(),
        };
        let first = server.open().await;
        let task = tokio::spawn(server.run(first)).abort_handle();
        DhcpServer { status, task }
    }
}

struct Server {
    network: Network,
    terms: Terms,
    holder: LeaseHolder,
    status: Arc<Mutex<DhcpStatus>>,
    throttle: Throttle,
    started: Instant,
}

impl Server {
    async fn open(&self) -> Result<Sockets, NetworkError> {
        let opened = match Sockets::open(self.network.netns(), &self.network.spec().bridge).await {
            Ok(Ok(sockets)) => Ok(sockets),
            Ok(Err((doing, source))) => Err(self.failed(doing, source)),
            Err(source) => Err(self.network.namespace_error(source)),
        };
        match &opened {
            Ok(_) => {
                if lock(&self.status).failure.take().is_some() {
                    tracing::info!(namespace = self.network.namespace(), "DHCP is served again");
                }
            }
            Err(error) => self.say(error),
        }
        opened
    }

    /// What cannot be done is said when it begins, and when its reason changes.
    fn say(&self, error: &NetworkError) {
        let why = chain(error);
        let known = lock(&self.status).failure.as_deref().map(|known| chain(known));
        if known.as_ref() != Some(&why) {
            tracing::error!(error = why, "DHCP is not served: machines that ask for their address get none");
        }
    }

    async fn run(mut self, first: Result<Sockets, NetworkError>) {
        let mut opened = first;
        loop {
            let error = match opened {
                Ok(sockets) => {
                    let ended = self.serve(&sockets).await;
                    let error = self.failed("receive requests", ended);
                    self.say(&error);
                    error
                }
                Err(error) => error,
            };
            lock(&self.status).failure = Some(Arc::new(error));
            tokio::time::sleep(RETRY).await;
            opened = self.open().await;
        }
    }

    /// Answers until the sockets are of no use any more, and returns why.
    async fn serve(&mut self, sockets: &Sockets) -> io::Error {
        loop {
            let frame = match sockets.receive().await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            let outcome = match self.answer(sockets, &frame).await {
                Ok(answer) => answer.kind.name(),
                Err(silence) => silence.name(),
            };
            *lock(&self.status).outcomes.entry(outcome).or_default() += 1;
        }
    }

    async fn answer(&mut self, sockets: &Sockets, frame: &[u8]) -> Result<Answer, Silence> {
        let server = self.terms.subnet.gateway();
        let request = wire::read(frame, server).ok_or(Silence::Malformed)?;
        let address = dhcp::address_of(self.terms.subnet, &request)?;
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !self.throttle.admits(address, now_ms) {
            return Err(Silence::TooMany);
        }
        let holder = (self.holder)(address).await.map_err(|error| {
            tracing::error!(%address, error = chain(&*error), "whose a DHCP request is cannot be found out");
            Silence::LeaseUnreadable
        })?;
        let lease = holder.map(|vm_id| Lease { vm_id, address });
        let decided = dhcp::decide(&self.terms, &request, lease);
        tell(&request, address, &decided);
        let answer = decided?;
        let vm_id = holder.ok_or(Silence::NoLease)?;
        let frame = wire::write(&answer, server).ok_or_else(|| {
            tracing::error!(%vm_id, "a DHCP answer does not fit into a datagram: network.guest says too much");
            Silence::NotSent
        })?;
        self.send(sockets, vm_id, &frame).await.map_err(|error| {
            tracing::warn!(%vm_id, error = chain(&error), "a DHCP answer was not sent");
            Silence::NotSent
        })?;
        Ok(answer)
    }

    /// Into the TAP of that VM, and only if it is its own.
    async fn send(&self, sockets: &Sockets, vm_id: VmId, frame: &[u8]) -> Result<(), NetworkError> {
        let (tap, wanted) = (vm_id.tap_name(), vm_id.to_string());
        let Some(link) = self.network.link(&tap).await? else {
            return Err(NetworkError::TapMissing { tap, namespace: self.network.namespace().to_owned() });
        };
        if link.alias != wanted {
            return Err(NetworkError::TapNameCollision { tap, owner: link.alias, wanted });
        }
        sockets.send(link.index, frame).map_err(|source| self.failed("send an answer", source))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> NetworkError {
        let (bridge, namespace) = (self.network.spec().bridge.clone(), self.network.namespace().to_owned());
        NetworkError::Dhcp { doing, bridge, namespace, source }
    }
}

/// What an operator wants to know of a request.
fn tell(request: &Request, address: Ipv4Addr, decided: &Result<Answer, Silence>) {
    match decided {
        Err(Silence::Declined) => {
            tracing::warn!(%address, "a guest says that another machine has its address (DHCPDECLINE)");
        }
        Ok(answer) => tracing::debug!(%address, wish = ?request.wish, answer = answer.kind.name(), "DHCP"),
        Err(silence) => tracing::debug!(%address, wish = ?request.wish, silence = silence.name(), "DHCP"),
    }
}
