//! The last step when the image's own init becomes PID 1: look at its root, write what it needs, become it.
//!
//! What a failure does: a file that cannot be written is reported and costs only itself; without an init, or with one that
//! cannot be executed, airlock-init stays PID 1 and supervises, so the guest is reachable and says why.

use airlock_protocol::boot_config::{NetworkKeys, wanted_init};
use airlock_protocol::guest_config::NetworkOwner;
use airlock_protocol::{BootConfig, GuestConfig, Stage};

use crate::handover::{self, Interface, Mode, Successor};
use crate::kernel::{Kernel, Link};
use crate::report::Reporter;

/// Switches to the root and hands PID 1 over. Returns (on a real kernel only when init stays PID 1) whether the root is `/`.
pub(super) fn hand_over_to_init(
    kernel: &mut impl Kernel,
    report: &mut Reporter,
    (boot, keys): (&BootConfig, &NetworkKeys),
    guest: &GuestConfig,
    link: Option<&Link>,
) -> bool {
    if let Err(error) = kernel.install_programs().and_then(|()| kernel.switch_root()) {
        report.failed(kernel, Stage::HandedOver, &error);
        return false;
    }
    // It was read once already; without it the usual places are looked at.
    let cmdline = kernel.cmdline().unwrap_or_default();
    let facts = kernel.inspect_root(wanted_init(&cmdline));
    let successor = handover::successor(&facts);
    let interface = link.and_then(|link| Some(Interface { dev: link.name.clone(), mac: link.mac? }));
    let ownership = (guest.network_owner, guest.network_addressing);
    for placed in handover::placements(&facts, &successor, ownership, (boot, keys), interface.as_ref()) {
        if let Err(error) = kernel.place(&placed) {
            report.failed(kernel, Stage::HandedOver, &error);
        }
    }
    if successor.mode == Mode::Pid1 && guest.network_owner != NetworkOwner::Airlock {
        let detail = "the root has no init that could start the owner of its network".to_owned();
        report.failed_with(kernel, Stage::HandedOver, Some("ENOENT".to_owned()), detail);
    }
    report.reached(kernel, Stage::HandedOver, &facts_of(&successor));
    if successor.mode != Mode::Pid1
        && let Err(error) = kernel.execute_init(&successor)
    {
        report.failed(kernel, Stage::HandedOver, &error);
    }
    true
}

fn facts_of(successor: &Successor) -> [(&'static str, String); 3] {
    let init = successor.init.clone().unwrap_or_else(|| "none".to_owned());
    [("init", init), ("kind", successor.kind.to_owned()), ("mode", successor.mode.name().to_owned())]
}
