//! Becoming the image's init: files in the overlay, the supervisor beside it, exec.
//!
//! The child waits until PID 1 has become the image's init: its input is a pipe that the exec closes. If the exec fails,
//! the child ends unused and PID 1 supervises by itself.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use airlock_protocol::paths::GUEST_INIT;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::unistd::{execv, setsid};

use crate::handover::facts::resolve_parent;
use crate::handover::{Content, Mode, Placed, Successor};
use crate::identity::replace;
use crate::kernel::KernelError;

/// Puts a file or link below `root`, with the directories it needs.
pub fn place(root: &Path, placed: &Placed) -> Result<(), KernelError> {
    let path = resolve_parent(root, &placed.path)
        .ok_or_else(|| KernelError::file("resolve", &placed.path)(nix::errno::Errno::ELOOP.into()))?;
    match &placed.content {
        Content::Text(text) => replace(&path, text),
        Content::Link(target) => {
            // The same way of making room as for a file.
            replace(&path, "")?;
            fs::remove_file(&path).map_err(KernelError::file("replace", &path))?;
            symlink(target, &path).map_err(KernelError::file("link", &path))
        }
    }
}

/// Executes the image's init in place of this process, with the arguments and the environment that the kernel gave us.
/// Returns only when that is impossible.
pub fn execute_init(successor: &Successor) -> Result<Infallible, KernelError> {
    let init = successor.init.as_deref().unwrap_or_default();
    let failed = |doing| move |source| KernelError::file(doing, init)(source);
    let arguments = std::iter::once(CString::new(init))
        .chain(std::env::args_os().skip(1).map(|argument| CString::new(argument.as_bytes())))
        .collect::<Result<Vec<CString>, _>>()
        .map_err(|error| failed("execute")(error.into()))?;
    let child = match successor.mode {
        Mode::Child | Mode::Unit => Some(start_supervisor()?),
        Mode::Pid1 => None,
    };
    let outcome = reset_signals().and_then(|()| execv(arguments[0].as_c_str(), &arguments));
    if let Some(mut child) = child {
        // It has done nothing yet.
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome.map_err(|errno| failed("execute")(errno.into()))
}

/// The supervisor as a child in a session of its own, waiting for its input to end.
fn start_supervisor() -> Result<Child, KernelError> {
    let mut command = Command::new(GUEST_INIT);
    command.arg("supervise").env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid(2) takes no memory and is safe between fork and exec.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(Into::into)) };
    command.spawn().map_err(KernelError::file("start", GUEST_INIT))
}

/// Ignored signals and the mask outlive an exec; an init expects neither. (Rust programs ignore SIGPIPE.)
fn reset_signals() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
