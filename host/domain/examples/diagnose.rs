//! Diagnoses a serial log and says how fast it was read: `cargo run --release -p airlock-domain --example diagnose -- FILE`.
//!
//! With `--repeat MIB` the file is read again and again up to that many MiB. With `--json` the last line has the numbers for
//! `cargo xtask bench classify`: bytes, seconds, the peak of the memory of this process. The log is read in pieces, as from a
//! console, so that this peak is the classifier's own.

use std::fs::File;
use std::io::{Error, Read};
use std::time::Instant;

use airlock_domain::diagnosis::{Case, Classifier, diagnose};

const PIECE: usize = 64 << 10;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(file) = args.first() else {
        println!("usage: diagnose FILE [--repeat MIB] [--json]");
        return Ok(());
    };
    let repeat = args.iter().position(|arg| arg == "--repeat").and_then(|at| args.get(at + 1));
    let wanted = match repeat {
        Some(mib) => mib.parse::<u64>().map_err(Error::other)? << 20,
        None => 1,
    };
    let (mut classifier, mut piece, mut read) = (Classifier::new(), vec![0; PIECE], 0);
    let began = Instant::now();
    while read < wanted {
        let mut log = File::open(file)?;
        let before = read;
        loop {
            let length = log.read(&mut piece)?;
            if length == 0 {
                break;
            }
            classifier.feed(piece.get(..length).unwrap_or_default());
            read += length as u64;
        }
        if read == before {
            break;
        }
    }
    let facts = classifier.finish();
    let seconds = began.elapsed().as_secs_f64();
    let verdict = diagnose(&Case { console: Some(&facts), ..Case::default() });
    if args.iter().any(|arg| arg == "--json") {
        let (lines, boots, verdict) = (facts.lines, facts.boots, verdict.verdict.code());
        let numbers = serde_json::json!({
            "bytes": read, "seconds": seconds, "peakKib": peak_kib()?, "lines": lines, "boots": boots, "verdict": verdict,
        });
        println!("{numbers}");
        return Ok(());
    }
    println!("{}", serde_json::to_string_pretty(&verdict).unwrap_or_default());
    #[allow(clippy::cast_precision_loss, reason = "bytes of a log are far below 2^52")]
    let mb = read as f64 / 1e6;
    println!("{mb:.1} MB, {} lines, {} boots in {seconds:.3} s: {:.0} MB/s", facts.lines, facts.boots, mb / seconds);
    Ok(())
}

/// The most memory that this process ever had (proc(5), `VmHWM`).
fn peak_kib() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.ok_or_else(|| Error::other("/proc/self/status has no VmHWM"))
}
