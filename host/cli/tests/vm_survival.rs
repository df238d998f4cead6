//! Real VMs and the end of the daemon: killed, restarted, upgraded; a clock that jumps; more starts than there is room.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, Wanted, signal, text};

/// A base VM under TCG takes 2 s; several at once on two cores take longer.
const BOOT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

async fn start_all(daemon: &Daemon, count: usize) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    for user in 0..count {
        let started = daemon.start_session(&format!("u{user}"), "shell").await;
        let session = daemon.session(text(&started, "sessionId")).await;
        ids.push((text(&started, "sessionId").to_owned(), text(&session, "vmId").to_owned()));
    }
    ids
}

async fn pid_of(daemon: &Daemon, vm: &str) -> i64 {
    let (status, vm) = daemon.call("GET", &format!("/api/vms/{vm}"), None).await;
    assert_eq!(status, 200, "{vm}");
    vm["pid"].as_i64().unwrap()
}

#[tokio::test]
async fn five_vms_outlive_a_killed_daemon_and_are_adopted() {
    need_vms!();
    let mut daemon = Daemon::start(&Wanted::default()).await;
    let sessions = start_all(&daemon, 5).await;
    let mut pids = BTreeSet::new();
    for (session, vm) in &sessions {
        daemon.wait_for(session, &["awaiting_user"], BOOT).await;
        pids.insert(pid_of(&daemon, vm).await);
    }
    assert_eq!((pids.len(), daemon.at.vmms().len(), daemon.leaked().await), (5, 5, 0));
    daemon.kill();
    let killed = Instant::now();
    assert_eq!(daemon.at.vmms().len(), 5, "a VMM does not die with the daemon");
    daemon.restart().await;
    println!("answering again {} ms after the kill", killed.elapsed().as_millis());

    let mut adopted = BTreeSet::new();
    for (session, vm) in &sessions {
        assert_eq!(text(&daemon.session(session).await, "state"), "awaiting_user");
        adopted.insert(pid_of(&daemon, vm).await);
    }
    assert_eq!((&adopted, daemon.leaked().await), (&pids, 0));
    // Their network and their control channels go on.
    for (session, vm) in &sessions {
        let (status, beaten) = daemon.call("POST", &format!("/api/auth/session/{session}/heartbeat"), None).await;
        assert_eq!(status, 200, "{beaten}");
        let stages = daemon.stages(vm).await;
        assert_eq!(stages.last().unwrap()["stage"], "ready", "the timeline was not begun again");
    }
    // One is cancelled, one dies: each ends as if there had been one daemon.
    let (status, cancelled) = daemon.call("POST", &format!("/api/auth/session/{}/cancel", sessions[0].0), None).await;
    assert_eq!((status, text(&cancelled, "state")), (200, "cancelled"));
    let dies = Instant::now();
    signal(u32::try_from(pid_of(&daemon, &sessions[1].1).await).unwrap(), "KILL");
    let failed = daemon.wait_for(&sessions[1].0, &["failed"], SOON).await;
    assert_eq!(text(&failed, "cause"), "vmm_exited");
    println!("a VMM's death is named {} ms after it, by the daemon that adopted it", dies.elapsed().as_millis());

    // An upgrade: asked to end, the daemon leaves the other three to the next one.
    daemon.end("TERM");
    assert_eq!(daemon.at.vmms().len(), 3);
    daemon.restart().await;
    for (session, _) in &sessions[2..] {
        assert_eq!(text(&daemon.session(session).await, "state"), "awaiting_user");
    }
    daemon.stop();
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_boot_goes_on_under_the_next_daemon() {
    need_vms!();
    let mut daemon = Daemon::start(&Wanted::default()).await;
    let started = daemon.start_session("u1", "shell").await;
    let id = text(&started, "sessionId").to_owned();
    daemon.wait_for(&id, &["booting"], BOOT).await;
    daemon.kill();
    daemon.restart().await;
    let session = daemon.wait_for(&id, &["awaiting_user", "failed"], BOOT).await;
    assert_eq!(text(&session, "state"), "awaiting_user", "{session}");
    let stages = daemon.stages(text(&session, "vmId")).await;
    assert_eq!(stages.last().unwrap()["stage"], "ready");
    let times: Vec<f64> = stages.iter().map(|stage| stage["atMs"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    daemon.stop();
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_vm_that_died_while_no_daemon_watched_is_named_and_gone() {
    need_vms!();
    let mut daemon = Daemon::start(&Wanted::default()).await;
    let sessions = start_all(&daemon, 2).await;
    for (session, _) in &sessions {
        daemon.wait_for(session, &["awaiting_user"], BOOT).await;
    }
    let dies = pid_of(&daemon, &sessions[0].1).await;
    daemon.kill();
    signal(u32::try_from(dies).unwrap(), "KILL");
    daemon.restart().await;
    let failed = daemon.wait_for(&sessions[0].0, &["failed"], SOON).await;
    assert_eq!(text(&failed, "cause"), "vmm_exited");
    assert!(text(&failed, "evidenceId").starts_with("ev-"));
    assert_eq!(text(&daemon.session(&sessions[1].0).await, "state"), "awaiting_user");
    assert_eq!((daemon.at.vmms().len(), daemon.at.taps().len(), daemon.leaked().await), (1, 1, 0));
    daemon.stop();
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_tap_that_was_deleted_by_hand_is_named_and_a_foreign_one_left_alone() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let sessions = start_all(&daemon, 1).await;
    daemon.wait_for(&sessions[0].0, &["awaiting_user"], BOOT).await;
    let tap = daemon.at.taps().remove(0);
    daemon.at.ip(&["tuntap", "add", "fc-aaaaaaaaaa", "mode", "tap"]);
    daemon.at.ip(&["link", "set", "fc-aaaaaaaaaa", "alias", "somebody-else"]);
    daemon.at.ip(&["link", "delete", &tap]);
    let plan = daemon.cli(&["reconcile", "--plan"]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("tap_missing") && plan.contains("left alone") && plan.contains("fc-aaaaaaaaaa"), "{plan}");
    assert_eq!(text(&daemon.session(&sessions[0].0).await, "state"), "awaiting_user", "a plan changes nothing");
    let done = daemon.cli(&["reconcile", "--json"]);
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["actions"].as_array().unwrap().len(), 1, "{done}");
    let failed = daemon.wait_for(&sessions[0].0, &["failed"], SOON).await;
    assert_eq!(text(&failed, "cause"), "tap_missing");
    assert_eq!(daemon.at.taps(), ["fc-aaaaaaaaaa"]);
    assert_eq!(daemon.leaked().await, 0);
}

#[tokio::test]
async fn a_clock_that_jumps_ends_no_session_early_nor_late() {
    need_vms!();
    const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !std::path::Path::new(FAKETIME).exists() {
        println!("skipped: libfaketime is not installed (Debian: faketime)");
        return;
    }
    let wanted = Wanted { config: "session_deadline_s = 20", ..Wanted::default() };
    let mut daemon = Daemon::start(&wanted).await;
    daemon.stop();
    let offset = daemon.at.state.path().join("offset");
    let set = |text: &str| std::fs::write(&offset, text).unwrap();
    set("+0s");
    let offset_path = offset.to_str().unwrap().to_owned();
    daemon
        .restart_with(&[
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", &offset_path),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_NO_CACHE", "1"),
        ])
        .await;
    let started = Instant::now();
    let sessions = start_all(&daemon, 1).await;
    daemon.wait_for(&sessions[0].0, &["awaiting_user"], BOOT).await;
    let before = text(&daemon.start_session("probe", "shell").await, "sessionId").to_owned();
    // Two hours ahead, six times the deadline and the lease: nobody is thrown out.
    set("+2h");
    let later = text(&daemon.start_session("later", "shell").await, "sessionId").to_owned();
    let created = |session: &Value| text(session, "createdAt").to_owned();
    let (first, second) = (daemon.session(&before).await, daemon.session(&later).await);
    assert_ne!(created(&first)[..13], created(&second)[..13], "the daemon's clock did jump");
    let (status, found) = daemon.call("POST", "/api/reconcile", None).await;
    assert_eq!((status, found["actions"].as_array().unwrap().len()), (200, 0), "{found}");
    assert_eq!(text(&daemon.session(&sessions[0].0).await, "state"), "awaiting_user");
    // And back again, two hours behind: the deadline still comes when its time has passed.
    set("-2h");
    let expired = daemon.wait_for(&sessions[0].0, &["expired", "failed"], Duration::from_secs(40)).await;
    assert_eq!(text(&expired, "state"), "expired");
    let lasted = started.elapsed();
    assert!((19..30).contains(&lasted.as_secs()), "it lasted {lasted:?}");
    daemon.stop();
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn twenty_starts_at_once_with_room_for_ten() {
    need_vms!();
    let wanted = Wanted { subnet: "192.168.100.1/28", config: "[limits]\nvms = 10\nqueue = 4\n", ..Wanted::default() };
    let mut daemon = Daemon::start(&wanted).await;
    let bodies = (0..20).map(|n| serde_json::json!({"userId": format!("u{n}"), "provider": "shell"}));
    let calls: Vec<_> = bodies.map(|body| daemon.call("POST", "/api/auth/start", Some(body))).collect();
    let answers = futures_util::future::join_all(calls).await;
    let (mut begun, mut waiting, mut refused) = (Vec::new(), Vec::new(), 0);
    for (status, answer) in answers {
        match (status, answer["queuePosition"].as_u64()) {
            (200, None) => begun.push(answer),
            (200, Some(place)) => waiting.push((place, answer)),
            (429, _) => {
                let error = &answer["error"];
                assert_eq!(text(error, "code"), "queue_full", "{answer}");
                assert!(text(error, "remedy").contains("limits.queue"));
                refused += 1;
            }
            other => panic!("{other:?} {answer}"),
        }
    }
    assert_eq!((begun.len(), waiting.len(), refused), (10, 4, 6));
    let mut places: Vec<_> = waiting.iter().map(|(place, _)| *place).collect();
    places.sort_unstable();
    assert_eq!(places, [1, 2, 3, 4]);
    let addresses: BTreeSet<_> = begun.iter().map(|answer| text(answer, "browserIP")).collect();
    assert_eq!(addresses.len(), 10);
    for (_, answer) in &waiting {
        assert_eq!(
            (text(&daemon.session(text(answer, "sessionId")).await, "state"), &answer["browserIP"]),
            ("queued", &Value::Null)
        );
    }
    for answer in &begun {
        daemon.wait_for(text(answer, "sessionId"), &["booting", "awaiting_user"], BOOT).await;
    }
    // The queue outlives the daemon as well.
    daemon.kill();
    daemon.restart().await;
    waiting.sort_by_key(|(place, _)| *place);
    let first = text(&waiting[0].1, "sessionId");
    let last = text(&waiting[3].1, "sessionId");
    assert_eq!(daemon.session(last).await["queuePosition"], 4);
    let (status, cancelled) = daemon.call("POST", &format!("/api/auth/session/{last}/cancel"), None).await;
    assert_eq!((status, text(&cancelled, "state")), (200, "cancelled"));
    let (status, _) =
        daemon.call("POST", &format!("/api/auth/session/{}/cancel", text(&begun[0], "sessionId")), None).await;
    assert_eq!(status, 200);
    let admitted = daemon.wait_for(first, &["booting", "awaiting_user"], BOOT).await;
    assert!(addresses.contains(text(&admitted, "browserIP")), "the address that became free");
    assert_eq!(daemon.session(text(&waiting[1].1, "sessionId")).await["queuePosition"], 1);
    daemon.stop();
    daemon.at.assert_nothing_left();
}
