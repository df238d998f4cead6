//! How fast this processor's time stamp counter runs. Under TCG the guest reads the host's counter, and a machine without PCI
//! has nothing but its timer chip to measure it by, which a busy host makes fail; so the guest is told (`tsc_early_khz=`).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longer, the more exact: an error of 1 µs in this is one of 20 ppm.
const MEASURED_FOR: Duration = Duration::from_millis(50);

/// The rate in kHz, measured once per process; none on processors without such a counter.
pub fn khz() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u32> {
    let (start, first) = (Instant::now(), counter());
    std::thread::sleep(MEASURED_FOR);
    let (elapsed, last) = (start.elapsed(), counter());
    let khz = u128::from(last.checked_sub(first)?) * 1_000_000 / elapsed.as_nanos();
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has this instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_rate_is_that_of_a_processor_and_stays() {
        let khz = super::khz().unwrap();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
        let again = measure().unwrap();
        assert!(khz.abs_diff(again) < khz / 500, "{khz} and {again}");
    }
}
