//! Real VMs of the image `base`: reachable, many at once, another network, a VMM that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, Wanted, assert_timeline, http_in_namespace, signal, text};

const BOOT: Duration = Duration::from_secs(60);

/// Every stage of a boot without a display.
const STAGES: [&str; 19] = [
    "planned",
    "leased",
    "tap_up",
    "disk_ready",
    "vmm_started",
    "kernel_started",
    "init_started",
    "config_read",
    "modules_loaded",
    "link_found",
    "link_up",
    "address_set",
    "route_set",
    "gateway_reachable",
    "root_mounted",
    "handed_over",
    "agent_up",
    "reachable",
    "ready",
];

#[tokio::test]
async fn a_base_vm_is_reachable_and_leaves_nothing() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let started = daemon.start_session("u1", "shell").await;
    let id = text(&started, "sessionId");
    assert_eq!(started["success"], true);
    assert!(text(&started, "novncURL").starts_with(&format!("{}/api/auth/session/{id}/novnc", daemon.base)));
    let session = daemon.wait_for(id, &["awaiting_user"], BOOT).await;
    assert_eq!(session["browserIP"], started["browserIP"]);
    let vm = text(&session, "vmId");
    assert_timeline(&daemon.stages(vm).await, &STAGES);

    let addr: std::net::Ipv4Addr = text(&started, "browserIP").parse().unwrap();
    let answer = http_in_namespace(&daemon, addr, 8080, "/health");
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
    let health: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((text(&health, "status"), text(&health, "vm_id")), ("ok", vm));
    assert_eq!(health["addresses"][0]["addr"], format!("{addr}/24"));

    let console = daemon.at.vms_dir().join(format!("vm-{vm}/console.log"));
    assert!(std::fs::read_to_string(&console).unwrap().contains("\"stage\":\"address_set\""));
    assert!(daemon.cli(&["vm", "timeline", vm]).status.success());

    let (status, _) = daemon.call("DELETE", &format!("/api/vms/{vm}"), None).await;
    assert!((200..300).contains(&status), "{status}");
    assert_eq!(daemon.session(id).await["state"], "cancelled");
    daemon.at.assert_nothing_left();
    // The address is free again.
    let again = daemon.start_session("u1", "shell").await;
    assert_eq!(again["browserIP"], started["browserIP"]);
    let cancel = format!("/api/auth/session/{}/cancel", text(&again, "sessionId"));
    assert_eq!(daemon.call("POST", &cancel, None).await.1["state"], "cancelled");
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn ten_at_once_share_nothing_and_leave_nothing() {
    need_vms!();
    let daemon = Daemon::start(&Wanted { config: "boot_deadline_s = 240", ..Wanted::default() }).await;
    let mut sessions = Vec::new();
    for n in 0..10 {
        sessions.push(daemon.start_session(&format!("u{n}"), "shell").await);
    }
    let mut vms = Vec::new();
    for session in &sessions {
        let ready = daemon.wait_for(text(session, "sessionId"), &["awaiting_user"], Duration::from_secs(240)).await;
        vms.push(text(&ready, "vmId").to_owned());
    }
    let mut seen: [HashSet<String>; 3] = Default::default();
    for vm in &vms {
        assert_timeline(&daemon.stages(vm).await, &STAGES);
        let (_, vm) = daemon.call("GET", &format!("/api/vms/{vm}"), None).await;
        for (seen, key) in seen.iter_mut().zip(["address", "mac", "tap"]) {
            assert!(seen.insert(text(&vm, key).to_owned()), "{key} of {vm} is not its own");
        }
    }
    assert_eq!((daemon.at.taps().len(), daemon.at.vmms().len()), (10, 10));
    for vm in &vms {
        assert!((200..300).contains(&daemon.call("DELETE", &format!("/api/vms/{vm}"), None).await.0));
    }
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_killed_vmm_is_named_within_a_second() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let started = daemon.start_session("u1", "shell").await;
    let id = text(&started, "sessionId").to_owned();
    let session = daemon.wait_for(&id, &["awaiting_user"], BOOT).await;
    let vm = text(&session, "vmId").to_owned();
    let pid = daemon.call("GET", &format!("/api/vms/{vm}"), None).await.1["pid"].as_u64().unwrap();
    let killed = Instant::now();
    signal(u32::try_from(pid).unwrap(), "KILL");
    let failed = daemon.wait_for(&id, &["failed"], Duration::from_secs(5)).await;
    let named = killed.elapsed();
    assert!(named <= Duration::from_secs(1), "named after {named:?}");
    println!("vmm_exited named after {} ms", named.as_millis());
    assert_eq!(text(&failed, "cause"), "vmm_exited");
    assert!(failed["error"]["message"].as_str().unwrap().contains("signal 9"), "{failed}");
    assert!(!text(&failed, "remedy").is_empty());
    let evidence = daemon.at.state.path().join("evidence").join(text(&failed, "evidenceId"));
    for file in ["console.log", "timeline.json", "failure.json", "vm.json"] {
        assert!(std::fs::metadata(evidence.join(file)).unwrap().len() > 0, "{file}");
    }
    // The bundle is shown, and goes into one file; nothing is overwritten, what is not there is said to be missing.
    let id = text(&failed, "evidenceId");
    let shown: serde_json::Value =
        serde_json::from_slice(&daemon.cli(&["evidence", "show", id, "--json"]).stdout).unwrap();
    assert_eq!((&shown["evidence"]["cause"], &shown["remedy"]), (&failed["cause"], &failed["remedy"]));
    assert!(shown["consoleEnd"].to_string().contains("agent_up"), "{shown}");
    let file = daemon.at.state.path().join("bundle.tar.gz");
    let file = file.to_str().unwrap();
    for (args, code) in [
        (vec!["evidence", "export", id, "--to", file], 0),
        (vec!["evidence", "export", id, "--to", file], 4),
        (vec!["evidence", "show", "ev-01234567-89ab-4def-8123-456789abcdef"], 3),
        (vec!["evidence", "show", "../x"], 2),
    ] {
        let ran = daemon.cli(&args);
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {ran:?}");
    }
    assert!(std::fs::metadata(file).unwrap().len() > 1000);
    // The console outlives the VM.
    let console = daemon.cli(&["vm", "console", &vm]);
    assert!(String::from_utf8_lossy(&console.stdout).contains("@airlock"), "{console:?}");
    daemon.cli(&["vm", "destroy", &vm]);
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_vmm_killed_while_booting_names_the_stage() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let started = daemon.start_session("u1", "shell").await;
    let id = text(&started, "sessionId").to_owned();
    let session = daemon.wait_for(&id, &["booting"], BOOT).await;
    let pid =
        daemon.call("GET", &format!("/api/vms/{}", text(&session, "vmId")), None).await.1["pid"].as_u64().unwrap();
    signal(u32::try_from(pid).unwrap(), "KILL");
    let failed = daemon.wait_for(&id, &["failed"], Duration::from_secs(5)).await;
    assert_eq!(text(&failed, "cause"), "vmm_exited");
    assert!(STAGES[5..].contains(&text(&failed, "stage")), "{failed}");
}

