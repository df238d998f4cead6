//! Failed units of the image's own service manager, where that is systemd. It is asked through its own program, which speaks to
//! PID 1 directly where there is no D-Bus.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::net::printable;

/// Units that are passed on.
const MAX_UNITS: usize = 32;
/// What is read of the program's answer, in bytes.
const MAX_OUTPUT: usize = 64 * 1024;

/// The failed units; none where PID 1 is not systemd, or does not say in time.
pub fn failed(until: Instant) -> Option<Vec<String>> {
    let pid_1 = fs::read_to_string("/proc/1/comm").ok()?;
    if pid_1.trim_end() != "systemd" {
        return None;
    }
    let mut command = Command::new("systemctl");
    command.args(["list-units", "--state=failed", "--all", "--plain", "--no-legend", "--no-pager"]);
    ask(&mut command, until).map(|text| names(&text))
}

/// Runs a program and reads what it prints. It is killed when the time is over, and nothing of it counts then.
pub fn ask(command: &mut Command, until: Instant) -> Option<String> {
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let printed = child.stdout.take().and_then(|stdout| read_until(stdout, until));
    if printed.is_none() {
        let _ = child.kill();
    }
    // Its output ended, or it was killed: it does not stay.
    let status = child.wait().ok()?;
    printed.filter(|_| status.success())
}

fn read_until(mut stdout: ChildStdout, until: Instant) -> Option<String> {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || text.len() > MAX_OUTPUT {
            return None;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return None,
        }
        match stdout.read(&mut chunk) {
            Ok(0) => return Some(String::from_utf8_lossy(&text).into_owned()),
            Ok(length) => text.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Names of the units that are listed, one a line; older versions put a dot before them.
pub fn names(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut words = line.split_whitespace().filter(|word| !matches!(*word, "●" | "*" | "×"));
        words.next().filter(|word| word.contains('.')).map(printable)
    };
    text.lines().filter_map(name).take(MAX_UNITS).collect()
}
