//! `cargo xtask test-firecracker`: the contract suite on every driver there is, the API's contract server, and the real binary
//! where `AIRLOCK_FIRECRACKER` (and `AIRLOCK_JAILER`) names one.
//!
//! They are tests of the effects crate, which this crate may not depend on: they are run as tests, and the lines that they print
//! for this report are read. A test that prints `skipped: ` was not run, whatever its outcome says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run;

/// Options of `cargo xtask test-firecracker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// DESIGN section 13.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    run: u64,
    passed: u64,
    skipped: u64,
    /// The real binary that was tested.
    binary: Option<String>,
}

/// What a start costs, as the tests measured it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Cost {
    api_ready_ms: f64,
    start_ms: f64,
    curl_ms: f64,
    ratio: f64,
}

#[derive(Debug, Default)]
struct Read {
    passed: u64,
    failed: u64,
    skips: Vec<String>,
    /// Operation of the OpenAPI file, and what uses it.
    endpoints: BTreeMap<String, String>,
    cost: Option<Cost>,
}

impl Read {
    /// Takes a line of the tests; every other line is nothing to it.
    fn take(&mut self, line: &str) {
        // The first line that a test prints follows its name.
        let behind = |mark: &str| line.find(mark).map(|at| &line[at + mark.len()..]);
        if let Some(why) = behind("skipped: ") {
            self.skips.push(why.to_owned());
        } else if let Some((operation, user)) = behind("endpoint: ").and_then(|rest| rest.split_once(" | ")) {
            self.endpoints.insert(operation.to_owned(), user.to_owned());
        } else if let Some(cost) = behind("cost: ").and_then(|json| serde_json::from_str(json).ok()) {
            self.cost = Some(cost);
        } else if let Some(result) = behind("test result: ") {
            let number = |word: &str| {
                let words: Vec<&str> = result.split_whitespace().collect();
                let at = words.iter().position(|found| found.trim_end_matches(';') == word);
                at.and_then(|at| words.get(at.checked_sub(1)?)?.parse::<u64>().ok()).unwrap_or_default()
            };
            self.passed += number("passed");
            self.failed += number("failed");
        }
    }

    fn report(&self, binary: Option<String>) -> Report {
        let skipped = u64::try_from(self.skips.len()).unwrap_or(u64::MAX);
        // A test that skips itself ends well.
        let passed = self.passed.saturating_sub(skipped);
        Report { run: passed + self.failed, passed, skipped, binary }
    }
}

/// Runs the tests and prints.
pub fn report(args: &Args) -> Result<()> {
    let started = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--package", "airlock-effects", "--lib"]);
    // One after the other: what they measure is not disturbed, and what they print stays together.
    command.args(["--", "vmm::", "control::", "probe", "--nocapture", "--test-threads=1"]);
    command.current_dir(run::workspace_root()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut read = Read::default();
    for line in BufReader::new(child.stdout.take().context("read what the tests print")?).lines() {
        let line = line.context("read what the tests print")?;
        read.take(&line);
        if line.contains("FAILED") || line.contains("panicked") {
            println!("{line}");
        }
    }
    let status = child.wait().with_context(|| format!("wait for {command:?}"))?;

    println!("\n{:<42} used by", "operation of the OpenAPI file");
    for (operation, user) in &read.endpoints {
        println!("{operation:<42} {user}");
    }
    let used = read.endpoints.values().filter(|user| *user != "-").count();
    println!("{used} of {} operations are used\n", read.endpoints.len());
    for why in &read.skips {
        println!("skipped: {why}");
    }
    match read.cost {
        Some(Cost { api_ready_ms, start_ms, curl_ms, ratio }) => println!(
            "spawn to API {api_ready_ms:.1} ms; request to InstanceStart {start_ms:.1} ms, with a plain curl script {curl_ms:.1} ms: {ratio:.2}x"
        ),
        None => println!("the cost of a start was not measured"),
    }
    let report = read.report(std::env::var("AIRLOCK_FIRECRACKER").ok());
    println!(
        "{} run, {} passed, {} skipped; {:.0} s, building included",
        report.run,
        report.passed,
        report.skipped,
        started.elapsed().as_secs_f64()
    );
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    if report.run == 0 || read.endpoints.is_empty() {
        bail!("no test was run");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tests_print_and_counts_a_skip_as_not_run() {
        let mut read = Read::default();
        for line in [
            "test a ... endpoint: GET /version | start",
            "endpoint: PUT /pmem/{id} | -",
            "test b ... skipped: AIRLOCK_FIRECRACKER is not set: b",
            "ok",
            r#"test c ... cost: {"api_ready_ms":4.0,"start_ms":20.0,"curl_ms":25.0,"ratio":0.8}"#,
            "test result: FAILED. 4 passed; 1 failed; 1 ignored; 0 measured; 119 filtered out; finished in 15.64s",
        ] {
            read.take(line);
        }
        let report = read.report(None);
        assert_eq!(report, Report { run: 4, passed: 3, skipped: 1, binary: None });
        assert_eq!(serde_json::to_string(&report).unwrap(), r#"{"run":4,"passed":3,"skipped":1,"binary":null}"#);
        assert_eq!(read.endpoints.len(), 2);
        assert_eq!(read.cost.unwrap().ratio, 0.8);
    }
}