#[tokio::test]
async fn another_pool_and_a_foreign_nic_before_ours() {
    need_vms!();
    let wanted = Wanted { config: "extra_nics = 1", subnet: "10.77.16.1/20", ..Wanted::default() };
    let daemon = Daemon::start(&wanted).await;
    let started = daemon.start_session("u1", "shell").await;
    assert!(text(&started, "browserIP").starts_with("10.77.16."), "{started}");
    let session = daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
    assert_timeline(&daemon.stages(text(&session, "vmId")).await, &STAGES);
    let addr: std::net::Ipv4Addr = text(&started, "browserIP").parse().unwrap();
    let answer = http_in_namespace(&daemon, addr, 8080, "/health");
    let health: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let ours = &health["addresses"][0];
    assert_eq!((text(ours, "dev"), text(ours, "addr")), ("eth1", format!("{addr}/20").as_str()), "{health}");
    assert!(text(ours, "mac").starts_with("06:00:0a:4d:10:"), "{health}");
}

#[tokio::test]
async fn an_orderly_end_takes_every_vm_with_it() {
    need_vms!();
    let mut daemon = Daemon::start(&Wanted::default()).await;
    let started = daemon.start_session("u1", "shell").await;
    daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
    daemon.stop();
    daemon.at.assert_nothing_left();
}
