//! An errno as the outcome of a probe.

use std::io;

use airlock_domain::diagnosis::facts::Probe;
use nix::errno::Errno;

/// What came of a probe that failed with `error` while `doing` something.
pub(super) fn outcome(error: &io::Error, doing: &str) -> Probe {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::ECONNREFUSED) => Probe::Refused,
        Some(
            errno @ (Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EACCES
            | Errno::EPERM),
        ) => Probe::Unreachable { errno: format!("{errno:?}") },
        _ if error.kind() == io::ErrorKind::TimedOut => Probe::TimedOut,
        _ => Probe::Wrong { detail: format!("{doing}: {error}") },
    }
}
