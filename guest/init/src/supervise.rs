//! The loop of PID 1: starts what is due, reaps every child, takes orders, sleeps until one of these has work.
//!
//! A failure to open one of its descriptors is said on the console and costs only what that descriptor was for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use airlock_protocol::paths::GUEST_RUN;
use airlock_protocol::redact::redact;
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::boot::Booted;
use crate::kernel::{Kernel, chain};
use crate::orders::{self, Order};
use crate::plan::Roster;
use crate::run_dir::RunDir;
use crate::socket_wait::SocketWait;
use crate::spawn;

/// What the supervisor beside an image's own init holds.
#[derive(Debug)]
pub struct Beside {
    run_dir: RunDir,
    /// Kept until this process ends.
    _lock: Option<Flock<File>>,
}

/// Prepares the supervisor beside an image's own init: waits until PID 1 is that init (our input ends then) and no other
/// supervisor lives, and takes over the orphans of our services, which that init may not expect.
pub fn beside_init(kernel: &mut impl Kernel) -> (Booted, Option<Beside>) {
    let said = |doing: &'static str| move |error: io::Error| say(&format!("airlock-init: {doing}: {error}"));
    // Before the image's init can cover it.
    let run_dir = RunDir::hold(Path::new(GUEST_RUN)).map_err(said("hold the run directory")).ok();
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    let beside = run_dir.map(|run_dir| {
        let _lock = run_dir.lock().map_err(said("wait for another supervisor")).ok();
        keep_visible(&run_dir);
        Beside { run_dir, _lock }
    });
    // Nobody starts it again under an init that does not know it.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        said("protect the supervisor from the OOM killer")(error);
    }
    if let Err(errno) = set_child_subreaper(true) {
        said("adopt the orphans of services")(errno.into());
    }
    let guest = kernel.running_config().map_err(|error| say(&format!("airlock-init: {}", chain(&error)))).ok();
    (Booted { guest, root: true }, beside)
}

fn keep_visible(run_dir: &RunDir) {
    if let Err(error) = run_dir.restore() {
        say(&format!("airlock-init: show {GUEST_RUN} again: {error}"));
    }
}

/// Supervises until the machine is powered off. Returns only when signals cannot be received at all.
pub fn run(roster: &mut Roster, beside: Option<&Beside>) {
    let signals = match open_signals() {
        Ok(signals) => signals,
        Err(errno) => return say(&format!("airlock-init: open signalfd: {errno}")),
    };
    let socket = orders::listen().map_err(|error| say(&format!("airlock-init: open the order socket: {error}"))).ok();
    let mut sockets = SocketWait::new();
    let epoch = Instant::now();
    let now = || u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);

    loop {
        reap(roster, now());
        let awaited = roster.awaited_sockets();
        for path in sockets.ready(&awaited, now()) {
            roster.socket_ready(&path, now());
        }
        start_due(roster, now());
        let wake_at = [roster.next_due(), sockets.retry_at()].into_iter().flatten().min();
        let pause = wake_at.map(|at| at.saturating_sub(now()));
        let mounts = beside.map(|beside| beside.run_dir.changed_fd());
        let woken = wait(signals.as_fd(), socket.as_ref(), sockets.fd(), mounts, pause);
        if woken.signals {
            let _ = signals.read_signal();
        }
        if woken.sockets {
            sockets.woken();
        }
        if let Some(beside) = beside.filter(|_| woken.mounts) {
            keep_visible(&beside.run_dir);
        }
        if woken.orders && socket.as_ref().and_then(orders::next) == Some(Order::PowerOff) {
            say("airlock-init: powering off");
            let Err(errno) = orders::power_off(&signals);
            say(&format!("airlock-init: power off: {errno}"));
        }
    }
}

#[derive(Debug, Default)]
struct Woken {
    signals: bool,
    orders: bool,
    sockets: bool,
    mounts: bool,
}

/// Sleeps until a descriptor is readable or `pause` milliseconds are over.
fn wait(
    signals: BorrowedFd<'_>,
    orders: Option<&UnixDatagram>,
    sockets: Option<BorrowedFd<'_>>,
    mounts: Option<BorrowedFd<'_>>,
    pause: Option<u64>,
) -> Woken {
    let timeout = pause.map_or(PollTimeout::NONE, |ms| {
        PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
    });
    // A missing descriptor is watched for nothing on the signal descriptor, which keeps the positions.
    let on = |fd: Option<BorrowedFd<'_>>| if fd.is_some() { PollFlags::POLLIN } else { PollFlags::empty() };
    let orders = orders.map(|socket| socket.as_fd());
    let mut fds = [
        PollFd::new(signals, PollFlags::POLLIN),
        PollFd::new(orders.unwrap_or(signals), on(orders)),
        PollFd::new(sockets.unwrap_or(signals), on(sockets)),
        PollFd::new(mounts.unwrap_or(signals), mounts.map_or(PollFlags::empty(), |_| PollFlags::POLLPRI)),
    ];
    if poll(&mut fds, timeout).is_err() {
        return Woken::default();
    }
    let [signals, orders, sockets, mounts] = fds.map(|fd| fd.any().unwrap_or(false));
    Woken { signals, orders, sockets, mounts }
}

/// Starts every service that is due at `now`, in milliseconds since the supervisor's start.
pub fn start_due(roster: &mut Roster, now: u64) {
    for index in roster.due(now) {
        let Some(service) = roster.service(index) else { continue };
        match spawn::start(service) {
            Ok(pid) => roster.started(index, pid, now),
            Err(error) => {
                let what = format!("airlock-init: service {} not started: {error}", service.name);
                let again = roster.not_started(index, now);
                say(&format!("{what}{}", restart_words(again)));
            }
        }
    }
}

/// Takes every child that ended; also those that were inherited from a service.
fn reap(roster: &mut Roster, now: u64) {
    loop {
        let (pid, outcome) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("code={code} signal=-")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("code=- signal={signal}")),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        if let Some(ended) = roster.ended(pid.as_raw(), now) {
            // A browser's or a tool's last words may hold a login URL: nothing of that goes to the console.
            let last = spawn::last_words(ended.name).map(|words| format!(": {}", redact(&words))).unwrap_or_default();
            let restart = restart_words(ended.restart_in);
            say(&format!("airlock-init: service {} exited {outcome}{restart}{last}", ended.name));
        }
    }
}

fn restart_words(restart_in: Option<u64>) -> String {
    restart_in.map_or(" (not restarted)".to_owned(), |ms| format!(" (restart in {ms} ms)"))
}

fn open_signals() -> Result<SignalFd, Errno> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// One line on the console, in one write.
pub fn say(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write(format!("\n{line}\n").as_bytes());
    }
}
