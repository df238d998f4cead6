//! Everything of the host that touches Linux. Decisions are made above, in `airlock-domain` and `airlock-engine`.
//!
//! * [`netns`]: a named network namespace and the thread that lives in it
//! * [`network`]: bridge, TAPs and sockets of an installation inside its namespace
//! * [`process`]: processes that are told apart by pid and start time, and watched through a pidfd
//! * [`vmm`]: the drivers that start a VMM (`qemu`, and `fake` for tests)
//! * [`steps`]: the steps of a VM on this host, real and fake, and what the host shows of them
//! * [`clock`]: the host's monotonic clock
//! * [`memory`]: the host's memory
//! * [`probe`]: whether hardware virtualization really boots a guest here
//! * [`probes`]: what the host sees of a VM, layer by layer
//! * [`rfb`]: the handshake with a guest's RFB server
//! * [`console`]: a console file as a stream
//! * [`control`]: the control channel to the agent
//! * [`http`]: the agent's `/health` over the guest's network
//! * [`files`]: the state directory's lock, whole-file writes, private files
//! * [`watch`]: changes of a directory as events
//! * [`doctor`]: what this host can and cannot do
//!
//! `sys` holds every unsafe block but the child set-up in [`network`] and [`process`].

pub mod clock;
pub mod console;
pub mod control;
pub mod doctor;
pub mod files;
pub mod http;
pub mod memory;
pub mod netns;
pub mod network;
pub mod probe;
pub mod probes;
pub mod process;
pub mod rfb;
pub mod steps;
mod sys;
mod unix;
pub mod vmm;
pub mod watch;

#[cfg(test)]
mod testing;

/// What an undo found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone now.
    Yes,
    /// It was not there.
    WasAbsent,
}
