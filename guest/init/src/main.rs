//! First process of the guest: network, root, supervision.
//!
//! PID 1 must neither panic nor exit (the kernel panics if it does): a panic that slips through is caught here, and what is
//! left of the machine is kept reachable for the host's power-off.

use std::panic::{AssertUnwindSafe, catch_unwind};

use airlock_init::{boot, linux::LinuxKernel, plan::Roster, supervise};

fn main() {
    let booted = catch_unwind(AssertUnwindSafe(|| {
        let mut kernel = LinuxKernel::new();
        let mut roster = boot::roster_of(&boot::boot(&mut kernel));
        // The first services are started before the boot's descriptors are closed, since closing takes the kernel a while.
        supervise::start_due(&mut roster, 0);
        roster
    }));
    let mut roster = booted.unwrap_or_else(|_| Roster::new(vec![boot::agent_service()]));
    loop {
        // The supervisor returns only by powering off; after a panic inside it, it takes over its own children again.
        if catch_unwind(AssertUnwindSafe(|| supervise::run(&mut roster))).is_err() {
            supervise::say("airlock-init: internal fault in the supervisor, going on");
        } else {
            nix::unistd::pause();
        }
    }
}
