//! Orders from the agent, and the clean end of the machine.
//!
//! ```text
//! poweroff -> SIGTERM to all -> no child left, or the deadline -> SIGKILL -> sync -> power off, or reset
//! ```
//! A machine without a power switch ends by a reset ([`ending`]).

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use airlock_protocol::paths::GUEST_INIT_SOCKET;
use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sync};

use crate::net::readable_before;

/// How long programs have to end by themselves, and then by force.
const TERM_WITHIN: Duration = Duration::from_secs(2);
const KILL_WITHIN: Duration = Duration::from_secs(1);

/// What init can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End everything and power the machine off.
    PowerOff,
}

impl Order {
    /// Reads one datagram. Unknown orders are `None`.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        (datagram.trim_ascii() == b"poweroff").then_some(Self::PowerOff)
    }
}

/// Opens the socket on which orders arrive. Only root can write to it.
pub fn listen() -> io::Result<UnixDatagram> {
    match fs::remove_file(GUEST_INIT_SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(GUEST_INIT_SOCKET)?;
    fs::set_permissions(GUEST_INIT_SOCKET, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The next order that waits on `socket`, if one does.
pub fn next(socket: &UnixDatagram) -> Option<Order> {
    let mut datagram = [0; 64];
    let len = socket.recv(&mut datagram).ok()?;
    Order::parse(datagram.get(..len)?)
}

/// Ends everything and powers off. Returns only if the kernel refuses.
pub fn power_off(children: &SignalFd) -> Result<Infallible, Errno> {
    let everybody = Pid::from_raw(-1);
    for (signal, within) in [(Signal::SIGTERM, TERM_WITHIN), (Signal::SIGKILL, KILL_WITHIN)] {
        let _ = kill(everybody, signal);
        if wait_for_all(children, within) {
            break;
        }
    }
    // The root is read-only and its upper layer is memory; this is for a disk that an image may have mounted itself.
    sync();
    reboot(ending(&fs::read_to_string("/proc/cmdline").unwrap_or_default()))
}

/// How a machine ends. Firecracker has no power switch on x86-64 (there the kernel only halts, and the VMM goes on for ever); it
/// ends when the keyboard controller resets the machine, and its driver says so by `reboot=k` (kernel-parameters). Any other
/// machine is powered off.
fn ending(cmdline: &str) -> RebootMode {
    // The last one counts, as for the kernel.
    match cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("reboot=")).next_back() {
        Some("k") => RebootMode::RB_AUTOBOOT,
        _ => RebootMode::RB_POWER_OFF,
    }
}

/// Reaps until there is no child; `false` when the time is over first.
fn wait_for_all(children: &SignalFd, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) => match readable_before(children.as_fd(), deadline) {
                Ok(true) => drop(children.read_signal()),
                _ => return false,
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_orders() {
        assert_eq!(Order::parse(b"poweroff\n"), Some(Order::PowerOff));
        assert_eq!(Order::parse(b"poweroff"), Some(Order::PowerOff));
        assert_eq!(Order::parse(b"reboot"), None);
        assert_eq!(Order::parse(b""), None);
    }

    #[test]
    fn a_machine_without_power_switch_ends_by_a_reset() {
        assert_eq!(ending("console=ttyS0 reboot=k panic=-1\n"), RebootMode::RB_AUTOBOOT);
        assert_eq!(ending("reboot=t reboot=k\n"), RebootMode::RB_AUTOBOOT);
        for powered in ["console=ttyS0 reboot=t panic=-1\n", "reboot=k reboot=t", "noreboot=k", "reboot=kbd_like", ""] {
            assert_eq!(ending(powered), RebootMode::RB_POWER_OFF, "{powered}");
        }
    }
}
