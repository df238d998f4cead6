//! The host's monotonic clock. A deadline that must survive a jump of the wall clock, and a restart of the daemon, is kept on it
//! together with the boot it belongs to.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds on the monotonic clock (CLOCK_MONOTONIC, clock_gettime(2)): the same for every process of this boot.
pub fn monotonic_ms() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000)
}

/// Names this boot of the host (`/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
