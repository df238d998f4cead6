//! What the agent reads in its guest: any program there may have written some of it.

#![no_main]

use airlock_agent::facts::{kernel, net, units};
use libfuzzer_sys::fuzz_target;

/// Longer than whatever the agent passes on.
const MAX_TEXT: usize = 400;

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match what % 5 {
        0 => {
            let routes = net::routes(&text);
            net::default_gateways(&routes);
            assert!(routes.iter().all(|route| route.dev.len() < MAX_TEXT));
        }
        1 => drop(net::neighbours(&text)),
        2 => {
            net::listeners(&text, true);
            net::listeners(&text, false);
        }
        3 => {
            let mut said = kernel::Said::default();
            bytes.split(|byte| *byte == 0).for_each(|record| said.take(record));
            assert!(said.tail.iter().chain(&said.oom_killed).all(|line| line.len() < MAX_TEXT), "{said:?}");
        }
        _ => {
            kernel::mib(&text, "MemAvailable");
            kernel::stall_percent(&text);
            assert!(units::names(&text).iter().all(|name| name.len() < MAX_TEXT));
        }
    }
});
