//! The boot test gate with real VMs: what boots is published with its timeline, what does not is not, and whatever dies or is
//! cancelled in the middle leaves nothing. Also who may remove an image, and builds through the API.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{AIRLOCK, Daemon, Installation, Wanted, images, lines, signal, text};

/// A state directory of its own: the entries of the shared cache, no image.
fn own_state() -> tempfile::TempDir {
    let state = tempfile::Builder::new().prefix("airlock-gate-").tempdir().unwrap();
    let cache = state.path().join("cache");
    fs::create_dir(&cache).unwrap();
    for entry in fs::read_dir(images().join("cache")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        // Neither lock, nor logs, nor what another build is making.
        if entry.path().is_dir() && !name.starts_with('.') {
            let copied =
                Command::new("cp").args(["-a", "--reflink=auto"]).arg(entry.path()).arg(cache.join(name)).status();
            assert!(copied.unwrap().success());
        }
    }
    state
}

fn airlock(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(AIRLOCK);
    command.args(args).arg("--state-dir").arg(state).stdin(Stdio::null());
    command
}

fn run(state: &Path, args: &[&str]) -> Output {
    airlock(state, args).output().unwrap()
}

/// The last line of a command that succeeded, or of one that failed, as JSON.
fn run_json(state: &Path, args: &[&str]) -> Value {
    let out = run(state, &[args, &["--json"]].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{args:?}: {text}"))
}

fn begin(state: &Path, args: &[&str]) -> Child {
    airlock(state, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads what a build prints until a line has `word`.
fn read_until(child: &mut Child, word: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in lines(child) {
        let found = line.contains(word);
        seen.push(line);
        if found {
            return seen;
        }
    }
    panic!("the build ended without {word:?}: {seen:#?}");
}

/// Waits for the end of a build whose output nobody needs any more.
fn ended(mut child: Child, deadline: Duration) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < deadline, "still running after {deadline:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// Nothing unfinished, no boot test, no process of one, no namespace of one.
fn assert_clean(state: &Path) {
    for dir in ["images", "cache"] {
        for entry in fs::read_dir(state.join(dir)).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with('.'), "{dir}/{name} is left");
        }
    }
    assert!(!state.join("boot-test").exists(), "the boot test's directory is left");
    assert_eq!(machines(state), [0; 0], "machines are left");
}

/// Processes that work below the state directory's boot test.
fn machines(state: &Path) -> Vec<i32> {
    let place = state.join("boot-test");
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let names = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&names).contains(place.to_str().unwrap())
            || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir.starts_with(&place))
    })
    .collect()
}

/// Ends what a failed test left, by pid.
struct Machines<'a>(&'a Path);

impl Drop for Machines<'_> {
    fn drop(&mut self) {
        for pid in machines(self.0) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        // Removes the namespace as well.
        let _ = run(self.0, &["image", "gc"]);
    }
}

#[test]
fn an_image_is_published_when_it_booted_and_its_timeline_stands_beside_it() {
    need_vms!();
    let dir = own_state();
    let state = dir.path();
    let _machines = Machines(state);

    let unverified = run_json(state, &["image", "build", "base", "--no-boot-test"]);
    assert_eq!(unverified["images"][0]["state"], "unverified", "{unverified}");
    // The same image, now booted: the record is put beside it.
    let verified = run_json(state, &["image", "build", "base"]);
    assert_eq!(verified["images"][0]["state"], "verified", "{verified}");
    assert_eq!(verified["images"][0]["reference"], unverified["images"][0]["reference"]);
    let shown = run_json(state, &["image", "show", "base"]);
    let timeline = shown["bootTest"]["timeline"].as_array().unwrap();
    assert_eq!(timeline.last().unwrap()["stage"], "ready", "{shown}");
    assert!(shown["bootTest"]["ready_ms"].as_f64().unwrap() > 100.0);
    assert_clean(state);

    // What was tested once is not tested again, and the estimate of the next build is the time of this one.
    let again = Instant::now();
    assert_eq!(run_json(state, &["image", "build", "base"])["images"][0]["state"], "verified");
    assert!(again.elapsed() < Duration::from_secs(20));
    let builds = run_json(state, &["image", "builds"]);
    assert_eq!(builds["builds"][0]["state"], "published", "{builds}");
    let log = String::from_utf8(run(state, &["image", "log", "base"]).stdout).unwrap();
    assert!(log.contains("== publish"), "{log}");
    let bill = run_json(state, &["image", "sbom", "base"]);
    assert_eq!(bill["spdxVersion"], "SPDX-2.3");
    assert!(bill["packages"].as_array().unwrap().len() > 50);
    assert!(run(state, &["image", "verify"]).status.success());
}

