//! The guest's clocks.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// A wall clock that is off by more than this is set from the host's.
const TOLERATED_MS: u64 = 2000;

/// Microseconds since the kernel started (CLOCK_BOOTTIME).
pub fn boottime_us() -> u64 {
    micros(ClockId::CLOCK_BOOTTIME)
}

/// Milliseconds since the Unix epoch, by the clock that stamps files (the coarse one: a file written after this was
/// read is never older than it).
pub fn wall_ms() -> u64 {
    micros(ClockId::CLOCK_REALTIME_COARSE) / 1000
}

/// Sets the wall clock from the host's if it is off. Returns whether it was set.
pub fn follow_host(now_ms: u64) -> nix::Result<bool> {
    if wall_ms().abs_diff(now_ms) <= TOLERATED_MS {
        return Ok(false);
    }
    let secs = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(now_ms % 1000 * 1_000_000).unwrap_or(0);
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(secs, nanos))?;
    Ok(true)
}

fn micros(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    let (secs, nanos) = (u64::try_from(now.tv_sec()).unwrap_or(0), u64::try_from(now.tv_nsec()).unwrap_or(0));
    secs * 1_000_000 + nanos / 1000
}
