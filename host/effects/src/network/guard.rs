//! The guards of the TAPs: one chain per port that holds its guest to the MAC and the address of its lease.
//!
//! ```text
//! guard_tap ──┐
//! guard_tap ──┼──> queue ──(what waits)──> one nft run ──> each is answered, then its link goes up
//! unguard_tap ┘                                └─ failed: each alone, so that an error is told to the one who caused it
//! ```
//! A run costs milliseconds however little it does, so those who come while one is under way share the next. A removal makes nft
//! wait for the kernel's readers, so guards go before removals. A crash leaves a guard without TAP or a TAP that is down; both
//! are seen ([`Network::guards`], [`Network::taps`]) and both are repeated or removed by the same two calls.

use airlock_domain::VmId;
use airlock_domain::firewall::{self, GuardSpec};
use airlock_domain::network::Subnet;
use tokio::sync::{mpsc, oneshot};

use super::Network;
use super::error::NetworkError;
use super::link::{self, Link};
use super::nft::{Nft, NftError};
use super::observe::{GuardSeen, guards_seen};
use super::place::Place;

/// The most changes in one run of nft.
const BATCH: usize = 128;

/// Takes changes and applies them together. Its task ends with the last handle.
pub(super) struct Guards {
    queue: mpsc::UnboundedSender<Request>,
}

struct Request {
    change: Change,
    done: oneshot::Sender<Result<(), NftError>>,
}

#[derive(Debug, Clone)]
enum Change {
    Guard(GuardSpec),
    Remove(String),
}

impl Change {
    fn tap(&self) -> &str {
        match self {
            Self::Guard(spec) => &spec.tap,
            Self::Remove(tap) => tap,
        }
    }

    /// Its rules. `anew` costs more and works on top of anything.
    fn text(&self, subnet: Subnet, anew: bool) -> String {
        match self {
            Self::Guard(spec) if anew => firewall::guard_anew(subnet, spec),
            Self::Guard(spec) => firewall::guard(subnet, spec),
            Self::Remove(tap) => firewall::remove_guard(tap),
        }
    }
}

impl Guards {
    pub(super) fn start(nft: Nft, place: Place, subnet: Subnet) -> Self {
        let (queue, mut requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let committer = Committer { nft, place, subnet };
            let mut waiting = Vec::with_capacity(BATCH);
            while requests.recv_many(&mut waiting, BATCH).await > 0 {
                committer.commit_all(std::mem::take(&mut waiting)).await;
            }
        });
        Self { queue }
    }

    async fn change(&self, change: Change) -> Result<(), NftError> {
        let (done, answer) = oneshot::channel();
        // Both fail only when the task is gone, that is, when the runtime is shutting down: nobody is left to be told.
        let _ = self.queue.send(Request { change, done });
        match answer.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}

struct Committer {
    nft: Nft,
    place: Place,
    subnet: Subnet,
}

impl Committer {
    async fn commit_all(&self, requests: Vec<Request>) {
        let mut taps: Vec<&str> = requests.iter().map(|request| request.change.tap()).collect();
        taps.sort_unstable();
        let distinct = taps.windows(2).all(|pair| pair[0] != pair[1]);
        if distinct {
            let is_guard = |request: &Request| matches!(request.change, Change::Guard(_));
            let (guards, removals): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_guard);
            self.commit(guards).await;
            self.commit(removals).await;
        } else {
            // Of two changes to one TAP the later one counts, so neither the order nor the number may change.
            self.commit_each(requests).await;
        }
    }

    async fn commit(&self, requests: Vec<Request>) {
        let text: String = requests.iter().map(|request| request.change.text(self.subnet, false)).collect();
        if text.is_empty() {
            return;
        }
        match self.nft.apply(&self.place, text).await {
            Ok(()) => requests.into_iter().for_each(|request| drop(request.done.send(Ok(())))),
            Err(_) => self.commit_each(requests).await,
        }
    }

    async fn commit_each(&self, requests: Vec<Request>) {
        for Request { change, done } in requests {
            let _ = done.send(self.nft.apply(&self.place, change.text(self.subnet, true)).await);
        }
    }
}

