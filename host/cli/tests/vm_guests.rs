//! Real VMs of untouched root filesystems: whatever their init, and whoever configures their network, they end in `reachable`.
//!
//! The quick images are here; `cargo xtask guests` boots all of them, with every naming of interfaces.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use support::{Daemon, Wanted, text};

/// A distribution under systemd on an emulated CPU that others use too.
const BOOT: Duration = Duration::from_secs(180);

const OF_NETWORK: [&str; 4] = ["link_up", "address_set", "route_set", "gateway_reachable"];

/// A machine of an image, awaited until it is ready.
struct Guest {
    daemon: Daemon,
    vm: String,
    addr: Ipv4Addr,
    /// Stages with their times, as they happened.
    stages: Vec<(String, f64)>,
    console: String,
}

impl Guest {
    async fn boot(image: &str, config: &str) -> Self {
        let config = format!("boot_deadline_s = 180\nprovider_images = {{ shell = {image:?} }}\n{config}");
        let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;
        let started = daemon.start_session("u1", "shell").await;
        let session = daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
        let vm = text(&session, "vmId").to_owned();
        let timeline = daemon.stages(&vm).await;
        assert!(timeline.iter().all(|entry| entry["ok"] == true), "{timeline:?}");
        let stage = |entry: &Value| (text(entry, "stage").to_owned(), entry["atMs"].as_f64().unwrap());
        let stages: Vec<_> = timeline.iter().map(stage).collect();
        assert!(stages.windows(2).all(|pair| pair[0].1 <= pair[1].1), "times decrease: {stages:?}");
        assert_eq!(stages.last().unwrap().0, "ready");
        assert_eq!(stages.len(), 19, "{stages:?}");
        println!("{image}: reachable after {:.0} ms", stages[17].1);
        let console = daemon.at.vms_dir().join(format!("vm-{vm}/console.log"));
        let console = std::fs::read_to_string(console).unwrap();
        let addr = text(&started, "browserIP").parse().unwrap();
        Self { daemon, vm, addr, stages, console }
    }

    /// Who became PID 1, and how the agent lives beside it, as init said.
    fn assert_handed_over(&self, kind: &str, mode: &str) {
        let line = self.console.lines().find(|line| line.contains("\"stage\":\"handed_over\"")).unwrap();
        assert!(line.contains(&format!("\"kind\":\"{kind}\"")), "{line}");
        assert!(line.contains(&format!("\"mode\":\"{mode}\"")), "{line}");
    }

    fn place(&self, wanted: &str) -> usize {
        self.stages.iter().position(|(stage, _)| stage == wanted).unwrap()
    }

    /// The network came up before the root was mounted, by airlock-init.
    fn assert_owned_by_airlock(&self) {
        assert!(OF_NETWORK.iter().all(|stage| self.place(stage) < self.place("root_mounted")), "{:?}", self.stages);
    }

    /// The network came up beside the agent, by a manager of the image.
    fn assert_owned_by_the_image(&self) {
        assert!(OF_NETWORK.iter().all(|stage| self.place(stage) > self.place("handed_over")), "{:?}", self.stages);
    }

