//! One owner of addressing, watched: what the interface has, who changed it, and what follows.
//!
//! ```text
//! coming up (the image's own manager owns it): link_up -> address_set -> route_set -> gateway_reachable, reported as seen
//!     └─> held: the lease is there ──(somebody takes it, takes the link down, adds another address)──> reported, put back
//! ```
//!
//! The interface is known by its hardware address, or by its number: another name is noted and changes nothing.
//!
//! The kernel's word that something changed (rtnetlink) wakes this; what is true then is read anew. A manager that owns the
//! interface may take its address away for a moment, so there a change counts only when it lasts. What cannot be put back,
//! or is taken again and again, is reported as a failure; the rest of the agent goes on.

mod interface;
mod judge;
mod netlink;
mod who;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use airlock_protocol::guest_config::{NetworkOwner, OnConflict};
use airlock_protocol::{BootConfig, Stage, StageReport};

use self::interface::Observed;
use self::judge::{Conflict, Judge, Verdict};
use self::netlink::{Change, Netlink};
use crate::timeline::Timeline;

/// Port to which nobody listens (RFC 863): a datagram makes the kernel ask for the gateway's hardware address.
const DISCARD: u16 = 9;
/// Pause between two looks while something is awaited that no event announces.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the interface must have.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Address.
    pub addr: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The gateway, if there is one.
    pub gateway: Option<Ipv4Addr>,
}

impl Lease {
    fn of(boot: &BootConfig) -> Option<Self> {
        let prefix = boot.ip.netmask.map_or(24, |mask| mask.prefix());
        Some(Self { addr: boot.ip.client?, prefix, gateway: boot.ip.gateway })
    }
}

/// Watches until the machine ends. Returns only if the kernel cannot be asked, or no address is ours.
pub fn watch(
    boot: &BootConfig,
    owner: NetworkOwner,
    on_conflict: OnConflict,
    timeline: &Arc<Timeline>,
) -> std::io::Result<()> {
    let Some(lease) = Lease::of(boot) else { return Ok(()) };
    // Before the first look, so that nothing can change unseen between the two.
    let mut netlink = Netlink::subscribe()?;
    let mut judge = Judge::new(lease.clone(), owner == NetworkOwner::Airlock);
    let mut changes: Vec<Change> = Vec::new();
    let mut known = 0;
    loop {
        let mut again = false;
        let observed = Observed::now(boot, known);
        known = if observed.index == 0 { known } else { observed.index };
        if owner != NetworkOwner::Airlock {
            report_stages(&observed, &lease, timeline);
        }
        let now = Instant::now();
        match judge.look(&observed, now) {
            Verdict::Quiet => changes.clear(),
            Verdict::Unsettled => {}
            Verdict::Mismatch { has } => timeline.note(mismatch(&lease, &has)),
            Verdict::Renamed { from } => {
                // A manager that owns the interface puts its routes back itself. What stays away is a conflict at the next look.
                if owner == NetworkOwner::Airlock {
                    let _ = netlink::restore(&observed, &lease);
                }
                timeline.note(renamed(&from, &observed.name));
                changes.clear();
            }
            Verdict::Conflict(conflict) => {
                let who = who::changed(&changes, observed.index);
                match settle(&conflict, &who, &observed, &lease, on_conflict, &mut judge, now) {
                    Some(report) => {
                        timeline.note(report);
                        changes.clear();
                    }
                    None => again = true,
                }
            }
        }
        let awaits_gateway = owner != NetworkOwner::Airlock && !timeline.has(Stage::GatewayReachable);
        let pause = (again || awaits_gateway || judge.is_unsettled()).then_some(LOOK_EVERY);
        changes.extend(netlink.wait(pause)?);
    }
}

/// The stages of the network, as far as they are reached. Each is reported once.
fn report_stages(observed: &Observed, lease: &Lease, timeline: &Timeline) {
    if !observed.has_carrier {
        return;
    }
    timeline.reached(Stage::LinkUp, &[("dev", observed.name.as_str().into())]);
    if !observed.has(lease) {
        return;
    }
    let addr = format!("{}/{}", lease.addr, lease.prefix);
    timeline.reached(Stage::AddressSet, &[("dev", observed.name.as_str().into()), ("addr", addr.into())]);
    let Some(gateway) = lease.gateway else {
        timeline.reached(Stage::RouteSet, &[("gateway", "none".into())]);
        return timeline.reached(Stage::GatewayReachable, &[("gateway", "none".into())]);
    };
    if observed.default_route != Some(gateway) {
        return;
    }
    let shown = gateway.to_string();
    timeline.reached(Stage::RouteSet, &[("gateway", shown.as_str().into())]);
    match interface::neighbour(gateway) {
        Some(mac) => timeline.reached(Stage::GatewayReachable, &[("gateway", shown.into()), ("mac", mac.into())]),
        // The answer to its question shows in the table.
        None => {
            let _ = UdpSocket::bind((lease.addr, 0)).and_then(|socket| socket.send_to(&[0], (gateway, DISCARD)));
        }
    }
}

/// Does what the image wants of a conflict and says so. Nothing is said while it cannot be put back because it is still being
/// taken; whoever does not stop is told of in the end.
fn settle(
    conflict: &Conflict,
    who: &str,
    observed: &Observed,
    lease: &Lease,
    on_conflict: OnConflict,
    judge: &mut Judge,
    now: Instant,
) -> Option<StageReport> {
    let what = format!("{who} {}", conflict.words(&observed.name, lease));
    let report = |ok, errno: Option<String>, detail: String| {
        let report = match ok {
            true => StageReport { detail: Some(detail), ..StageReport::reached(0, 0, Stage::AddressSet) },
            false => StageReport::failed(0, 0, Stage::AddressSet, errno, detail),
        };
        Some(report.with("cause", "address_owner_conflict").with("who", who).with("dev", observed.name.as_str()))
    };
    if on_conflict == OnConflict::Fail {
        return report(false, None, what);
    }
    let may_restore = judge.may_restore(now);
    match netlink::restore(observed, lease) {
        Ok(()) if may_restore => report(true, None, format!("{what}; put back")),
        Ok(()) => report(false, None, format!("{what}, again and again")),
        Err(_) if may_restore => None,
        Err(errno) => report(false, Some(format!("{errno:?}")), format!("{what}; put it back")),
    }
}

fn renamed(from: &str, to: &str) -> StageReport {
    let report = StageReport::reached(0, 0, Stage::LinkUp).with("dev", to).with("was", from);
    StageReport { detail: Some(format!("{from} is called {to} now")), ..report }
}

fn mismatch(lease: &Lease, has: &[String]) -> StageReport {
    let detail = format!("the interface has {}, its lease is {}/{}", has.join(", "), lease.addr, lease.prefix);
    StageReport::failed(0, 0, Stage::AddressSet, None, detail).with("cause", "address_mismatch")
}

#[cfg(test)]
mod tests;
