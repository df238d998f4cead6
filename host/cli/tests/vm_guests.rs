//! Real VMs of untouched root filesystems: whatever their init, and whoever configures their network, they end in `reachable`.
//!
//! The quick images are here; `cargo xtask guests` boots all of them, with every naming of interfaces.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::guest::{BOOT, Guest, config_of};
use support::{Daemon, Wanted, text};

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

/// Its health does not depend on what it says, and that it says nothing is said.
#[tokio::test]
async fn a_script_that_says_nothing_on_the_console_is_healthy_all_the_same() {
    need_vms!();
    let guest = Guest::boot("seed-quiet", "").await;
    guest.assert_owned_by_the_image();
    assert!(!guest.console.contains("Network Setup Script Started"), "{}", guest.console);
    guest.says("Login Prompts").await;
    for id in [&guest.vm, &guest.session] {
        let out = guest.daemon.cli(&["diagnose", id.as_str(), "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let verdict: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((&verdict["verdict"], &verdict["stage"]), (&"healthy".into(), &Value::Null), "{verdict}");
        assert_eq!(verdict["also"], serde_json::json!(["unit_output_not_on_console"]), "{verdict}");
        let line = verdict["evidence"].as_array().unwrap().iter().find(|seen| seen["line"].is_u64()).unwrap();
        let number = usize::try_from(line["line"].as_u64().unwrap()).unwrap();
        assert!(text(line, "text").contains("Finished network-setup"), "{verdict}");
        assert!(guest.said().lines().nth(number - 1).unwrap().contains("network-setup.ser"), "{verdict}");
        assert!(text(&verdict, "remedy").contains("StandardOutput=journal+console"), "{verdict}");
    }
    // The log alone says the same.
    let console = guest.daemon.at.vms_dir().join(format!("vm-{}/console.log", guest.vm));
    let out = guest.daemon.cli(&["diagnose", "--console", console.to_str().unwrap(), "--json"]);
    let verdict: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&verdict["verdict"], &verdict["also"][0]), (&"healthy".into(), &"unit_output_not_on_console".into()));
}

#[tokio::test]
async fn an_address_that_is_taken_is_put_back_and_the_timeline_says_so() {
    need_vms!();
    let guest = Guest::boot("thief", "").await;
    let noted = async {
        loop {
            let timeline = guest.daemon.stages(&guest.vm).await;
            let set = timeline.iter().find(|entry| entry["stage"] == "address_set").unwrap();
            if let Some(detail) = set["detail"].as_str() {
                return detail.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let Ok(detail) = tokio::time::timeout(Duration::from_secs(60), noted).await else {
        panic!("no conflict in the timeline:\n{}", guest.said());
    };
    assert!(detail.ends_with("put back"), "{detail}");
    guest.says("thief: done").await;
    // In the end the leased address is there and nothing else.
    let settled = async {
        while guest.addresses() != [format!("{}/24", guest.addr)] {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), settled).await.is_ok(), "{}", guest.said());
    assert!(guest.said().contains("address_owner_conflict"), "{}", guest.said());
}

/// The same, but the image says that this is the machine's end.
#[tokio::test]
async fn an_address_that_is_taken_ends_a_machine_whose_image_wants_it_so() {
    need_vms!();
    let config = config_of("thief-fail", "");
    let daemon = Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await;
    let started = daemon.start_session("u1", "shell").await;
    let failed = daemon.wait_for(text(&started, "sessionId"), &["failed"], BOOT).await;
    assert_eq!(text(&failed, "cause"), "address_owner_conflict");
    let message = failed["error"]["message"].as_str().unwrap();
    let taken = format!("removed {}/24 from eth0", text(&started, "browserIP"));
    // A BusyBox that asks for a lease is run by ifupdown everywhere but here.
    assert!(message.contains("ifupdown") && message.contains(&taken), "{failed}");
    assert!(!text(&failed, "remedy").is_empty(), "{failed}");
    let evidence = daemon.at.state.path().join("evidence").join(text(&failed, "evidenceId"));
    let kept = |file: &str| std::fs::read_to_string(evidence.join(file)).unwrap();
    assert!(kept("failure.json").contains("address_owner_conflict"), "{}", kept("failure.json"));
    assert!(kept("failure.json").contains("ifupdown"), "{}", kept("failure.json"));
    // The client it was is the last to be seen on the console.
    assert!(kept("console.log").contains("udhcpc: started"), "{}", kept("console.log"));
    daemon.cli(&["vm", "destroy", text(&failed, "vmId")]);
    daemon.at.assert_nothing_left();
}

/// What one machine of the image `identity` says of itself now, and when that was read, in seconds since the epoch.
async fn identity(daemon: &Daemon, vm: &str) -> (HashMap<String, String>, u64) {
    let console = daemon.at.vms_dir().join(format!("vm-{vm}/console.log"));
    let lines = || {
        let said = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).replace('\r', "");
        said.lines()
            .filter(|line| line.starts_with("identity: ") && line.ends_with(" end"))
            .map(str::to_owned)
            .collect()
    };
    let (old, start): (Vec<String>, _) = (lines(), Instant::now());
    loop {
        let new: Vec<String> = lines();
        if let Some(line) = new.get(old.len()..).and_then(|new| new.last()) {
            let pairs = line.split(' ').filter_map(|word| word.split_once('='));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            return (pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(), now);
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it says nothing of itself: {old:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_machines_have_what_they_were_told_and_are_not_the_same() {
    need_vms!();
    let config = config_of("identity", "");
    let tables = "[network.guest]\ndns = [\"192.168.100.1\", \"198.51.100.53\"]\nsearch = [\"a.example\", \"b.example\"]\n\
                  mtu = 1400\n";
    let daemon = Daemon::start(&Wanted { config: &config, tables, ..Wanted::default() }).await;
    let mut seen: [HashSet<String>; 2] = Default::default();
    for user in ["u1", "u2"] {
        let started = daemon.start_session(user, "shell").await;
        let session = daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
        let vm = text(&session, "vmId");
        let (told, now) = identity(&daemon, vm).await;
        let is = |key: &str| told[key].as_str();
        assert_eq!(
            (is("mtu"), is("dns"), is("search")),
            ("1400", "192.168.100.1,198.51.100.53,", "a.example,b.example,")
        );
        assert!(is("rng").starts_with("virtio_rng"), "{told:?}");
        assert_eq!((is("machine"), is("host")), (vm.replace('-', "").as_str(), is("file")));
        let clock: u64 = is("now").parse().unwrap();
        assert!(clock.abs_diff(now) <= 2, "its clock shows {clock}, the host's {now}");
        for (seen, key) in seen.iter_mut().zip(["machine", "host"]) {
            assert!(seen.insert(told[key].clone()), "{key} of both is {}", told[key]);
        }
    }
}
