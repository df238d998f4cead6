//! How Firecracker is run, `[vmm.firecracker]`. Nothing of it changes what a guest is, only what it may use.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What all Firecracker processes have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirecrackerConfig {
    /// The program, looked up in `PATH`.
    pub program: PathBuf,
    /// Whether guests see hardware threads; off where tenants distrust each other.
    pub smt: bool,
    /// Limit of each drive.
    pub drive_limit: Option<RateLimit>,
    /// Limit of what a guest receives, per interface.
    pub rx_limit: Option<RateLimit>,
    /// Limit of what a guest sends, per interface.
    pub tx_limit: Option<RateLimit>,
    /// Limit of what a guest takes from the host's entropy.
    pub entropy_limit: Option<RateLimit>,
    /// Limit of what a guest writes to its serial console, in bytes; what is more is dropped and counted.
    pub serial_limit: Option<Bucket>,
    /// A balloon; none: guests keep their memory.
    pub balloon: Option<Balloon>,
    /// Serves the VM's id through Firecracker's metadata service (always version 2); off by default: guests have no need of it.
    pub mmds: bool,
    /// Runs each process in a jail; none: as the daemon's user.
    pub jailer: Option<Jailer>,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self {
            program: "firecracker".into(),
            smt: false,
            drive_limit: None,
            rx_limit: None,
            tx_limit: None,
            entropy_limit: None,
            serial_limit: None,
            balloon: None,
            mmds: false,
            jailer: None,
        }
    }
}

impl FirecrackerConfig {
    /// The user that the process of the VM with this address runs as; none without a jail. Unique among live VMs, since their
    /// addresses are and pools are not larger than 65536.
    pub fn uid_of(&self, address: Ipv4Addr) -> Option<u32> {
        let [.., high, low] = address.octets();
        self.jailer.as_ref().map(|jailer| jailer.first_uid + u32::from(u16::from_be_bytes([high, low])))
    }

    /// The field that is out of its range, its value, and what it must be.
    pub(super) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let limits = [
            ("vmm.firecracker.drive_limit", &self.drive_limit),
            ("vmm.firecracker.rx_limit", &self.rx_limit),
            ("vmm.firecracker.tx_limit", &self.tx_limit),
            ("vmm.firecracker.entropy_limit", &self.entropy_limit),
        ];
        let buckets = limits.into_iter().flat_map(|(field, limit)| {
            let limit = limit.unwrap_or_default();
            [(field, limit.bandwidth), (field, limit.ops)]
        });
        let mut buckets = buckets.chain([("vmm.firecracker.serial_limit", self.serial_limit)]);
        if let Some((field, bucket)) =
            buckets.find(|(_, bucket)| bucket.is_some_and(|b| b.size == 0 || b.refill_ms == 0))
        {
            return Some((field, format!("{bucket:?}"), "size and refill_ms above 0 (a bucket of 0 limits nothing)"));
        }
        let jailer = self.jailer.as_ref()?;
        if !(1000..=u32::MAX - 65_536).contains(&jailer.first_uid) {
            let expected = "1000 or more: the 65536 users from there on are the jails'";
            return Some(("vmm.firecracker.jailer.first_uid", jailer.first_uid.to_string(), expected));
        }
        None
    }
}

/// A limit of bytes and of operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Bytes.
    pub bandwidth: Option<Bucket>,
    /// Operations.
    pub ops: Option<Bucket>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// How much it holds.
    pub size: u64,
    /// Milliseconds until it is full again.
    pub refill_ms: u64,
    /// What may be taken before the limit begins.
    #[serde(default)]
    pub burst: Option<u64>,
}

/// A balloon device: it gives back what the guest does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balloon {
    /// MiB taken from the guest at its start.
    pub amount_mib: u32,
    /// Gives memory back before the guest's kernel kills a process.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics; 0: none.
    pub stats_interval_s: u16,
}

impl Default for Balloon {
    fn default() -> Self {
        Self { amount_mib: 0, deflate_on_oom: true, stats_interval_s: 5 }
    }
}

/// A jail for each process, made by Firecracker's own jailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jailer {
    /// The program, of the same version as Firecracker.
    pub program: PathBuf,
    /// The first of 65536 user and group ids that belong to nobody else; a VM's is that plus the low half of its address.
    pub first_uid: u32,
    /// Open files of a process.
    pub max_files: u32,
    /// The largest file that a process may write (its console above all), in MiB.
    pub max_file_mib: u32,
    /// Processor time in percent of one processor, with cgroup v2; none: no limit.
    pub cpu_percent: Option<u32>,
    /// Memory beside the guest's own, in MiB, with cgroup v2.
    pub overhead_mib: u32,
}

impl Default for Jailer {
    fn default() -> Self {
        Self {
            program: "jailer".into(),
            first_uid: 700_000,
            max_files: 1024,
            max_file_mib: 256,
            cpu_percent: None,
            overhead_mib: 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_bucket_that_limits_nothing_is_refused_and_a_good_one_read() {
        let text = "[vmm.firecracker]\ndrive_limit = { bandwidth = { size = 1048576, refill_ms = 100 } }\n\
            [vmm.firecracker.jailer]\n[vmm.firecracker.balloon]\nstats_interval_s = 1\n";
        let config = Config::parse(text).unwrap().vmm.firecracker;
        assert_eq!(config.drive_limit.unwrap().bandwidth.unwrap().size, 1 << 20);
        assert_eq!(config.uid_of("192.168.100.8".parse().unwrap()), Some(700_000 + 100 * 256 + 8));
        assert_eq!(config.balloon.unwrap().stats_interval_s, 1);
        for (text, field) in [
            ("[vmm.firecracker]\nrx_limit = { ops = { size = 0, refill_ms = 1 } }\n", "rx_limit"),
            ("[vmm.firecracker]\nserial_limit = { size = 1, refill_ms = 0 }\n", "serial_limit"),
            ("[vmm.firecracker.jailer]\nfirst_uid = 0\n", "first_uid"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn without_a_jail_nobody_needs_a_user() {
        assert_eq!(Config::default().vmm.firecracker.uid_of("192.168.100.8".parse().unwrap()), None);
    }
}
