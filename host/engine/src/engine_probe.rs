//! What host and guest say of a live VM: the host looks at its own side, the agent answers over the control channel, both at once.
//!
//! ```text
//! asked by a person ───> task: look ──> (host probes | question to the agent) ──> answer, while the task goes on
//! boot failed ─────────> task: look_at_failed ──> the same, shorter, while the task reads nothing but the answer ──> evidence
//! ```
//! Never an error: what is not found out in time is absent. A VM whose VMM ended, or whose kernel panicked, is not asked for
//! anything, so that its failure is told at once.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use airlock_domain::boot::Failure;
use airlock_domain::diagnosis::{GuestFacts, HostFacts};
use airlock_domain::network::{NetworkSpec, Uplink};
use airlock_domain::{Cause, VmId};
use airlock_effects::probes::{LIMIT, Subject, host_facts};
use airlock_protocol::Stage;
use airlock_protocol::facts::MAX_FACTS_MS;
use airlock_protocol::message::{GuestMessage, HostMessage, ReachTarget};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now_ms;
use crate::engine::Engine;
use crate::error::Error;
use crate::vm::{Input, Order, VmTask};

/// How long a VM that failed is looked at: its failure is due within a second.
const FAILED_LIMIT: Duration = Duration::from_millis(700);
/// One whose time was over may say more: nobody knows yet why.
const OVERDUE_LIMIT: Duration = Duration::from_millis(1_500);
/// The agent's answer needs a moment to get here.
const ON_THE_WAY: Duration = Duration::from_millis(200);
const DNS_PORT: u16 = 53;

/// What was found out about a VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// What the host sees.
    pub host: Option<HostFacts>,
    /// What its agent sees.
    pub guest: Option<GuestFacts>,
}

impl Engine {
    /// Looks at a live VM from both sides; at most about two seconds. Nothing of one that has no task: it is over, or not begun.
    pub async fn probe_vm(&self, id: VmId) -> Result<Facts, Error> {
        self.vm(id).await?;
        let (answer, answered) = oneshot::channel();
        if !self.order(id, Order::Look { answer }).await {
            return Ok(Facts::default());
        }
        // The task may end meanwhile, which drops the question; one that is busy elsewhere is not waited for.
        Ok(tokio::time::timeout(LIMIT * 2, answered).await.ok().and_then(Result::ok).unwrap_or_default())
    }
}

impl VmTask {
    /// Looks at the VM from both sides, for `limit` at most. The agent's answer must reach [`VmTask::take_facts`] meanwhile.
    pub(crate) fn look(&mut self, limit: Duration) -> impl Future<Output = Facts> + Send + use<> {
        let (ctx, control) = (self.ctx.clone(), self.control.clone());
        let subject = Subject {
            vm_id: self.session.vm_id,
            address: self.address,
            process: self.handle.as_ref().map(|handle| handle.process.id()),
            vms_dir: ctx.config.state_dir.join("vms"),
            vnc_password: self.screen_password(),
            has_display: self.image.manifest.readiness.contains(&Stage::DisplayUp),
        };
        let (id, answered) = self.probes.ask_facts();
        async move {
            let network = &ctx.config.network;
            let ask = async {
                let timeout_ms = u64::try_from(limit.saturating_sub(ON_THE_WAY).as_millis()).unwrap_or(MAX_FACTS_MS);
                let egress = egress_targets(network);
                let question = HostMessage::Facts { id, now_ms: now_ms().unsigned_abs(), egress, timeout_ms };
                // A guest that does not read lets nothing in.
                control?.send(&question).await.ok()?;
                answered.await.ok()
            };
            let (host, guest) =
                tokio::join!(host_facts(&ctx.network, &subject, limit), tokio::time::timeout(limit, ask));
            let guest = guest.ok().flatten().map(|guest| believed(guest, network));
            Facts { host: Some(host), guest }
        }
    }

    /// Looks at a VM that failed, before its evidence is saved. Whatever else comes from it meanwhile is too late.
    pub(crate) async fn look_at_failed(&mut self, failure: &Failure, received: &mut mpsc::Receiver<Input>) {
        if self.is_dead(failure) {
            return;
        }
        let limit = if failure.is_of_deadline() { OVERDUE_LIMIT } else { FAILED_LIMIT };
        let looking = self.look(limit);
        tokio::pin!(looking);
        self.facts = loop {
            tokio::select! {
                facts = &mut looking => break facts,
                Some(input) = received.recv() => match input {
                    Input::Control(message) => if let GuestMessage::Facts { id, facts } = *message {
                        self.probes.answer_facts(id, *facts);
                    },
                    Input::Exited(_) => break Facts::default(),
                    _ => {}
                },
            }
        };
    }

    fn is_dead(&self, failure: &Failure) -> bool {
        let ended = self.handle.as_ref().is_none_or(|handle| handle.process.exit().is_some());
        ended || matches!(failure.cause, Cause::VmmExited | Cause::KernelPanic | Cause::GuestOom)
    }
}

/// What proves that a guest gets out: contact with a name server outside, however it answers. Nothing without a way out.
fn egress_targets(network: &NetworkSpec) -> Vec<ReachTarget> {
    if network.egress.uplink == Uplink::None {
        return Vec::new();
    }
    let outside = network.guest.dns.iter().filter_map(|server| match server {
        IpAddr::V4(address) if *address != network.subnet.gateway() => Some(*address),
        _ => None,
    });
    let Some(server) = outside.into_iter().next() else { return Vec::new() };
    let address = SocketAddr::from((server, DNS_PORT));
    vec![ReachTarget::Udp { address }, ReachTarget::Tcp { address }, ReachTarget::Ping { address: server }]
}

/// Of a guest that may not get out, the silence of name servers proves nothing.
fn believed(guest: GuestFacts, network: &NetworkSpec) -> GuestFacts {
    if network.egress.uplink == Uplink::None { GuestFacts { dns: None, egress: None, ..guest } } else { guest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::network::EgressSpec;

    fn network(uplink: Uplink, dns: &[&str]) -> NetworkSpec {
        let mut network =
            NetworkSpec { egress: EgressSpec { uplink, ..EgressSpec::default() }, ..NetworkSpec::default() };
        network.guest.dns = dns.iter().map(|address| address.parse().unwrap()).collect();
        network
    }

    #[test]
    fn the_way_out_is_tried_where_there_is_one() {
        assert_eq!(egress_targets(&network(Uplink::None, &["9.9.9.9"])), []);
        assert_eq!(egress_targets(&network(Uplink::Host, &[])), []);
        assert_eq!(egress_targets(&network(Uplink::Host, &["192.168.100.1", "2620:fe::fe"])), []);
        let address = "9.9.9.9:53".parse().unwrap();
        assert_eq!(
            egress_targets(&network(Uplink::Host, &["192.168.100.1", "9.9.9.9"])),
            [
                ReachTarget::Udp { address },
                ReachTarget::Tcp { address },
                ReachTarget::Ping { address: "9.9.9.9".parse().unwrap() }
            ]
        );
    }

    #[test]
    fn a_guest_that_may_not_get_out_is_not_blamed() {
        let said = GuestFacts { dns: Some(false), egress: Some(false), total_mib: Some(1), ..GuestFacts::default() };
        let kept = GuestFacts { total_mib: Some(1), ..GuestFacts::default() };
        assert_eq!(believed(said.clone(), &network(Uplink::None, &[])), kept);
        assert_eq!(believed(said.clone(), &network(Uplink::Host, &[])), said);
    }
}
