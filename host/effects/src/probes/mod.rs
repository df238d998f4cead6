//! What the host sees of a VM, layer by layer: is there a TAP, does it carry, does the guest answer ARP, ICMP, TCP, HTTP, RFB, and
//! does the firewall of the namespace stand as it should.
//!
//! ```text
//! links ─┐                (all at once; none waits for another, so the slowest of them is the whole)
//! arp ───┤
//! ping ──┤
//! http ──┼──> counters ──> HostFacts
//! rfb ───┤    (last: what was dropped of these questions and their answers is among them)
//! vmm ───┘
//! ```
//! Every probe has a deadline of its own within the one of the whole. A probe that fails leaves its fact out, with a line in the
//! debug log; the whole never fails. A guest whose VMM ended is not asked for anything: nobody could answer.

mod arp;
mod errno;
mod host;
mod http;
mod ping;
mod rfb;
mod rules;
mod tcp;
#[cfg(test)]
mod tests;

/// What reads the words of others, for the fuzz targets (`fuzz/`) and nobody else.
#[doc(hidden)]
pub mod parsers {
    pub use super::arp::answer as arp_answer;
    pub use super::host::{names as oom_killed, overlap, rp_filtered};
}

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::diagnosis::facts::{BridgeFacts, HostFacts, TapFacts};
use airlock_domain::vmm::ProcessId;
use airlock_protocol::Sensitive;
use airlock_protocol::paths::{HEALTH_PORT, RFB_PORT};
use tokio::time::Instant;

use crate::network::Network;
use crate::network::look::{BridgeSeen, LinkSeen};
use crate::vmm::chain;

/// The longest that a whole look takes.
pub const LIMIT: Duration = Duration::from_millis(1_900);
/// How long an answer to ARP and to ICMP echo is waited for: a guest under emulation takes some milliseconds.
const ANSWER: Duration = Duration::from_millis(600);
const CONNECT: Duration = Duration::from_millis(800);
const HTTP: Duration = Duration::from_millis(1_200);
/// What is left for the counters when the guest did not answer in time.
const COUNT: Duration = Duration::from_millis(150);

/// The VM that is looked at.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The VM.
    pub vm_id: VmId,
    /// Its lease.
    pub address: Ipv4Addr,
    /// Its VMM, as it was recorded.
    pub process: Option<ProcessId>,
    /// Where VMs are kept.
    pub vms_dir: PathBuf,
    /// Whether it should have an RFB server.
    pub has_display: bool,
    /// The password of that server, once it is set.
    pub vnc_password: Option<Sensitive>,
}

/// Looks at everything, for `limit` at most. See the head of this file.
pub async fn host_facts(network: &Network, subject: &Subject, limit: Duration) -> HostFacts {
    let ends = Instant::now() + limit.min(LIMIT);
    let (vmm_alive, vmm_oom_killed) = known("the VMM", ends, host::vmm(subject.process)).await.unwrap_or_default();
    let is_dead = vmm_alive == Some(false);
    let answered = ends.checked_sub(COUNT).unwrap_or(ends);
    let ask = async { if is_dead { HostFacts::default() } else { ask_guest(network, subject, answered).await } };
    let (own, HostFacts { neighbour, ping, tcp, http, rfb, painted, .. }) =
        tokio::join!(look_at_host(network, subject, ends), ask);
    let HostFacts { guarded, drops, rp_filter, overlap, .. } = count(network, subject, ends).await;
    let own = HostFacts { guarded, drops, rp_filter, overlap, ..own };
    HostFacts { vmm_alive, vmm_oom_killed, neighbour, ping, tcp, http, rfb, painted, ..own }
}

/// What only the guest can answer.
async fn ask_guest(network: &Network, subject: &Subject, ends: Instant) -> HostFacts {
    let soon = |most: Duration| ends.min(Instant::now() + most);
    let of = |port| SocketAddr::from((subject.address, port));
    let screen = async {
        if !subject.has_display {
            return (None, None);
        }
        rfb::look(network, of(RFB_PORT), subject.vnc_password.as_ref(), soon(CONNECT), ends).await
    };
    let (neighbour, ping, tcp, http, (rfb, painted)) = tokio::join!(
        known("ARP", ends, arp::ask(network, subject.address, soon(ANSWER))),
        known("ICMP echo", ends, ping::ask(network, subject.address, soon(ANSWER))),
        known("TCP", ends, tcp::ask(network, of(HEALTH_PORT), soon(CONNECT))),
        known("HTTP", ends, http::ask(network, subject.vm_id, of(HEALTH_PORT), soon(HTTP))),
        screen,
    );
    HostFacts { neighbour, ping, tcp, http, rfb, painted, ..HostFacts::default() }
}

/// What this host knows by itself.
async fn look_at_host(network: &Network, subject: &Subject, ends: Instant) -> HostFacts {
    let tap = subject.vm_id.tap_name();
    let (links, forward_drops, nat, free_bytes) = tokio::join!(
        known("links", ends, network.look_at(&tap)),
        known("chains of others", ends, network.forward_drops()),
        known("NAT", ends, network.nat()),
        known("free space", ends, host::free_bytes(&subject.vms_dir)),
    );
    let (tap, bridge) = links.unzip();
    HostFacts {
        tap: tap.map(|tap| tap.map(|link| tap_facts(link, subject.vm_id))),
        bridge: bridge.map(|bridge| bridge.map(|bridge| bridge_facts(bridge, network))),
        forward_drops,
        nat: nat.flatten(),
        free_bytes,
        ..HostFacts::default()
    }
}

/// What was dropped until now, and the settings and routes that may be the reason.
async fn count(network: &Network, subject: &Subject, ends: Instant) -> HostFacts {
    let ((guarded, mut drops), settings) = tokio::join!(
        rules::look(network, subject, ends),
        known("settings", ends, host::settings(network, subject.address)),
    );
    let host::Settings { rp_filter, rp_filtered, overlap } = settings.unwrap_or_default();
    if let (Some(drops), Some(count)) = (&mut drops, rp_filtered) {
        drops.insert("rp_filter".to_owned(), count);
    }
    HostFacts { guarded, drops, rp_filter, overlap, ..HostFacts::default() }
}

/// What has the TAP's name and is no TAP has somebody else's alias, or none: it is not ours in any case.
fn tap_facts(link: LinkSeen, vm_id: VmId) -> TapFacts {
    let LinkSeen { seen, is_tap } = link;
    TapFacts {
        ours: Some(is_tap && seen.alias == vm_id.to_string()),
        alias: Some(seen.alias),
        up: Some(seen.up),
        carrier: Some(seen.carrier),
        master: Some(seen.master),
        vnet_hdr: seen.vnet_hdr,
        from_guest_packets: Some(seen.from_guest_packets),
        to_guest_packets: Some(seen.to_guest_packets),
    }
}

fn bridge_facts(bridge: BridgeSeen, network: &Network) -> BridgeFacts {
    let subnet = network.spec().subnet;
    BridgeFacts {
        name: network.spec().bridge.clone(),
        up: Some(bridge.up),
        has_gateway: Some(bridge.addresses.contains(&(subnet.gateway(), subnet.prefix()))),
        addresses: Some(bridge.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect()),
    }
}

/// What a probe found, if it found something in time.
async fn known<T, E: Error>(what: &str, ends: Instant, probe: impl Future<Output = Result<T, E>>) -> Option<T> {
    match tokio::time::timeout_at(ends, probe).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            tracing::debug!(what, error = chain(&error), "not found out");
            None
        }
        Err(_) => {
            tracing::debug!(what, "not found out in time");
            None
        }
    }
}
