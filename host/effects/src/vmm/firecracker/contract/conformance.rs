//! The contract server is held against the file that it reads, and against the real binary where one is given.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use super::super::tests::real::Binary;
use super::openapi::OpenApi;
use super::{Mode, Server, order};
use crate::unix;

const PATIENCE: Duration = Duration::from_secs(20);

/// A conversation with one fresh process: method, path, body, status. `{kernel}` is a file that exists, `{dir}` its directory.
type Conversation = &'static [(&'static str, &'static str, &'static str, u16)];

/// For every operation whose 400 is documented, a request that gets it.
const REFUSALS: Conversation = &[
    ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, 400),
    ("PUT", "/actions", r#"{"action_type":"Levitate"}"#, 400),
    ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#, 400),
    ("GET", "/balloon", "", 400),
    ("PUT", "/balloon", r#"{"amount_mib":1}"#, 400),
    ("PATCH", "/balloon", r#"{"amount_mib":1}"#, 400),
    ("GET", "/balloon/statistics", "", 400),
    ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":1}"#, 400),
    ("PATCH", "/balloon/hinting/start", r#"{"acknowledge_on_stop":true}"#, 400),
    ("GET", "/balloon/hinting/status", "", 400),
    ("PATCH", "/balloon/hinting/stop", "", 400),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/no/such/kernel"}"#, 400),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"{kernel}","cmdline":"x"}"#, 400),
    ("PUT", "/cpu-config", r#"{"cpuid_modifiers":1}"#, 400),
    ("PUT", "/drives/a", r#"{"drive_id":"a","is_root_device":false,"path_on_host":"/no/such/disk"}"#, 400),
    ("PUT", "/drives/a", r#"{"drive_id":"b","is_root_device":false,"path_on_host":"{kernel}"}"#, 400),
    ("PATCH", "/drives/a", r#"{"drive_id":"a"}"#, 400),
    ("PUT", "/pmem/a", r#"{"id":"a"}"#, 400),
    ("PATCH", "/pmem/a", r#"{"id":"a"}"#, 400),
    ("PUT", "/logger", r#"{"level":"Loud"}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":0,"mem_size_mib":128}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":33,"mem_size_mib":128}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":3,"mem_size_mib":128,"smt":true}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":0}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":1}"#, 400),
    ("PATCH", "/machine-config", r#"{"vcpu_count":"one"}"#, 400),
    ("PUT", "/metrics", r#"{}"#, 400),
    ("PUT", "/mmds", "{", 400),
    ("PATCH", "/mmds", "{", 400),
    ("PUT", "/mmds/config", r#"{"network_interfaces":[]}"#, 400),
    ("PUT", "/mmds/config", r#"{"version":"V3","network_interfaces":["net0"]}"#, 400),
    ("PUT", "/network-interfaces/net0", r#"{"iface_id":"net0"}"#, 400),
    ("PUT", "/network-interfaces/net0", r#"{"iface_id":"net1","host_dev_name":"fc-x"}"#, 400),
    ("PATCH", "/network-interfaces/net0", r#"{"iface_id":"net0"}"#, 400),
    ("PUT", "/snapshot/create", r#"{"mem_file_path":"m","snapshot_path":"s"}"#, 400),
    ("PUT", "/snapshot/load", r#"{"snapshot_path":"/no/such/snapshot"}"#, 400),
    ("PATCH", "/vm", r#"{"state":"Paused"}"#, 400),
    ("PUT", "/vsock", r#"{"guest_cid":3}"#, 400),
    ("DELETE", "/vm", "", 400),
    ("PUT", "/levitate", "{}", 400),
];

/// What is taken, in an order in which it is.
const ACCEPTED: Conversation = &[
    ("GET", "/version", "", 200),
    ("GET", "/", "", 200),
    ("GET", "/machine-config", "", 200),
    ("PUT", "/logger", r#"{"level":"Warning","show_level":true}"#, 204),
    ("PUT", "/metrics", r#"{"metrics_path":"metrics.json"}"#, 204),
    ("PUT", "/machine-config", r#"{"vcpu_count":2,"mem_size_mib":64,"smt":true}"#, 204),
    ("PUT", "/serial", r#"{"serial_out_path":"console.log"}"#, 204),
    ("PUT", "/boot-source", r#"{"kernel_image_path":"{kernel}","boot_args":"x"}"#, 204),
    (
        "PUT",
        "/drives/a",
        r#"{"drive_id":"a","is_root_device":false,"is_read_only":true,"path_on_host":"{kernel}"}"#,
        204,
    ),
    ("PUT", "/entropy", r#"{"rate_limiter":{"bandwidth":{"size":1000,"refill_time":100}}}"#, 204),
    ("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"{dir}/v.sock"}"#, 204),
    ("PUT", "/balloon", r#"{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1}"#, 204),
    ("GET", "/balloon", "", 200),
    ("GET", "/vm/config", "", 200),
    // A restore needs a process that was asked for nothing else.
    (
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"{kernel}","mem_backend":{"backend_type":"File","backend_path":"{kernel}"}}"#,
        400,
    ),
];

/// What the file forbids and the binary takes: the server keeps to the file, so that the driver does too.
const STRICTER: Conversation = &[("PUT", "/vsock", r#"{"guest_cid":2,"uds_path":"{dir}/v.sock"}"#, 400)];

#[test]
fn every_operation_has_its_place_and_every_documented_refusal_its_request() {
    let api = OpenApi::load();
    let operations = api.operations();
    assert_eq!(operations.len(), 38);
    for operation in &operations {
        assert!(order::is_known(&operation.id), "{} is in none or in two of the lists", operation.id);
    }
    let refused: BTreeSet<String> =
        REFUSALS.iter().filter_map(|(method, path, ..)| api.find(method, path)).map(|operation| operation.id).collect();
    let documented = operations.iter().filter(|operation| operation.answers.iter().any(|status| status == "400"));
    let missing: Vec<&str> =
        documented.map(|operation| operation.id.as_str()).filter(|id| !refused.contains(*id)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[tokio::test]
async fn the_server_refuses_and_takes_what_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, b"x").unwrap();
    for conversation in [REFUSALS, ACCEPTED, STRICTER] {
        let socket = dir.path().join("api.sock");
        let _ = std::fs::remove_file(&socket);
        let server = tokio::spawn(Server::new(Mode::Good, "").serve(UnixListener::bind(&socket).unwrap()));
        assert_eq!(differences(&socket, conversation, &kernel).await, Vec::<String>::new());
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_binary_refuses_and_takes_the_same() {
    let Some(binary) = Binary::given("the contract server against the real binary") else { return };
    for conversation in [REFUSALS, ACCEPTED] {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        std::fs::write(&kernel, b"x").unwrap();
        let process = binary.start(dir.path()).await;
        let found = differences(&dir.path().join("api.sock"), conversation, &kernel).await;
        process.kill().unwrap();
        process.exited().await;
        assert_eq!(found, Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_file_forbids_what_the_binary_takes_in_this_only() {
    let Some(binary) = Binary::given("where the file is stricter than the binary") else { return };
    let dir = tempfile::tempdir().unwrap();
    let process = binary.start(dir.path()).await;
    let found = differences(&dir.path().join("api.sock"), STRICTER, &dir.path().join("kernel")).await;
    process.kill().unwrap();
    process.exited().await;
    assert!(found.iter().any(|difference| difference.contains("204 and not 400")), "it is as strict now: {found:?}");
}

/// Where the answers differ from the conversation.
async fn differences(socket: &Path, conversation: Conversation, kernel: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (method, path, body, wanted) in conversation {
        let dir = kernel.parent().unwrap().to_str().unwrap();
        let body = body.replace("{kernel}", kernel.to_str().unwrap()).replace("{dir}", dir);
        let (status, answer) = tokio::time::timeout(PATIENCE, ask(socket, method, path, &body)).await.unwrap();
        if status != *wanted {
            found.push(format!("{method} {path} {body}: {status} and not {wanted}: {answer}"));
        }
        if *wanted == 400 && !answer.contains("fault_message") {
            found.push(format!("{method} {path} {body}: refused without a word: {answer}"));
        }
    }
    found
}

/// One request on a connection of its own; status and body.
async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = BufReader::new(unix::connect_when_there(socket).await.unwrap());
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}");
    stream.get_mut().write_all(request.as_bytes()).await.unwrap();
    let (mut head, mut chunk) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut chunk).await.unwrap(), 1, "closed in the head of {method} {path}");
        head.push(chunk[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap()));
    let mut answer = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut answer).await.unwrap();
    (status, String::from_utf8(answer).unwrap())
}