/// PID 1 of the image ends at once, which no file of it tells: only a boot finds out.
#[test]
fn an_image_that_does_not_boot_is_not_published_and_its_evidence_is_kept() {
    need_vms!();
    let dir = own_state();
    let state = dir.path();
    let _machines = Machines(state);
    let recipe = include_str!("../../../images/base.toml").replace("name = \"base\"", "name = \"dying\"");
    let recipe = recipe.replace("network_owner", "handover = \"init\"\nnetwork_owner");
    let file = state.join("dying.toml");
    let init = "[[files]]\npath = \"/sbin/init\"\nmode = 0o755\ncontent = \"#!/bin/sh\\necho giving up\\nexit 3\\n\"\n";
    fs::write(&file, format!("{recipe}\n{init}")).unwrap();

    let failed = run_json(state, &["image", "build", file.to_str().unwrap()]);
    let error = &failed["error"];
    assert_eq!((text(error, "code"), text(error, "cause")), ("boot_test_failed", "kernel_panic"), "{failed}");
    assert!(!text(error, "remedy").is_empty());
    let bundle = state.join("evidence").join(text(error, "evidenceId"));
    let console = fs::read_to_string(bundle.join("console.log")).unwrap();
    assert!(console.contains("Kernel panic") && console.contains("giving up"), "{console}");
    assert_eq!(run_json(state, &["image", "ls"])["images"], json!([]), "nothing is published");
    assert_eq!(run_json(state, &["image", "builds"])["builds"][0]["state"], "failed");
    assert_clean(state);
}

#[test]
fn a_build_that_is_killed_or_cancelled_while_it_boots_leaves_nothing_to_the_next_one() {
    need_vms!();
    let dir = own_state();
    let state = dir.path();
    let _machines = Machines(state);

    // kill -9 with the machine running: it lives on until the next build ends it.
    let mut killed = begin(state, &["image", "build", "base"]);
    read_until(&mut killed, "vmm_started");
    signal(killed.id(), "KILL");
    killed.wait().unwrap();
    assert!(!machines(state).is_empty(), "the test sees the machine that it is about");
    assert_eq!(run_json(state, &["image", "ls"])["images"], json!([]));
    assert_eq!(run_json(state, &["image", "builds"])["builds"][0]["state"], "interrupted");

    // The next one is cancelled in the same place: Ctrl-C.
    let mut cancelled = begin(state, &["image", "build", "base"]);
    read_until(&mut cancelled, "vmm_started");
    signal(cancelled.id(), "INT");
    let out = ended(cancelled, Duration::from_secs(20));
    assert_eq!(out.status.code(), Some(1));
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("build_cancelled"), "{stderr}");
    assert_eq!(run_json(state, &["image", "ls"])["images"], json!([]));
    assert_eq!(run_json(state, &["image", "builds"])["builds"][0]["state"], "cancelled");
    assert_clean(state);

    // Two at once: one is refused by name, one waits; both come to the same image.
    let mut first = begin(state, &["image", "build", "base"]);
    read_until(&mut first, "vmm_started");
    // It is held here, or it might be done before the others ask.
    signal(first.id(), "STOP");
    let refused = run(state, &["image", "build", "base", "--no-wait"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("build_running") && stderr.contains(&first.id().to_string()), "{stderr}");
    let mut second = begin(state, &["image", "build", "base"]);
    read_until(&mut second, "waiting for another build");
    signal(first.id(), "CONT");
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    assert!(run(state, &["image", "verify"]).status.success());
    assert_eq!(run_json(state, &["image", "ls"])["images"].as_array().unwrap().len(), 1);
    assert_clean(state);
}

