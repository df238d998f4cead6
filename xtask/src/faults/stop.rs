//! Ctrl-C and SIGTERM: the fault that is under way is given up, and everything that was made is removed as after any other error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Takes both signals from now on; children get them as ever.
pub fn listen() -> Result<()> {
    let stopped = STOPPED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stopped.clone()).with_context(|| format!("take signal {signal}"))?;
    }
    Ok(())
}

/// Fails when this program is to end.
pub fn check() -> Result<()> {
    ensure!(!is_asked(), "interrupted");
    Ok(())
}

/// Whether this program is to end.
pub fn is_asked() -> bool {
    STOPPED.get().is_some_and(|stopped| stopped.load(Ordering::Relaxed))
}
