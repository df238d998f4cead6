//! The VM's guard and what was dropped.

use std::collections::BTreeMap;

use airlock_domain::firewall::GuardSpec;
use tokio::time::Instant;

use super::{Subject, known};
use crate::network::Network;

/// Whether the VM's guard stands as it should, and what it and the rules beside it dropped, by rule.
pub(super) async fn look(
    network: &Network,
    subject: &Subject,
    ends: Instant,
) -> (Option<bool>, Option<BTreeMap<String, u64>>) {
    let wanted = GuardSpec::of_vm(subject.vm_id, subject.address);
    let (guard, firewall) = tokio::join!(
        known("the guard", ends, network.guard(&wanted.tap)),
        known("the firewall", ends, network.firewall()),
    );
    let guarded = guard.as_ref().map(|guard| guard.as_ref().is_some_and(|guard| guard.whole && guard.is(&wanted)));
    let dropped = [guard.flatten().map(|guard| guard.drops), firewall.map(|firewall| firewall.drops)];
    // One of the two is better than none.
    let drops = dropped.into_iter().flatten().reduce(|mut all, more| {
        for (name, count) in more {
            *all.entry(name).or_default() += count;
        }
        all
    });
    (guarded, drops)
}
