//! What a Firecracker that fails looks like to the driver: named, with its own words, and with no process left.

use std::error::Error;
use std::time::{Duration, Instant};

use airlock_domain::network::TapSpec;
use airlock_domain::vmm::{Nic, VmmSpec};
use tokio::net::UnixListener;

use super::super::contract::{Mode, Server};
use super::super::{ApiError, Client, api};
use super::contract_driver;
use crate::process;
use crate::testing::chain;
use crate::vmm::tests::{Bench, refused};
use crate::vmm::{DriverError, VmmDriver};

const SOON: Duration = Duration::from_secs(5);

/// A contract server in this process, and a client of it.
async fn client(dir: &tempfile::TempDir, mode: Mode, at: &str) -> (Client, tokio::task::JoinHandle<()>) {
    let socket = dir.path().join("api.sock");
    let server = tokio::spawn(Server::new(mode, at).serve(UnixListener::bind(&socket).unwrap()));
    (Client::connect(&socket).await.unwrap(), server)
}

#[tokio::test]
async fn a_refusal_keeps_firecrackers_words_as_its_source_and_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, _server) = client(&dir, Mode::Good, "").await;
    let body = serde_json::json!({"kernel_image_path": "/no/kernel"});
    let error = client.put("/boot-source", &body, SOON).await.unwrap_err();
    assert_eq!(
        chain(&error),
        [
            "PUT /boot-source was answered 400 Bad Request",
            "The kernel file cannot be opened: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(error.fault(), error.source().map(ToString::to_string).as_deref());
    let version: api::Version = client.get("/version", SOON).await.unwrap();
    assert_eq!(version.firecracker_version, "1.16.1");
    assert!(matches!(client.get::<api::BalloonStats>("/version", SOON).await, Err(ApiError::Answer { .. })));
}

#[tokio::test]
async fn no_failure_of_one_exchange_is_seen_by_the_next() {
    for (mode, wanted) in [
        (Mode::Slow, "was not answered within 100ms"),
        (Mode::Closed, "PUT /metrics"),
        (Mode::Half, "PUT /metrics"),
        (Mode::Huge, "PUT /metrics"),
        (Mode::Noise, "PUT /metrics"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, _server) = client(&dir, mode, "PUT /metrics").await;
        // Refused, so that there is a body to be cut.
        let began = Instant::now();
        let error = client.put("/metrics", &serde_json::json!({}), Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{mode:?}: {error}");
        assert!(matches!(error, ApiError::TimedOut { .. }) || error.source().is_some(), "{mode:?}");
        assert!(began.elapsed() < SOON, "{mode:?}");
        let version: api::Version = client.get("/version", SOON).await.unwrap();
        assert_eq!(version.firecracker_version, "1.16.1", "{mode:?}");
    }
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_no_answer_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, _server) = client(&dir, Mode::Slow, "GET /").await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), client.get::<api::InstanceInfo>("/", SOON)).await;
    assert!(given_up.is_err());
    let version: api::Version = client.get("/version", SOON).await.unwrap();
    assert_eq!(version.firecracker_version, "1.16.1");
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::connect(&socket).await.unwrap_err();
    assert_eq!(chain(&error)[0], format!("connect to {}", socket.display()));
}

/// The error of a start, and that nothing of it runs.
async fn error_of(bench: &Bench, mode: Mode, at: &str, spec: &VmmSpec) -> DriverError {
    let driver = contract_driver(bench, mode, at);
    let error = refused(driver.spawn(spec, &bench.network).await);
    let dir = spec.dir.clone();
    let left = process::all()
        .unwrap()
        .into_iter()
        .filter(|id| std::fs::read_link(format!("/proc/{}/cwd", id.pid)).is_ok_and(|cwd| cwd == dir));
    assert_eq!(left.count(), 0, "{mode:?} at {at} leaves a process");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_fail_has_a_name_and_leaves_no_process() {
    let Some(bench) = Bench::new("contract server").await else { return };
    for (mode, at, cause, quote) in [
        (Mode::Version, "GET /version", Some("vmm_version_unsupported"), "2.0.0"),
        (Mode::Slow, "PUT /serial", None, "configure the VMM"),
        (Mode::Half, "GET /", None, "configure the VMM"),
        (Mode::Huge, "GET /version", None, "configure the VMM"),
        // Ended with 0: no success, and no refusal either.
        (Mode::Ends, "PUT /machine-config", Some("vmm_exited"), "exited with code 0"),
        (Mode::Ends, "PUT /actions", Some("vmm_exited"), "KVM gave up"),
        (Mode::NotRunning, "GET /", Some("vmm_exited"), "NotStarted"),
    ] {
        let spec = bench.spec(&format!("vm-{mode:?}-{}", at.replace(['/', ' '], "-")));
        let began = Instant::now();
        let error = error_of(&bench, mode, at, &spec).await;
        assert_eq!(error.cause(), cause, "{mode:?}: {error}");
        assert!(error.to_string().contains(quote), "{mode:?}: {error}");
        assert!(began.elapsed() < Duration::from_secs(15), "{mode:?} took {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_firecracker_answers_204_for_and_does_not_have_is_found_out_before_and_after() {
    let Some(bench) = Bench::new("contract server").await else { return };
    let spec = bench.spec("vm-tap");
    let tap = TapSpec::of_vm(spec.vm_id, 0);
    let nics = vec![Nic { tap: Some(tap.name.clone()), mac: "06:00:c0:a8:64:08".parse().unwrap() }];
    let spec = VmmSpec { nics, ..spec };
    let error = error_of(&bench, Mode::Good, "", &spec).await;
    assert_eq!(error.cause(), Some("tap_missing"), "{error}");
    bench.network.ensure_tap(&tap).await.unwrap();
    let error = error_of(&bench, Mode::NoTaps, "", &spec).await;
    assert_eq!(error.cause(), Some("tap_missing"), "answered 204, attached to nothing: {error}");
    let unplugged = Nic { tap: None, mac: "06:00:00:00:00:01".parse().unwrap() };
    let error = error_of(&bench, Mode::Good, "", &VmmSpec { nics: vec![unplugged], ..spec }).await;
    assert!(matches!(error, DriverError::Unsupported { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_booted_is_told_before_a_process_is_made() {
    let Some(bench) = Bench::new("contract server").await else { return };
    let spec = bench.spec("vm-kernel");
    let bz_image = VmmSpec { kernel_elf: None, ..spec.clone() };
    let error = error_of(&bench, Mode::Good, "", &bz_image).await;
    assert!(error.to_string().contains("is no ELF file"), "{error}");
    let missing = VmmSpec { kernel_elf: Some("/no/vmlinux".into()), ..spec };
    assert_eq!(error_of(&bench, Mode::Good, "", &missing).await.cause(), Some("image_missing"));
    assert!(!missing.dir.join("api.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_an_earlier_process_are_in_nobodys_way() {
    let Some(bench) = Bench::new("contract server").await else { return };
    let spec = bench.spec("vm-stale");
    for name in ["api.sock", "agent.sock", "agent.sock_1025"] {
        drop(UnixListener::bind(spec.dir.join(name)).unwrap());
    }
    let driver = contract_driver(&bench, Mode::Good, "");
    let vm = driver.spawn(&spec, &bench.network).await.unwrap();
    assert_eq!(std::fs::read_to_string(&vm.paths.console).unwrap(), "contract guest\n");
    driver.terminate(&vm, SOON).await.unwrap();
}
