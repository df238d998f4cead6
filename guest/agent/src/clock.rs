//! The guest's clocks.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// A wall clock that is behind the host's by more than this is set.
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

/// Sets the wall clock from the host's if it is behind. Returns whether it was set.
///
/// The host's word may be as old as the boot: it greets a machine that is not there yet to hear it. So it says what time it is at
/// least, and a clock that is ahead of it proves nothing.
pub fn follow_host(now_ms: u64) -> nix::Result<bool> {
    if now_ms <= wall_ms().saturating_add(TOLERATED_MS) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_word_of_the_host_never_sets_the_clock_back() {
        let before = wall_ms();
        for age in [0, 1_000, 6_000, 3_600_000] {
            assert_eq!(follow_host(before - age), Ok(false), "{age} ms old");
        }
        assert!(wall_ms() >= before);
    }
}
