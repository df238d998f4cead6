//! Two clocks: the wall clock for what people read, the host's monotonic clock for every deadline. The wall clock may jump; the
//! monotonic one does not, and is the same for the next daemon of the same boot.

use std::time::{SystemTime, UNIX_EPOCH};

pub use airlock_effects::clock::{boot_id, monotonic_ms};

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// One instant on both clocks, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the Unix epoch.
    pub wall_ms: i64,
    /// On the host's monotonic clock.
    pub mono_ms: i64,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { wall_ms: now_ms(), mono_ms: monotonic_ms() }
    }
}
