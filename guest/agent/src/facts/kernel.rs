//! What the guest's kernel said (`/dev/kmsg`) and how its memory is.
//!
//! Only records of the kernel itself count: programs may write there too, and what they write may be anything.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use airlock_protocol::redact::redact;
use nix::libc::O_NONBLOCK;

use super::net::printable;

/// The last messages that are passed on, and the longest one in bytes.
const TAIL: usize = 40;
const MAX_LINE: usize = 200;
/// Killed processes that are passed on.
const MAX_KILLED: usize = 16;
/// A record is at most so long (CONSOLE_EXT_LOG_MAX of `printk/internal.h`).
const RECORD: usize = 8192;
/// More records than any ring buffer of a small machine holds.
const MAX_RECORDS: usize = 50_000;

/// What was found in the ring buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The last messages, oldest first, without what looks like a secret.
    pub tail: Vec<String>,
    /// Programs that were killed for want of memory.
    pub oom_killed: Vec<String>,
}

impl Said {
    /// Takes one record: `<priority>,<sequence>,<microseconds>,<flags>;<text>`, and more lines that describe a device.
    pub fn take(&mut self, record: &[u8]) {
        let record = String::from_utf8_lossy(record);
        let Some((head, text)) = record.split_once(';') else { return };
        let mut fields = head.split(',');
        let priority: Option<u32> = fields.next().and_then(|text| text.parse().ok());
        // The facility is above the three bits of the level; the kernel's is 0.
        if priority.is_none_or(|priority| priority >> 3 != 0) {
            return;
        }
        let micros: u64 = fields.nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // So it prints init's arguments and environment, and what it was started with.
        if line.starts_with("  ") || line.starts_with("Kernel command line:") || line.starts_with("Command line:") {
            return;
        }
        if let Some(name) = killed(line)
            && self.oom_killed.len() < MAX_KILLED
        {
            self.oom_killed.push(name);
        }
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        let mut line: String = redact(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        while line.len() > MAX_LINE {
            line.pop();
        }
        self.tail.push(format!("[{}.{:06}] {line}", micros / 1_000_000, micros % 1_000_000));
    }
}

/// The program that a line of the OOM killer names (`mm/oom_kill.c`, Linux 4.14 to 6.x).
fn killed(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    pid.parse::<u32>().ok()?;
    // A name may hold parentheses, so what follows it is looked for.
    let end = rest.find(") total-vm").or_else(|| rest.find(')'))?;
    Some(printable(&rest[..end]))
}

/// Reads the ring buffer as it is now, until `until` at most.
pub fn read(kmsg: &Path, until: Instant) -> Option<Said> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(kmsg).ok()?;
    let (mut said, mut record) = (Said::default(), vec![0; RECORD]);
    for _ in 0..MAX_RECORDS {
        if Instant::now() >= until {
            break;
        }
        // Each read is one record.
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => said.take(record.get(..length).unwrap_or_default()),
            // Overwritten while we read: the next read goes on behind it.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    Some(said)
}

/// All of the memory and what is available, in MiB, and the share of time that processes waited for it, in percent.
pub fn memory() -> (Option<u64>, Option<u64>, Option<u8>) {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let pressure = fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    (mib(&meminfo, "MemTotal"), mib(&meminfo, "MemAvailable"), stall_percent(&pressure))
}

/// A line of `/proc/meminfo`, in MiB.
pub fn mib(meminfo: &str, key: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(rest.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// `some avg10=` of `/proc/pressure/memory`, rounded down.
pub fn stall_percent(pressure: &str) -> Option<u8> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    average.split('.').next()?.parse().ok().filter(|percent| *percent <= 100)
}
