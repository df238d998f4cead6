//! Tables of the host's kernel, its log, and frames that a guest sends as answers to ARP.

#![no_main]

use std::net::Ipv4Addr;

use airlock_domain::network::Ipv4Net;
use airlock_domain::vmm::ProcessId;
use airlock_effects::probes::parsers::{arp_answer, oom_killed, overlap, rp_filtered};
use libfuzzer_sys::fuzz_target;

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 8);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match what % 4 {
        0 => drop(rp_filtered(&text)),
        1 => {
            let pool = Ipv4Net::around(GATEWAY, 24);
            let taken = overlap(&text, "br0", pool, GUEST);
            assert!(taken.is_none_or(|route| !route.ends_with(" dev br0")));
        }
        2 => drop(oom_killed(bytes, ProcessId { pid: 412, start_ticks: 7 })),
        _ => drop(arp_answer(bytes, GATEWAY, GUEST)),
    }
});
