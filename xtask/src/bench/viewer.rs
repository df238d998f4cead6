//! `cargo xtask bench viewer`: what the screen bridge costs, against a plain relay of TCP to TCP.
//!
//! The work is done by the example `viewer_bench` of `airlock-server`: the real daemon with a machine that is played. Both relays carry
//! the same bytes between the same two places, in turns; the median of the rounds' ratios counts. It removes what it made, also when a
//! round fails.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run;

/// DESIGN section 13 and issue 7: the bridge is not slower than that, and adds no more milliseconds.
const RATIO: f64 = 0.9;
const ADDED_MS: f64 = 2.0;

/// Options of `cargo xtask bench viewer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Rounds; in each both relays carry the same, in turns.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=1000))]
    rounds: u16,
    /// Carried by each relay in each round, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    mib: u32,
    /// Round trips of an event and its echo, each way.
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    trips: u32,
}

#[derive(Debug, Deserialize)]
struct Samples {
    rounds: Vec<Round>,
    direct_us: Vec<f64>,
    relay_us: Vec<f64>,
    bridge_us: Vec<f64>,
}

/// MB per second.
#[derive(Debug, Deserialize)]
struct Round {
    bridge: f64,
    relay: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Median of the rounds' ratios, bridge against relay.
    relay_ratio: f64,
    /// 99 of 100 round trips through the bridge take at most this much longer than the median of those without any relay, in ms.
    added_p99: f64,
    /// The same of the plain relay.
    relay_added_p99: f64,
    bridge_mb_s: f64,
    relay_mb_s: f64,
    rounds: usize,
    round_trips: usize,
    met: bool,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes a network namespace: run it as root");
    }
    let root = run::workspace_root();
    let build = ["build", "--quiet", "--release", "--package", "airlock-server", "--example", "viewer_bench"];
    run::run(Command::new("cargo").current_dir(&root).args(build))?;
    let program = root.join("target/release/examples/viewer_bench");
    let out = Command::new(&program)
        .args([args.rounds.to_string(), args.mib.to_string(), args.trips.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    if !out.status.success() {
        bail!("the example ended with {}", out.status);
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let samples: Samples =
        serde_json::from_str(text.lines().last().unwrap_or_default()).context("read what the example measured")?;
    let report = judged(&samples).context("nothing was measured")?;
    print(&samples, &report);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn judged(samples: &Samples) -> Option<Report> {
    let of = |value: fn(&Round) -> f64| percentile(samples.rounds.iter().map(value), 0.5);
    let relay_ratio = of(|round| round.bridge / round.relay)?;
    let without = percentile(samples.direct_us.iter().copied(), 0.5)?;
    let added = |trips: &[f64]| Some((percentile(trips.iter().copied(), 0.99)? - without) / 1000.0);
    let added_p99 = added(&samples.bridge_us)?;
    Some(Report {
        relay_ratio,
        added_p99,
        relay_added_p99: added(&samples.relay_us)?,
        bridge_mb_s: of(|round| round.bridge)?,
        relay_mb_s: of(|round| round.relay)?,
        rounds: samples.rounds.len(),
        round_trips: samples.bridge_us.len(),
        met: relay_ratio >= RATIO && added_p99 <= ADDED_MS,
    })
}

/// The value that so many of the others do not exceed (nearest rank).
fn percentile(values: impl Iterator<Item = f64>, part: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn print(samples: &Samples, report: &Report) {
    println!("round    bridge MB/s   plain relay MB/s   ratio");
    for (n, round) in samples.rounds.iter().enumerate() {
        println!("{n:>5} {:>14.0} {:>18.0} {:>7.2}", round.bridge, round.relay, round.bridge / round.relay);
    }
    println!("median of the ratios {:.3}, at least {RATIO} is wanted", report.relay_ratio);
    let (p50, p99) =
        (|us: &[f64]| percentile(us.iter().copied(), 0.5), |us: &[f64]| percentile(us.iter().copied(), 0.99));
    for (name, trips) in
        [("direct", &samples.direct_us), ("plain relay", &samples.relay_us), ("bridge", &samples.bridge_us)]
    {
        let (p50, p99) = (p50(trips).unwrap_or_default(), p99(trips).unwrap_or_default());
        println!("round trip, {name:<12} p50 {p50:>8.0} us   p99 {p99:>8.0} us   of {}", trips.len());
    }
    println!("added by the bridge, p99 {:.3} ms, at most {ADDED_MS} is wanted", report.added_p99);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_round_and_the_slow_trips_count() {
        let round = |bridge, relay| Round { bridge, relay };
        let bridge_us = (1..=100).map(|n| f64::from(n) * 100.0).collect();
        let samples = Samples {
            rounds: vec![round(95.0, 100.0), round(10.0, 100.0), round(200.0, 100.0)],
            direct_us: vec![50.0, 100.0, 9000.0],
            relay_us: vec![150.0],
            bridge_us,
        };
        let report = judged(&samples).unwrap();
        assert_eq!((report.relay_ratio, report.added_p99, report.relay_added_p99), (0.95, 9.8, 0.05));
        assert!(!report.met, "{report:?}");
        let empty = Samples { rounds: vec![], direct_us: vec![], relay_us: vec![], bridge_us: vec![] };
        assert!(judged(&empty).is_none());
    }
}