#[tokio::test]
async fn the_api_builds_and_follows_and_what_a_session_uses_stays() {
    need_vms!();
    let state = own_state();
    let mut daemon = Daemon::on(Installation::in_dir(
        state,
        &Wanted { config: "images = { require_verified = true }", ..Wanted::default() },
    ))
    .await;
    let root = daemon.at.state.path().to_owned();
    let _machines = Machines(&root);
    let post = |body: Value| daemon.call("POST", "/api/images/builds", Some(body));

    let (status, body) = post(json!({"recipe": "../etc/passwd"})).await;
    assert_eq!((status, text(&body["error"], "code")), (400, "recipe_unknown"), "{body}");
    let (status, body) = daemon.call("GET", "/api/images/builds/none-1", None).await;
    assert_eq!((status, text(&body["error"], "code")), (404, "no_build"), "{body}");

    // Not booted: there, but no session may use it here.
    let (status, begun) = post(json!({"recipe": "base", "bootTest": false})).await;
    assert_eq!(status, 202, "{begun}");
    let (built, _) = follow(&daemon, text(&begun, "id")).await;
    assert_eq!(built["state"], "published", "{built}");
    let start = json!({"userId": "u1", "provider": "shell"});
    let (status, body) = daemon.call("POST", "/api/auth/start", Some(start.clone())).await;
    assert_eq!((status, text(&body["error"], "code")), (503, "image_unverified"), "{body}");

    // Cancelled while the machine boots.
    let (_, begun) = post(json!({"recipe": "base"})).await;
    let id = text(&begun, "id").to_owned();
    let booting = async {
        while daemon.call("GET", &format!("/api/images/builds/{id}"), None).await.1["stage"] != "boot_test" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), booting).await.unwrap();
    let (status, body) = daemon.call("DELETE", &format!("/api/images/builds/{id}"), None).await;
    assert_eq!((status, text(&body, "state")), (200, "cancelled"), "{body}");
    assert_clean(&root);

    // Booted: the stages and the machine's own are told live.
    let (_, begun) = post(json!({"recipe": "base"})).await;
    let (built, told) = follow(&daemon, text(&begun, "id")).await;
    assert_eq!(built["state"], "published", "{built}");
    assert!(told.iter().any(|line| line.contains("vmm_started")), "{told:?}");
    let stages = built["stages"].as_array().unwrap();
    assert!(stages.iter().all(|stage| stage["state"] == "done"), "{built}");
    assert!(stages.iter().any(|stage| stage["expectedMs"].is_u64()), "estimates of the first build: {built}");
    let (_, listed) = daemon.call("GET", "/api/images", None).await;
    assert_eq!((&listed["images"][0]["verified"], &listed["images"][0]["current"]), (&json!(true), &json!(true)));

    let started = daemon.start_session("u1", "shell").await;
    daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], Duration::from_secs(60)).await;
    let refused = run_json(&root, &["image", "rm", "base"]);
    assert_eq!(text(&refused["error"], "code"), "image_in_use", "{refused}");
    let plan = run_json(&root, &["image", "gc", "--plan"]);
    assert_eq!(plan["keep"].as_object().unwrap().values().next().unwrap(), "in_use", "{plan}");
    let collected = run_json(&root, &["image", "gc"]);
    assert_eq!(collected["images"], json!([]), "{collected}");
    assert!(run(&root, &["image", "verify"]).status.success());
    daemon.stop();
}

/// Follows a build's events to its end: its last view, and every line that was told.
async fn follow(daemon: &Daemon, id: &str) -> (Value, Vec<String>) {
    let url = format!("{}/api/images/builds/{id}/events", daemon.base);
    let follow = async {
        let mut response = reqwest::Client::new().get(url).bearer_auth(&daemon.token).send().await.unwrap();
        let (mut text, mut told) = (String::new(), Vec::new());
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                let data = event.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
                let data: Value = data.and_then(|data| serde_json::from_str(data).ok()).unwrap_or(Value::Null);
                if let Some(line) = data["line"].as_str() {
                    told.push(line.to_owned());
                }
                if data["state"].as_str().is_some_and(|state| state != "running") {
                    return (data, told);
                }
            }
        }
        panic!("the stream ended early: {told:?}\n{}", daemon.log());
    };
    tokio::time::timeout(Duration::from_secs(240), follow).await.unwrap()
}
