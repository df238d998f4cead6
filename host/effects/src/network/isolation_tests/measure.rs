//! How long guards take. Printed, not judged: `cargo test -p airlock-effects measure_guards -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use airlock_domain::VmId;
use airlock_domain::firewall::GuardSpec;
use airlock_domain::network::TapSpec;

use crate::network::Network;
use crate::testing::{TestNetns, skip_unless_root};

fn specs(network: &Network, range: std::ops::Range<usize>) -> Vec<(TapSpec, GuardSpec)> {
    let spec = |(n, address)| {
        let vm_id: VmId = format!("{n:08x}-89ab-4def-8123-456789abcdef").parse().unwrap();
        (TapSpec::of_vm(vm_id, 0), GuardSpec::of_vm(vm_id, address))
    };
    let all = network.spec().subnet.guest_addresses().enumerate().map(spec);
    all.skip(range.start).take(range.len()).collect()
}

async fn guard_each_after_the_other(network: &Network, specs: &[(TapSpec, GuardSpec)]) -> Vec<Duration> {
    let mut times = Vec::new();
    for (tap, guard) in specs {
        network.create_tap_port(tap).await.unwrap();
        let start = Instant::now();
        network.guard_tap(guard).await.unwrap();
        times.push(start.elapsed());
    }
    times
}

async fn guard_at_once(network: &Network, specs: &[(TapSpec, GuardSpec)]) -> Vec<Duration> {
    for (tap, _) in specs {
        network.create_tap_port(tap).await.unwrap();
    }
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (_, guard) in specs {
        let (network, guard) = (network.clone(), guard.clone());
        tasks.spawn(async move {
            network.guard_tap(&guard).await.unwrap();
            start.elapsed()
        });
    }
    tasks.join_all().await
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("{what:<40} n={:<3} p50 {:6.2} ms   p99 {:6.2} ms", times.len(), at(50), at(99));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure_guards() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    tell("one after the other, 0..20 live", guard_each_after_the_other(&network, &specs(&network, 0..20)).await);
    tell("25 at once, 20 live", guard_at_once(&network, &specs(&network, 20..45)).await);
    guard_each_after_the_other(&network, &specs(&network, 45..200)).await;
    tell("one after the other, 200 live", guard_each_after_the_other(&network, &specs(&network, 200..220)).await);
    tell("25 at once, 220 live", guard_at_once(&network, &specs(&network, 220..245)).await);
    let again: Vec<_> = specs(&network, 0..20);
    tell("the same values again, 245 live", guard_each_after_the_other(&network, &again).await);
    let mut times = Vec::new();
    for (_, guard) in specs(&network, 0..20) {
        let start = Instant::now();
        network.unguard_tap(&guard.tap).await.unwrap();
        times.push(start.elapsed());
    }
    tell("unguard, one after the other", times);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (_, guard) in specs(&network, 20..45) {
        let network = network.clone();
        tasks.spawn(async move {
            network.unguard_tap(&guard.tap).await.unwrap();
            start.elapsed()
        });
    }
    tell("unguard, 25 at once", tasks.join_all().await);
    let start = Instant::now();
    assert_eq!(network.guards().await.unwrap().len(), 200);
    tell("list 200 guards", vec![start.elapsed()]);
    let start = Instant::now();
    assert!(network.guard(&specs(&network, 60..61)[0].1.tap).await.unwrap().is_some());
    tell("list one guard of 200", vec![start.elapsed()]);
    let start = Instant::now();
    network.repair().await.unwrap();
    tell("repair (base rules)", vec![start.elapsed()]);
}
