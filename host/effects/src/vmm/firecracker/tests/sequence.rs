//! The requests of a start, as the contract server recorded them: a reviewed text, `start.snapshot`.

use std::collections::BTreeMap;

use airlock_domain::config::{Balloon, Bucket, FirecrackerConfig, RateLimit};
use airlock_domain::network::TapSpec;
use airlock_domain::vmm::{Nic, VmmSpec};

use super::super::FirecrackerDriver;
use super::super::contract::openapi::OpenApi;
use super::super::contract::{self, Mode, RECORD};
use crate::vmm::VmmDriver;
use crate::vmm::tests::Bench;

/// Everything that a configuration can ask for.
fn everything() -> FirecrackerConfig {
    let bucket = |size| Some(Bucket { size, refill_ms: 100, burst: None });
    let limit = |size| Some(RateLimit { bandwidth: bucket(size), ops: None });
    FirecrackerConfig {
        drive_limit: limit(10_000_000),
        rx_limit: limit(20_000_000),
        tx_limit: Some(RateLimit { bandwidth: bucket(30_000_000), ops: bucket(1000) }),
        entropy_limit: limit(40_000),
        serial_limit: Some(Bucket { size: 50_000, refill_ms: 1000, burst: Some(60_000) }),
        balloon: Some(Balloon::default()),
        mmds: true,
        ..Default::default()
    }
}

/// What was recorded of one start, with the parts of this run taken out.
async fn recorded(bench: &Bench, name: &str, config: FirecrackerConfig) -> String {
    let program = contract::program(bench.dir(), Mode::Good, "");
    let driver = FirecrackerDriver::new(FirecrackerConfig { program, ..config });
    let spec = bench.spec(name);
    let tap = TapSpec::of_vm(spec.vm_id, 0);
    bench.network.ensure_tap(&tap).await.unwrap();
    let nics = vec![Nic { tap: Some(tap.name), mac: "06:00:c0:a8:64:08".parse().unwrap() }];
    let spec = VmmSpec { nics, ..spec };
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    let record = std::fs::read_to_string(spec.dir.join(RECORD)).unwrap();
    driver.terminate(&vm, std::time::Duration::ZERO).await.unwrap();
    record.replace(bench.dir().to_str().unwrap(), "<dir>")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_a_start_are_reviewed_text() {
    let Some(bench) = Bench::new("contract server").await else { return };
    let plain = recorded(&bench, "vm-plain", FirecrackerConfig::default()).await;
    let full = recorded(&bench, "vm-full", everything()).await;
    let said = format!("# as it is configured by default\n{plain}\n# with everything that can be configured\n{full}");
    if let Some(path) = std::env::var_os("AIRLOCK_WRITE_SNAPSHOT") {
        std::fs::write(path, &said).unwrap();
    }
    let expected = include_str!("start.snapshot");
    assert_eq!(said, expected, "if the change is meant, write it to start.snapshot");
    for line in said.lines().filter(|line| line.contains(" -> ")) {
        assert!(line.ends_with(" -> 204") || line.ends_with(" -> 200"), "{line}");
    }
}

/// What is used beside a start, and by what.
const BESIDE: [(&str, &str); 6] = [
    ("PUT /actions", "start, end"),
    ("GET /balloon/statistics", "statistics"),
    ("GET /mmds", "tests"),
    ("PATCH /vm", "snapshots"),
    ("PUT /snapshot/create", "snapshots"),
    ("PUT /snapshot/load", "snapshots"),
];

#[test]
fn the_operations_in_use_are_operations_of_the_file() {
    let api = OpenApi::load();
    let template = |request: &str| {
        let (method, path) = request.split_once(' ').unwrap();
        api.find(method, path).map(|operation| format!("{} {}", operation.method, operation.template))
    };
    let requests = include_str!("start.snapshot").lines().filter(|line| line.contains(" -> "));
    let of_start = requests.map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" "));
    let mut used: BTreeMap<String, &str> = of_start.map(|request| (template(&request).unwrap(), "start")).collect();
    used.extend(BESIDE.map(|(request, user)| (template(request).unwrap(), user)));
    for operation in api.operations() {
        let name = format!("{} {}", operation.method, operation.template);
        println!("endpoint: {name} | {}", used.remove(&name).unwrap_or("-"));
    }
    assert!(used.is_empty(), "{used:?}");
}
