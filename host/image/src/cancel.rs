//! Stops a build from outside: the tool that runs is killed, the next stage does not begin.
//!
//! A cancelled build fails with [`ImageError::Cancelled`] and leaves what any failed build leaves: nothing that counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::ImageError;

/// A switch that whoever started a build keeps. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    /// The tool that runs. It is not waited for while this names it, so the number is still its own.
    running: Mutex<Option<Pid>>,
}

impl Cancel {
    /// A switch that was not used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the build to end. Returns at once.
    pub fn cancel(&self) {
        self.inner.asked.store(true, Ordering::SeqCst);
        if let Some(pid) = *self.running() {
            // Gone already is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Whether the build was asked to end.
    pub fn is_asked(&self) -> bool {
        self.inner.asked.load(Ordering::SeqCst)
    }

    /// Refuses to go on if the build was asked to end.
    pub fn check(&self) -> Result<(), ImageError> {
        if self.is_asked() { Err(ImageError::Cancelled) } else { Ok(()) }
    }

    /// Names the process to kill until the guard is dropped, which must be before it is waited for.
    pub(crate) fn running_as(&self, pid: u32) -> Running<'_> {
        let pid = i32::try_from(pid).ok().map(Pid::from_raw);
        *self.running() = pid;
        // Asked between the start of the tool and now.
        if let (true, Some(pid)) = (self.is_asked(), pid) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Running { cancel: self }
    }

    fn running(&self) -> MutexGuard<'_, Option<Pid>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Cancel::running_as`].
pub(crate) struct Running<'a> {
    cancel: &'a Cancel,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.cancel.running() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn the_tool_that_runs_is_killed_whenever_it_was_asked() {
        for asked_first in [false, true] {
            let cancel = Cancel::new();
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            if asked_first {
                cancel.cancel();
            }
            let running = cancel.running_as(child.id());
            cancel.clone().cancel();
            drop(running);
            assert_eq!(child.wait().unwrap().signal(), Some(9));
            assert_eq!(cancel.check().unwrap_err().code(), "build_cancelled");
        }
    }
}
