//! Guest network as PID 1 needs it: links, addresses and routes through rtnetlink, and an ARP probe.
//!
//! Blocking with deadlines; nothing here sleeps, everything waits for the kernel's events.

pub mod arp;
pub mod rtnetlink;
mod wire;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until `fd` is readable; `false` when `deadline` passed first.
pub(crate) fn readable_before(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool, Errno> {
    ready_before(fd, PollFlags::POLLIN, deadline)
}

/// Waits until `fd` has one of `events`; `false` when `deadline` passed first.
pub(crate) fn ready_before(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that a remainder below one millisecond does not spin.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}
