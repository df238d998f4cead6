//! The guest's processes by what they hold open: whose a socket is, and which of our services run.
//!
//! Only links of descriptors and names of programs are read, no arguments and no environment. A process that ends meanwhile is
//! skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use super::net::printable;

/// Where the supervisor puts a service's output: who holds it open is that service.
pub const LOGS: &str = "/run/airlock/log";
/// Descriptors of one process and processes that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
const MAX_PROCESSES: usize = 4096;

/// What was found.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Program by the socket's inode.
    owners: BTreeMap<u64, String>,
    /// Services with an open log.
    logs: BTreeSet<String>,
    /// Every process was looked at, and every descriptor of it.
    pub complete: bool,
}

impl Descriptors {
    /// The program that holds this socket.
    pub fn owner(&self, inode: u64) -> Option<String> {
        self.owners.get(&inode).cloned()
    }

    /// Those of `wanted` that no process is.
    pub fn stopped(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        wanted.difference(&self.logs).map(|name| printable(name)).collect()
    }

    fn take(&mut self, link: &str, program: &str) {
        if let Some(inode) = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
            // The first holder made it, as a rule; children inherit.
            self.owners.entry(inode).or_insert_with(|| program.to_owned());
        } else if let Some(name) = link.strip_prefix(LOGS).and_then(|rest| rest.strip_prefix('/')?.strip_suffix(".log"))
        {
            self.logs.insert(name.to_owned());
        }
    }
}

/// Looks at every process below `proc` until `until`.
pub fn scan(proc: &Path, until: Instant) -> Descriptors {
    let mut found = Descriptors::default();
    let Ok(entries) = fs::read_dir(proc) else { return found };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(MAX_PROCESSES).collect();
    pids.sort_unstable();
    found.complete = pids.len() < MAX_PROCESSES;
    for pid in pids {
        if Instant::now() >= until {
            found.complete = false;
            break;
        }
        let dir = proc.join(pid.to_string());
        let Ok(descriptors) = fs::read_dir(dir.join("fd")) else { continue };
        let program = printable(fs::read_to_string(dir.join("comm")).unwrap_or_default().trim_end());
        for (count, descriptor) in descriptors.flatten().enumerate() {
            if count == MAX_DESCRIPTORS {
                found.complete = false;
                break;
            }
            if let Ok(link) = fs::read_link(descriptor.path()) {
                found.take(&link.to_string_lossy(), &program);
            }
        }
    }
    found
}
