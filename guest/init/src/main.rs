//! First process of the guest: network, root, supervision.
//!
//! PID 1 must neither panic nor exit (the kernel panics if it does): a panic that slips through is caught here, and what is
//! left of the machine is kept reachable for the host's power-off.
//!
//! `airlock-init supervise`, not as PID 1, is the supervisor beside an image's own init.

use std::panic::{AssertUnwindSafe, catch_unwind};

use airlock_init::{boot, linux::LinuxKernel, plan::Roster, supervise};

fn main() {
    let is_beside = std::process::id() != 1 && std::env::args().nth(1).is_some_and(|argument| argument == "supervise");
    let booted = catch_unwind(AssertUnwindSafe(|| {
        let mut kernel = LinuxKernel::new();
        let (booted, beside) =
            if is_beside { supervise::beside_init(&mut kernel) } else { (boot::boot(&mut kernel), None) };
        let mut roster = boot::roster_of(&booted);
        // The first services are started before the boot's descriptors are closed, since closing takes the kernel a while.
        supervise::start_due(&mut roster, 0);
        (roster, beside)
    }));
    let (mut roster, beside) = booted.unwrap_or_else(|_| (Roster::new(vec![boot::agent_service()]), None));
    loop {
        // The supervisor returns only by powering off; after a panic inside it, it takes over its own children again.
        if catch_unwind(AssertUnwindSafe(|| supervise::run(&mut roster, beside.as_ref()))).is_err() {
            supervise::say("airlock-init: internal fault in the supervisor, going on");
        } else {
            nix::unistd::pause();
        }
    }
}
