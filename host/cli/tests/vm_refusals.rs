//! Bad input: each a clear typed error with code, what and remedy; nothing left behind, nothing lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{AIRLOCK, Daemon, Installation, Wanted, images};

fn assert_error(status: u16, wanted: u16, body: &Value, code: &str) {
    assert_eq!(status, wanted, "{body}");
    let error = &body["error"];
    assert_eq!(error["code"], code, "{body}");
    assert!(!error["message"].as_str().unwrap_or_default().is_empty(), "{body}");
    assert!(!error["requestId"].as_str().unwrap_or_default().is_empty(), "{body}");
    assert!(!error["remedy"].as_str().unwrap_or_default().is_empty(), "{body}");
}

/// Runs a command that must end by itself, within `deadline`.
fn run(mut command: Command, deadline: Duration) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > deadline {
            child.kill().unwrap();
            let out = child.wait_with_output().unwrap();
            panic!("still running after {deadline:?}: {out:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn assert_refused(out: &Output, wanted: &[&str]) {
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!out.status.success(), "{text}");
    for part in wanted {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[tokio::test]
async fn requests_that_are_wrong_start_nothing() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let start = |body: Value| daemon.call("POST", "/api/auth/start", Some(body));
    let (status, body) = start(json!({"userId": "u1", "provider": "shell", "imge": "base"})).await;
    assert!(body["error"]["message"].as_str().unwrap().contains("imge"), "{body}");
    assert!((400..=422).contains(&status));
    let (status, body) = start(json!({"userId": "u1", "provider": "nope"})).await;
    assert_error(status, 400, &body, "unknown_provider");
    let (status, body) = start(json!({"userId": "../../etc", "provider": "shell"})).await;
    assert_error(status, 400, &body, "bad_user_id");
    let (status, body) = daemon.call("GET", "/api/auth/session/not-an-id", None).await;
    assert_error(status, 400, &body, body["error"]["code"].clone().as_str().unwrap());
    let (status, body) = daemon.call("GET", "/api/vms/00000000-0000-4000-8000-000000000000", None).await;
    assert_error(status, 404, &body, "no_vm");
    let (status, body) = daemon.call("DELETE", "/api/vms/00000000-0000-4000-8000-000000000000", None).await;
    assert_error(status, 404, &body, "no_vm");
    for token in ["", "airlock_wrong", "x"] {
        let (status, body) = daemon.call_as(token, "GET", "/api/vms", None).await;
        assert_eq!(status, 401, "{body}");
        assert!(body["error"]["code"].is_string(), "{body}");
    }
    assert_eq!(daemon.call("GET", "/api/vms", None).await.1["vms"].as_array().map(Vec::len), Some(0));
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_second_daemon_and_a_taken_port_are_refused() {
    need_vms!();
    let daemon = Daemon::start(&Wanted::default()).await;
    let out = run(daemon.at.serve(), Duration::from_secs(10));
    assert_refused(&out, &[&daemon.child.id().to_string(), "state"]);
    let other = Installation::new(&Wanted::default());
    let config =
        fs::read_to_string(&other.config).unwrap().replace(&other.port.to_string(), &daemon.at.port.to_string());
    fs::write(&other.config, config).unwrap();
    let out = run(other.serve(), Duration::from_secs(10));
    assert_refused(&out, &[&daemon.at.port.to_string(), "port_in_use"]);
    assert_eq!(daemon.call("GET", "/api/auth/health", None).await.0, 200, "the first one is untouched");
}

#[tokio::test]
async fn images_that_are_missing_or_corrupt_are_refused_before_a_vm_exists() {
    need_vms!();
    // A copy of the image whose root is cut.
    let state = tempfile::Builder::new().prefix("airlock-vm-").tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(images().join("images")).arg(state.path().join("images")).status();
    assert!(copied.unwrap().success());
    let at = Installation::in_dir(state, &Wanted::default());
    let list =
        Command::new(AIRLOCK).args(["image", "ls", "--json", "--state-dir"]).arg(at.state.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("base"), "{list:?}");
    for entry in fs::read_dir(at.state.path().join("images")).unwrap().flatten() {
        let root = entry.path().join("rootfs.erofs");
        if root.exists() {
            fs::OpenOptions::new().write(true).open(root).unwrap().set_len(4096).unwrap();
        }
    }
    let daemon = Daemon::on(at).await;
    let body = json!({"userId": "u1", "provider": "shell"});
    let (status, answer) = daemon.call("POST", "/api/auth/start", Some(body.clone())).await;
    assert_error(status, 503, &answer, "image_corrupt");
    let verify = run(
        {
            let mut command = Command::new(AIRLOCK);
            command.args(["image", "verify", "base", "--state-dir"]).arg(daemon.at.state.path());
            command
        },
        Duration::from_secs(60),
    );
    assert_refused(&verify, &["image_corrupt"]);
    for entry in fs::read_dir(daemon.at.state.path().join("images")).unwrap().flatten() {
        if entry.path().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let (status, answer) = daemon.call("POST", "/api/auth/start", Some(body)).await;
    assert_error(status, 503, &answer, "image_missing");
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_host_without_qemu_says_so() {
    need_vms!();
    let at = Installation::new(&Wanted { config: "driver = \"qemu-tcg\"", ..Wanted::default() });
    // Everything but QEMU: iproute2 for the namespace's tools is not needed by the daemon.
    let mut command = at.serve();
    let log = fs::File::create(at.state.path().join("daemon.log")).unwrap();
    let child = command.env("PATH", "/nowhere").stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let base = format!("http://127.0.0.1:{}", at.port);
    let mut daemon = Daemon::attach(child, at, base).await;
    let body = json!({"userId": "u1", "provider": "shell"});
    let (status, answer) = daemon.call("POST", "/api/auth/start", Some(body)).await;
    assert_error(status, 503, &answer, "vmm_binary_missing");
    daemon.at.assert_nothing_left();
    daemon.stop();
}

#[tokio::test]
async fn a_full_disk_fails_the_start_by_name_and_leaves_nothing() {
    need_vms!();
    let small = SmallDisk::mount();
    let state = tempfile::Builder::new().prefix("state-").tempdir_in(small.dir.path()).unwrap();
    for dir in ["images", "cache"] {
        std::os::unix::fs::symlink(images().join(dir), state.path().join(dir)).unwrap();
    }
    let daemon = Daemon::on(Installation::in_dir(state, &Wanted::default())).await;
    small.fill();
    let body = json!({"userId": "u1", "provider": "shell"});
    let (status, answer) = daemon.call("POST", "/api/auth/start", Some(body.clone())).await;
    if status == 200 {
        // Accepted from what SQLite had reserved; the VM then fails by name.
        let id = answer["sessionId"].as_str().unwrap();
        let failed = daemon.wait_for(id, &["failed"], Duration::from_secs(60)).await;
        assert_eq!(failed["cause"], "disk_full", "{failed}");
    } else {
        assert_error(status, 500, &answer, "disk_full");
    }
    small.empty();
    // With space again, the daemon works on: nothing was lost and nothing stands in the way.
    let (status, answer) = daemon.call("POST", "/api/auth/start", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["sessionId"].as_str().unwrap();
    let session = daemon.wait_for(id, &["awaiting_user"], Duration::from_secs(60)).await;
    let vm = session["vmId"].as_str().unwrap();
    assert!((200..300).contains(&daemon.call("DELETE", &format!("/api/vms/{vm}"), None).await.0));
    daemon.at.assert_nothing_left();
}

/// A tmpfs of 8 MiB, unmounted on drop.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::Builder::new().prefix("airlock-small-").tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path()).status().unwrap();
        assert!(mounted.success());
        Self { dir }
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.dir.path().join("filler")).unwrap();
        let block = [0u8; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.dir.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

#[test]
fn commands_refuse_what_they_cannot_read() {
    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("c.toml");
    for (text, wanted) in [
        ("boot_deadlin_s = 3", "boot_deadlin_s"),
        ("[network]\nsubnet = \"8.8.8.1/24\"", "8.8.8.1/24"),
        ("listen = \"here\"", "listen"),
    ] {
        fs::write(&config, text).unwrap();
        let out = Command::new(AIRLOCK).args(["serve", "--check-config", "--config"]).arg(&config).output().unwrap();
        assert_refused(&out, &[wanted]);
    }
    let out = Command::new(AIRLOCK)
        .args(["image", "build", "no-such-recipe", "--state-dir"])
        .arg(state.path())
        .output()
        .unwrap();
    assert_refused(&out, &["no-such-recipe", "base"]);
    assert_eq!(Command::new(AIRLOCK).arg("no-such-command").output().unwrap().status.code(), Some(2));
}