impl Network {
    /// Holds the guest behind a TAP to its MAC and address, in one transaction, then sets the TAP up. Idempotent; a guard with
    /// other values, or half a guard, is replaced.
    pub async fn guard_tap(&self, spec: &GuardSpec) -> Result<(), NetworkError> {
        let missing = || NetworkError::TapMissing { tap: spec.tap.clone(), namespace: self.namespace().to_owned() };
        // Newer kernels would take a guard for a device that is yet to come.
        let tap = self.link(&spec.tap).await?.ok_or_else(missing)?;
        if tap.kind != "tun" || !is_plain(&spec.tap) {
            let namespace = self.namespace().to_owned();
            return Err(NetworkError::NotA { name: spec.tap.clone(), namespace, wanted: "TAP" });
        }
        if tap.alias != spec.alias {
            let (owner, tap, wanted) = (tap.alias, spec.tap.clone(), spec.alias.clone());
            return Err(NetworkError::TapNameCollision { tap, owner, wanted });
        }
        self.change_guard("guard", Change::Guard(spec.clone())).await?;
        match link::set_up(self.netlink(), tap.index).await {
            Ok(()) => Ok(()),
            Err(gone) if gone.raw_os_error() == Some(libc::ENODEV) => {
                self.change_guard("unguard", Change::Remove(spec.tap.clone())).await?;
                Err(missing())
            }
            Err(source) => Err(NetworkError::SetUp { link: spec.tap.clone(), source }),
        }
    }

    /// Takes the TAP down if a VM of ours owns it, then its guard away. Fine if either is gone already.
    pub async fn unguard_tap(&self, tap: &str) -> Result<(), NetworkError> {
        if !is_plain(tap) {
            return Err(NetworkError::NotA {
                name: tap.to_owned(),
                namespace: self.namespace().to_owned(),
                wanted: "TAP",
            });
        }
        // Something else of that name may stand there now; the guard is ours in any case.
        let is_ours = |link: &Link| link.alias.parse::<VmId>().is_ok_and(|vm_id| vm_id.tap_name() == tap);
        if let Some(link) = self.link(tap).await?.filter(|link| link.up && is_ours(link)) {
            match link::set_down(self.netlink(), link.index).await {
                Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                    return Err(NetworkError::SetDown { link: tap.to_owned(), source: error });
                }
                _ => {}
            }
        }
        self.change_guard("unguard", Change::Remove(tap.to_owned())).await
    }

    /// Every guard that the kernel has, also of TAPs that are gone. Costs about half a millisecond per guard.
    pub async fn guards(&self) -> Result<Vec<GuardSeen>, NetworkError> {
        let listed = self.inner.nft.list(&self.inner.place, &["table", "netdev", firewall::TABLE]).await;
        let listed = listed.map_err(|source| self.nft_error("list the guards", source))?;
        Ok(listed.as_ref().map(guards_seen).unwrap_or_default())
    }

    /// The guard of one TAP, if it has one: a tenth of the cost of all of them where there are two hundred.
    pub async fn guard(&self, tap: &str) -> Result<Option<GuardSeen>, NetworkError> {
        if !is_plain(tap) {
            // nft would read it as more than a name; no chain of ours has it.
            return Ok(None);
        }
        let chain = ["chain", "netdev", firewall::TABLE, tap];
        let listed = self.inner.nft.list(&self.inner.place, &chain).await;
        let listed = listed.map_err(|source| self.nft_error(&format!("list the guard of TAP {tap}"), source))?;
        Ok(listed.as_ref().and_then(|listed| guards_seen(listed).into_iter().find(|guard| guard.tap == tap)))
    }

    async fn change_guard(&self, doing: &str, change: Change) -> Result<(), NetworkError> {
        let doing = format!("{doing} TAP {}", change.tap());
        self.inner.guards.change(change).await.map_err(|source| self.nft_error(&doing, source))
    }
}

/// Whether a name can stand in a text for nft as it is. Names of our TAPs always can.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
}
