//! What the host knows by itself: the VMM's process, settings and routes of the namespace, free space.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use airlock_domain::network::Ipv4Net;
use airlock_domain::vmm::ProcessId;
use nix::libc::O_NONBLOCK;

use crate::network::{Network, NetworkError};
use crate::process::is_alive;

/// More records than a ring buffer holds, and the longest one in bytes.
const MAX_RECORDS: usize = 100_000;
const RECORD: usize = 8192;
/// `start_ticks` are hundredths of a second on every machine that this runs on (USER_HZ).
const TICK_US: u64 = 10_000;

/// Whether the VMM lives, and whether the kernel killed it for want of memory; of that nothing where its log cannot be read.
pub(super) async fn vmm(process: Option<ProcessId>) -> io::Result<(Option<bool>, Option<bool>)> {
    let Some(process) = process else { return Ok((None, None)) };
    if is_alive(process) {
        return Ok((Some(true), Some(false)));
    }
    let killed = tokio::task::spawn_blocking(move || was_oom_killed(Path::new("/dev/kmsg"), process)).await?;
    Ok((Some(false), killed.inspect_err(|error| tracing::debug!(%error, "kernel log not read")).ok()))
}

fn was_oom_killed(kmsg: &Path, process: ProcessId) -> io::Result<bool> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(kmsg)?;
    let mut record = vec![0; RECORD];
    for _ in 0..MAX_RECORDS {
        // Each read is one record.
        match file.read(&mut record) {
            Ok(0) => return Ok(false),
            Ok(length) if names(record.get(..length).unwrap_or_default(), process) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether a record of the kernel says that this process was killed for want of memory (`mm/oom_kill.c`). One from before its
/// start is about another process with its number.
pub fn names(record: &[u8], process: ProcessId) -> bool {
    let record = String::from_utf8_lossy(record);
    let Some((head, text)) = record.split_once(';') else { return false };
    let mut fields = head.split(',').map(|field| field.parse::<u64>().ok());
    let (priority, at_us) = (fields.next().flatten(), fields.nth(1).flatten().unwrap_or_default());
    let of_kernel = priority.is_some_and(|priority| priority >> 3 == 0);
    let killed = text.lines().next().unwrap_or_default().split_once("Killed process ").map(|(_, rest)| rest);
    let pid = killed.and_then(|rest| rest.split([' ', ',']).next()?.parse::<i32>().ok());
    of_kernel && pid == Some(process.pid) && at_us >= process.start_ticks.saturating_mul(TICK_US)
}

/// Settings and routes of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// What counts on the bridge.
    pub rp_filter: Option<u8>,
    /// Packets that the kernel dropped by that filter, in the whole namespace.
    pub rp_filtered: Option<u64>,
    /// A route that leads packets for the guest elsewhere.
    pub overlap: Option<String>,
}

/// Reads them inside the namespace.
pub(super) async fn settings(network: &Network, guest: Ipv4Addr) -> Result<Settings, NetworkError> {
    let (bridge, pool) = (network.spec().bridge.clone(), network.pool());
    let read = move || {
        let number = |of: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
            text.ok().and_then(|text| text.trim().parse::<u8>().ok())
        };
        // /proc/net is that of the process's first thread.
        let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        Ok(Settings {
            // The stricter of the two counts, and the kernel takes the larger number for it.
            rp_filter: number("all").zip(number(&bridge)).map(|(all, own)| all.max(own)),
            rp_filtered: rp_filtered(&table("netstat")),
            overlap: overlap(&table("route"), &bridge, pool, guest),
        })
    };
    network.inside(read, "settings and routes").await
}

/// `IPReversePathFilter` of `/proc/net/netstat`: a line of names, then one of numbers.
pub fn rp_filtered(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == "IPReversePathFilter")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// The first route of `/proc/net/route` that is not the bridge's and takes the guest's address from it.
pub fn overlap(table: &str, bridge: &str, pool: Ipv4Net, guest: Ipv4Addr) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // The bytes of the network, printed as one integer of this machine.
        let address = |at: usize| Some(Ipv4Addr::from(u32::from_str_radix(fields.get(at)?, 16).ok()?.to_ne_bytes()));
        let (device, to, mask) = (*fields.first()?, address(1)?, address(7)?);
        let prefix = u8::try_from(u32::from(mask).leading_ones()).ok()?;
        let net = Ipv4Net::around(to, prefix);
        // A wider net loses against the bridge's own route.
        let takes = device != bridge && net.is_within(pool) && Ipv4Net::around(guest, 32).is_within(net);
        takes.then(|| format!("{to}/{prefix} dev {device}"))
    })
}

/// Bytes that an ordinary process may still write there.
pub(super) async fn free_bytes(dir: &Path) -> io::Result<u64> {
    let dir = dir.to_owned();
    let stat = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&dir)).await??;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
