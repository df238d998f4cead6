//! What the driver costs over a plain script with curl that asks the same, both in turn in one run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::calls::{self, Seen};
use super::super::{Client, FirecrackerDriver};
use super::real::Binary;
use crate::process::find_program;
use crate::vmm::VmmDriver;
use crate::vmm::tests::Bench;

/// How often each is done.
const ROUNDS: usize = 25;

/// A script that starts Firecracker, waits for its socket, and sends every request with one curl over one connection: the
/// least that a script can cost. A socket that is there and not listened to yet is tried again.
fn script(program: &Path, requests: &[(String, String)]) -> String {
    let request = |(path, body): &(String, String)| {
        format!(
            "-s -o /dev/null -f --retry 3 --retry-connrefused --unix-socket api.sock -X PUT -H 'Content-Type: application/json' -d '{body}' http://localhost{path}"
        )
    };
    let all: Vec<String> = requests.iter().map(request).collect();
    format!(
        "'{}' --api-sock api.sock >vmm.log 2>&1 & echo $! >vmm.pid; until [ -S api.sock ]; do :; done; exec curl {}",
        program.display(),
        all.join(" --next ")
    )
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_costs_little_more_than_a_plain_script() {
    let Some(binary) = Binary::given("cost of a start over a plain curl script") else { return };
    if find_program("curl").is_none() {
        println!("skipped: curl is not installed: cost of a start over a plain curl script");
        return;
    }
    let Some(bench) = Bench::new("real Firecracker").await else { return };
    let driver = FirecrackerDriver::new(binary.config());
    let (mut ready, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let millis = |began: Instant| began.elapsed().as_secs_f64() * 1000.0;
    for round in 0..ROUNDS {
        let spec = bench.spec(&format!("vm-ours-{round}"));
        let began = Instant::now();
        let vm = driver.spawn(&spec, &bench.network).await.unwrap();
        ours.push(millis(began));
        driver.terminate(&vm, Duration::ZERO).await.unwrap();

        let spec = bench.spec(&format!("vm-script-{round}"));
        let calls = calls::configuration(&spec, &binary.config(), &Seen::on_host(&spec)).unwrap();
        let start = serde_json::to_string(&calls::START).unwrap();
        let calls = calls.into_iter().map(|call| (call.path, call.body.to_string()));
        let requests: Vec<_> = calls.chain([("/actions".into(), start)]).collect();
        let text = script(binary.program(), &requests);
        let dir = spec.dir.clone();
        let run = move || {
            let began = Instant::now();
            let status =
                Command::new("sh").args(["-c", &text]).current_dir(&dir).stdin(Stdio::null()).status().unwrap();
            let took = millis(began);
            let pid: i32 = std::fs::read_to_string(dir.join("vmm.pid")).unwrap().trim().parse().unwrap();
            let process = crate::process::start_ticks(pid).map(|start_ticks| (pid, start_ticks));
            (status, took, process)
        };
        let (status, took, process) = bench.network.netns().call(run).await.unwrap();
        let (pid, start_ticks) = process.expect("the script's Firecracker runs");
        let process = crate::process::ProcessHandle::open(airlock_domain::vmm::ProcessId { pid, start_ticks });
        let process = process.unwrap().unwrap();
        process.kill().unwrap();
        process.exited().await;
        assert!(status.success(), "{status}");
        theirs.push(took);

        let dir = bench.spec(&format!("vm-ready-{round}")).dir;
        let began = Instant::now();
        let process = binary.start(&dir).await;
        Client::connect(&dir.join("api.sock")).await.unwrap();
        ready.push(millis(began));
        process.kill().unwrap();
        process.exited().await;
    }
    let (ready, ours, theirs) = (median(ready), median(ours), median(theirs));
    let cost = serde_json::json!({"api_ready_ms": ready, "start_ms": ours, "curl_ms": theirs, "ratio": ours / theirs});
    println!("cost: {cost}");
    assert!(ours / theirs <= 1.1, "{cost}");
}
