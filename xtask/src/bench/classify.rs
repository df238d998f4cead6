//! `bench classify`: how fast a long console is read, and in how much memory. The console is mixed from the corpus: whole logs in any
//! order, and between them single lines of all of them.
//!
//! Fails unless 100 MB take at most two seconds, and no more memory than 10 MB do.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run;

const CORPUS: &str = "host/domain/tests/consoles";
const LARGE: u64 = 100_000_000;
const SMALL: u64 = 10_000_000;
const MAX_SECONDS: f64 = 2.0;
/// Pages of the program and of its allocator come and go by some hundred KiB.
const MAX_MORE_KIB: u64 = 1024;
/// Single lines between two logs.
const LINES: usize = 200;
/// Of several runs the fastest counts: the others measure who else is at work.
const RUNS: usize = 3;

/// Options of `cargo xtask bench classify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What the classifier's program says of one run (host/domain, `examples/diagnose.rs`).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbers {
    bytes: u64,
    seconds: f64,
    peak_kib: u64,
    lines: u64,
    boots: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    bytes: u64,
    lines: u64,
    boots: u64,
    seconds: f64,
    mb_per_s: f64,
    peak_kib: u64,
    peak_kib_of_a_tenth: u64,
}

/// Builds, mixes, measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let root = run::workspace_root();
    let build = ["build", "--release", "--quiet", "-p", "airlock-domain", "--example", "diagnose"];
    run::run(Command::new("cargo").args(build).current_dir(&root))?;
    let program = target_dir(&root)?.join("release/examples/diagnose");
    let dir = tempfile::Builder::new().prefix("airlock-classify-").tempdir().context("make a directory")?;
    let logs = corpus(&root.join(CORPUS))?;
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    mix(&logs, LARGE, &large)?;
    mix(&logs, SMALL, &small)?;
    let (of_large, of_small) = (measure(&program, &large)?, measure(&program, &small)?);
    #[allow(clippy::cast_precision_loss, reason = "bytes of a log are far below 2^52")]
    let mb = of_large.bytes as f64 / 1e6;
    let report = Report {
        bytes: of_large.bytes,
        lines: of_large.lines,
        boots: of_large.boots,
        seconds: of_large.seconds,
        mb_per_s: mb / of_large.seconds,
        peak_kib: of_large.peak_kib,
        peak_kib_of_a_tenth: of_small.peak_kib,
    };
    println!(
        "{mb:.0} MB, {} lines, {} boots: {:.2} s, {:.0} MB/s, peak {} KiB ({} KiB for a tenth of it)",
        report.lines, report.boots, report.seconds, report.mb_per_s, report.peak_kib, report.peak_kib_of_a_tenth
    );
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    ensure!(report.seconds <= MAX_SECONDS, "{:.2} s, {MAX_SECONDS} are allowed", report.seconds);
    let more = report.peak_kib.saturating_sub(report.peak_kib_of_a_tenth);
    ensure!(more <= MAX_MORE_KIB, "ten times the console takes {more} KiB more memory");
    Ok(())
}

/// Where this workspace is built.
fn target_dir(root: &Path) -> Result<PathBuf> {
    let text = run::output(
        Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo names no target directory")
}

fn corpus(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    // The same console every time.
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
    let logs: Vec<Vec<u8>> = paths.iter().map(read).collect::<Result<_>>()?;
    ensure!(logs.iter().any(|log| !log.is_empty()), "{} has no log", dir.display());
    Ok(logs)
}

fn mix(logs: &[Vec<u8>], bytes: u64, path: &Path) -> Result<()> {
    let lines: Vec<&[u8]> = logs.iter().flat_map(|log| log.split_inclusive(|byte| *byte == b'\n')).collect();
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let (mut out, mut written, mut dice) = (BufWriter::new(file), 0, Dice(1));
    while written < bytes {
        let log = logs.get(dice.below(logs.len())).map(Vec::as_slice).into_iter();
        let between: Vec<&[u8]> = (0..LINES).filter_map(|_| lines.get(dice.below(lines.len())).copied()).collect();
        for piece in log.chain(between) {
            out.write_all(piece).with_context(|| format!("write {}", path.display()))?;
            written += piece.len() as u64;
        }
    }
    out.flush().with_context(|| format!("write {}", path.display()))
}

/// The same numbers every time (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % end.max(1)
    }
}

fn measure(program: &Path, log: &Path) -> Result<Numbers> {
    let mut best: Option<Numbers> = None;
    for _ in 0..RUNS {
        let text = run::output(Command::new(program).arg(log).arg("--json"))?;
        let numbers: Numbers = serde_json::from_str(text.trim()).with_context(|| format!("read {text}"))?;
        if best.as_ref().is_none_or(|best| numbers.seconds < best.seconds) {
            best = Some(numbers);
        }
    }
    best.context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_console_has_its_size_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let logs = vec![b"one\ntwo\n".to_vec(), b"three".to_vec(), Vec::new()];
        let mixed = ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            mix(&logs, 50_000, &path).unwrap();
            fs::read(path).unwrap()
        });
        assert_eq!(mixed[0], mixed[1]);
        assert!((50_000..60_000).contains(&mixed[0].len()), "{}", mixed[0].len());
        assert!(
            ["one\n", "two\n", "three"].iter().all(|line| mixed[0].windows(line.len()).any(|w| w == line.as_bytes()))
        );
    }
}