    /// What the image's own application serves; it starts beside the agent, so it may be a moment later.
    async fn page(&self, path: &str) -> String {
        for _ in 0..100 {
            if let Some(page) = self.try_get(8000, path) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nothing at {path}:\n{}", self.console);
    }

    /// One request over the guest's network.
    fn try_get(&self, port: u16, path: &str) -> Option<String> {
        let url = format!("http://{}:{port}{path}", self.addr);
        let namespace = self.daemon.at.namespace.as_str();
        let curl = ["curl", "--silent", "--fail", "--max-time", "2", url.as_str()];
        let out = self.daemon.cli(&[&["net", "exec", "--namespace", namespace, "--"][..], &curl].concat());
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }
}

#[tokio::test]
async fn debian_under_systemd_is_handed_over() {
    need_vms!();
    let guest = Guest::boot("debian-systemd", "").await;
    guest.assert_handed_over("systemd", "unit");
    guest.assert_owned_by_airlock();
}

#[tokio::test]
async fn debian_under_systemd_keeps_its_address_with_predictable_names_and_a_second_nic() {
    need_vms!();
    Guest::boot("debian-systemd", "predictable_names = true\nextra_nics = 1").await.assert_owned_by_airlock();
}

#[tokio::test]
async fn debian_under_sysvinit_is_handed_over() {
    need_vms!();
    let guest = Guest::boot("debian-sysvinit", "").await;
    guest.assert_handed_over("sysvinit", "child");
    guest.assert_owned_by_airlock();
}

#[tokio::test]
async fn busybox_init_is_handed_over_and_its_fresh_run_hides_nothing() {
    need_vms!();
    let guest = Guest::boot("busybox", "").await;
    guest.assert_handed_over("busybox", "child");
    guest.assert_owned_by_airlock();
}

#[tokio::test]
async fn a_root_without_init_is_supervised() {
    need_vms!();
    let guest = Guest::boot("no-init", "").await;
    guest.assert_handed_over("none", "pid1");
    assert!(guest.page("/index.html").await == "no init\n");
}

#[tokio::test]
async fn an_image_that_has_only_an_application_is_supervised() {
    need_vms!();
    let guest = Guest::boot("app", "").await;
    guest.assert_handed_over("none", "pid1");
    assert!(guest.page("/index.html").await == "an application\n");
}

#[tokio::test]
async fn networkd_owns_the_interface() {
    need_vms!();
    Guest::boot("net-networkd", "").await.assert_owned_by_the_image();
}

#[tokio::test]
async fn ifupdown_owns_the_interface() {
    need_vms!();
    Guest::boot("net-ifupdown", "").await.assert_owned_by_the_image();
}

#[tokio::test]
async fn a_script_of_the_image_owns_the_interface_and_its_markers_are_on_the_console() {
    need_vms!();
    let guest = Guest::boot("seed", "").await;
    guest.assert_owned_by_the_image();
    let mut rest = guest.console.as_str();
    for marker in [
        "=== Network Setup Script Started at",
        "Found kernel IP parameter: ip=",
        "Device eth0 found after",
        "Device eth0 is UP",
        "IP address assigned",
        "Default route added",
    ] {
        let (_, after) =
            rest.split_once(marker).unwrap_or_else(|| panic!("no {marker:?} in its place:\n{}", guest.console));
        rest = after;
    }
}

/// Its health does not depend on what it says.
#[tokio::test]
async fn a_script_that_says_nothing_on_the_console_is_healthy_all_the_same() {
    need_vms!();
    let guest = Guest::boot("seed-quiet", "").await;
    guest.assert_owned_by_the_image();
    assert!(!guest.console.contains("Network Setup Script Started"), "{}", guest.console);
}

#[tokio::test]
async fn an_address_that_is_taken_is_put_back_and_the_timeline_says_so() {
    need_vms!();
    let guest = Guest::boot("thief", "").await;
    let vm = guest.vm.as_str();
    let noted = async {
        loop {
            let timeline = guest.daemon.stages(vm).await;
            let set = timeline.iter().find(|entry| entry["stage"] == "address_set").unwrap();
            if let Some(detail) = set["detail"].as_str() {
                return detail.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let console = guest.daemon.at.vms_dir().join(format!("vm-{vm}/console.log"));
    let said = || std::fs::read_to_string(&console).unwrap();
    let Ok(detail) = tokio::time::timeout(Duration::from_secs(60), noted).await else {
        panic!("no conflict in the timeline:\n{}", said());
    };
    assert!(detail.ends_with("put back"), "{detail}");
    // In the end the leased address is there and nothing else.
    let leased = serde_json::json!([format!("{}/24", guest.addr)]);
    let settled = async {
        loop {
            let health = guest.try_get(8080, "/health").and_then(|text| serde_json::from_str(&text).ok());
            let health: Value = health.unwrap_or_default();
            let addresses = health["addresses"].as_array().cloned().unwrap_or_default();
            let addresses = Value::from_iter(addresses.into_iter().map(|address| address["addr"].clone()));
            if said().contains("thief: done") && addresses == leased {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), settled).await.is_ok(), "{}", said());
    assert!(said().contains("address_owner_conflict"), "{}", said());
}
