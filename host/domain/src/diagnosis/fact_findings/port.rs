//! The host's side: the VM's TAP, the bridge, and the room that the host has.

use airlock_protocol::Stage;

use super::{Sight, seen_by_host};
use crate::cause::Cause;
use crate::diagnosis::facts::TapFacts;
use crate::diagnosis::rules::Grade;
use crate::diagnosis::{Evidence, Finding, Source};

/// Less than this is worth knowing, in bytes.
const LOW_BYTES: u64 = 256 << 20;

pub(super) fn find(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    of_bridge(sight, found);
    // One that was not made yet is not missing, and one of a dead VMM explains nothing.
    let is_made = !sight.is_timed || sight.has_reached(Stage::TapUp);
    if is_made && sight.host.vmm_alive != Some(false) {
        of_tap(sight, found);
    }
    if let Some(route) = &sight.host.overlap {
        let text = format!("the pool overlaps the host's route {route}");
        found.push(seen_by_host(Cause::SubnetOverlap, Stage::Leased, Grade::Hard, text));
    }
    of_room(sight, found);
}

fn of_bridge(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let mut add = |cause, text: String| found.push(seen_by_host(cause, Stage::TapUp, Grade::Hard, text));
    match &sight.host.bridge {
        Some(None) => add(Cause::BridgeMissing, "the bridge is gone".to_owned()),
        // Its address does not help then.
        Some(Some(bridge)) if bridge.up == Some(false) => {
            add(Cause::BridgeMissing, format!("the bridge {} is down", bridge.name));
        }
        Some(Some(bridge)) if bridge.has_gateway == Some(false) => {
            let addresses = bridge.addresses.as_deref().unwrap_or_default();
            let text = format!("{} has {addresses:?} and not the guests' gateway", bridge.name);
            add(Cause::BridgeAddressMismatch, text);
        }
        _ => {}
    }
}

fn of_tap(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let mut add = |cause, text: &str| found.push(seen_by_host(cause, Stage::TapUp, Grade::Hard, text));
    let TapFacts { alias, ours, up, carrier, master, vnet_hdr, .. } = match &sight.host.tap {
        Some(Some(tap)) => tap,
        Some(None) => return add(Cause::TapMissing, "the VM's TAP is gone"),
        None => return,
    };
    if *ours == Some(false) {
        let text = format!("the TAP's alias is {:?}", alias.as_deref().unwrap_or_default());
        add(Cause::TapNameCollision, &text);
    }
    if *up == Some(false) {
        add(Cause::TapDown, "the VM's TAP is down");
    }
    let bridge = sight.host.bridge.as_ref().and_then(|bridge| Some(bridge.as_ref()?.name.as_str()));
    match (master, bridge) {
        (Some(None), _) => add(Cause::TapNotInBridge, "the VM's TAP is in no bridge"),
        (Some(Some(master)), Some(bridge)) if master != bridge => {
            add(Cause::TapNotInBridge, &format!("the VM's TAP is in {master} and not in {bridge}"));
        }
        _ => {}
    }
    if *vnet_hdr == Some(false) {
        add(Cause::TapNoVnetHdr, "the VM's TAP has no virtio-net header");
    }
    if (*carrier, *up, sight.host.vmm_alive) == (Some(false), Some(true), Some(true)) {
        let text = "no VMM is attached to the VM's TAP";
        found.push(seen_by_host(Cause::LinkNoCarrier, Stage::LinkUp, Grade::Weak, text));
    }
}

fn of_room(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    if sight.host.vmm_oom_killed == Some(true) {
        let text = "the host's kernel killed the VMM for want of memory";
        // It may have run for long.
        let stage = Some(Stage::VmmStarted).filter(|stage| !sight.has_reached(*stage));
        found.push(Finding::new(
            Cause::MemoryInsufficient,
            stage,
            Grade::Hard,
            vec![Evidence::seen(Source::Host, text)],
        ));
    }
    let grade = match sight.host.free_bytes {
        // Whoever has a disk already may fail for another reason.
        Some(0) if sight.has_reached(Stage::DiskReady) => Grade::Weak,
        Some(0) => Grade::Hard,
        Some(1..LOW_BYTES) => Grade::Note,
        _ => return,
    };
    let text = match sight.host.free_bytes.unwrap_or_default() >> 20 {
        0 => "less than a MiB is free where VMs are kept".to_owned(),
        mib => format!("{mib} MiB are free where VMs are kept"),
    };
    found.push(seen_by_host(Cause::DiskFull, Stage::DiskReady, grade, text));
}
