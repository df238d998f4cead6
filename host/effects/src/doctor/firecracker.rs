//! Firecracker on this host: the programs, and what its makers ask of a host in production. None of it is required: without it
//! guests run in QEMU.

use std::path::Path;

use airlock_domain::config::FirecrackerConfig;

use super::Fact;
use crate::vmm::firecracker::{FirecrackerDriver, jail};
use crate::vmm::{VmmDriver, chain};

/// Whether it can be run, and, if it can, the host's list.
pub async fn firecracker(config: &FirecrackerConfig) -> Vec<Fact> {
    match FirecrackerDriver::new(config.clone()).check().await {
        Err(error) => {
            let remedy =
                "install Firecracker 1.16.1 or newer of 1.x, with its jailer, in PATH; until then guests run in QEMU";
            vec![Fact::bad("firecracker", false, chain(&error), remedy)]
        }
        Ok(info) => {
            let found = Fact::good("firecracker", false, format!("Firecracker {}", info.version));
            let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            [
                found,
                jailed(config),
                swap(&read("/proc/swaps")),
                merging(&read("/sys/kernel/mm/ksm/run")),
                threads(&read("/sys/devices/system/cpu/smt/active")),
            ]
            .into()
        }
    }
}

fn jailed(config: &FirecrackerConfig) -> Fact {
    let limits =
        if jail::cgroup2().is_some() { "limits by cgroup v2" } else { "no cgroup v2 with memory: no limits by it" };
    match &config.jailer {
        Some(jailer) => {
            Fact::good("jailer", false, format!("each VMM as a user from {} on, {limits}", jailer.first_uid))
        }
        None => {
            let remedy = "set [vmm.firecracker.jailer] in production: a user, a root and limits for each VMM";
            Fact::bad("jailer", false, format!("VMMs run as the daemon's user ({limits})"), remedy)
        }
    }
}

fn swap(swaps: &str) -> Fact {
    match swaps.lines().skip(1).count() {
        0 => Fact::good("swap", false, "no swap: guests' memory stays in memory"),
        count => {
            let remedy = "turn it off (swapoff -a), or encrypt it: guests hold credentials";
            Fact::bad("swap", false, format!("{count} swap areas may take guests' memory to disk"), remedy)
        }
    }
}

fn merging(run: &str) -> Fact {
    if run == "1" {
        let remedy = "echo 0 > /sys/kernel/mm/ksm/run: merged pages tell guests of each other";
        return Fact::bad("ksm", false, "the kernel merges pages of different guests (KSM)", remedy);
    }
    Fact::good("ksm", false, "pages of guests are not merged")
}

fn threads(active: &str) -> Fact {
    if active == "1" {
        let remedy = "turn SMT off (nosmt) where guests distrust each other";
        return Fact::bad("smt", false, "two guests may share a processor core (SMT)", remedy);
    }
    Fact::good("smt", false, "no core is shared by two guests")
}

/// What the last probe guest said, by what is kept of it.
pub fn probed(state_dir: &Path) -> Fact {
    let cache = state_dir.join("cache");
    match crate::probe::firecracker::last(&cache) {
        None => Fact::good("probe_guest", false, "no probe guest was booted yet; the first start does it"),
        Some(verdict) if verdict.usable => Fact::good("probe_guest", false, verdict.reason),
        Some(verdict) => {
            let remedy = "nothing, if this host has no hardware virtualization: driver auto runs guests in QEMU";
            Fact::bad("probe_guest", false, verdict.reason, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_a_good_host_from_a_bad_one() {
        let header = "Filename Type Size Used Priority";
        assert!(swap(header).ok && !swap(&format!("{header}\n/dev/sda2 partition 1 0 -2")).ok);
        assert!(merging("0").ok && merging("").ok && !merging("1").ok);
        assert!(threads("0").ok && !threads("1").ok);
        let plain = jailed(&FirecrackerConfig::default());
        assert!(!plain.ok && !plain.required && plain.remedy.is_some());
    }

    #[tokio::test]
    async fn a_host_without_firecracker_is_told_so_and_nothing_more() {
        let config = FirecrackerConfig { program: "airlock-no-such-firecracker".into(), ..Default::default() };
        let facts = firecracker(&config).await;
        assert_eq!(facts.len(), 1);
        assert!(!facts[0].ok && !facts[0].required, "{facts:?}");
    }
}
