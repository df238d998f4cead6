//! How often one guest is answered. Clients that find no answer wait longer each time (RFC 2131, 4.1); who does not is left waiting.

use std::collections::HashMap;
use std::net::Ipv4Addr;

/// What a guest may ask at once: two whole conversations with every message repeated.
const BURST: u32 = 10;
/// One more request is allowed after this many milliseconds.
const REFILL_MS: u64 = 500;
/// Above this many guests those that asked nothing lately are forgotten.
const REMEMBERED: usize = 1024;

/// The requests of late, by guest.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    /// The time at which the guest's allowance is whole again.
    whole_at: HashMap<Ipv4Addr, u64>,
}

impl Throttle {
    /// Whether a request of this guest is dealt with now.
    pub fn admits(&mut self, address: Ipv4Addr, now_ms: u64) -> bool {
        if self.whole_at.len() >= REMEMBERED && !self.whole_at.contains_key(&address) {
            self.whole_at.retain(|_, whole_at| *whole_at > now_ms);
        }
        let whole_at = self.whole_at.entry(address).or_insert(now_ms);
        let next = (*whole_at).max(now_ms) + REFILL_MS;
        let admitted = next <= now_ms + u64::from(BURST) * REFILL_MS;
        if admitted {
            *whole_at = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_floods_is_answered_a_burst_and_then_by_the_rate_and_hurts_no_other() {
        let (flooding, honest) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let mut throttle = Throttle::default();
        let admitted = (0..10_000).filter(|ms| throttle.admits(flooding, *ms)).count();
        assert_eq!(admitted, 10 + 9_999 / 500);
        assert!((0..10).all(|_| throttle.admits(honest, 10_000)) && !throttle.admits(honest, 10_000));
        assert!((0..10).all(|_| throttle.admits(flooding, 99_999)));
    }

    #[test]
    fn memory_is_bounded_by_who_asked_lately() {
        let mut throttle = Throttle::default();
        for number in 0..100_000 {
            assert!(throttle.admits(Ipv4Addr::from(number), u64::from(number)));
        }
        assert!(throttle.whole_at.len() <= REMEMBERED + 1, "{}", throttle.whole_at.len());
    }
}
