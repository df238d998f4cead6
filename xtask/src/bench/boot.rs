//! `cargo xtask bench boot`: request to agent reachable, cold, ours against the reference, on the same VMM and machine.
//!
//! Ours runs first: the reference then takes its QEMU flags from the process that was really started for ours.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use airlock_protocol::Stage;

use super::phases::{between, phases};
use super::qemu::{REFERENCE_SIZE, SharedFlags};
use super::{copy, median, ours, reference, reference_image};
use crate::run;

/// Options of `cargo xtask bench boot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Boots per side; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Measure only our side.
    #[arg(long, conflicts_with = "reference_only")]
    ours_only: bool,
    /// Measure only the reference.
    #[arg(long)]
    reference_only: bool,
    /// Where the reference image is kept between runs.
    #[arg(long, default_value = "target/bench-cache")]
    cache: PathBuf,
    #[command(flatten)]
    ours: ours::OursArgs,
}

/// DESIGN section 13. What was not measured is null.
#[derive(Debug, Serialize)]
struct Report {
    ours_ms: Option<u64>,
    reference_ms: Option<u64>,
    reference_copy_ms: Option<u64>,
    ratio: Option<f64>,
    bytes_copied: Option<u64>,
    driver: String,
}

/// Measures and prints. The sides take turns, so that a noisy machine disturbs both.
pub fn run(args: &Args) -> Result<()> {
    let daemon = if args.reference_only { None } else { Some(ours::Daemon::start(&args.ours).context("start ours")?) };
    let cache = run::workspace_root().join(&args.cache);
    let image = if args.ours_only { None } else { Some(reference_image::prepare(&cache)?) };

    let mut flags = SharedFlags::default();
    let mut ours_boots = Vec::new();
    let mut reference_times = Vec::new();
    for number in 1..=args.runs {
        if let Some(daemon) = &daemon {
            let boot = daemon.boot().with_context(|| format!("boot {number} of ours"))?;
            println!("ours {number}: {} ms", boot.reachable_ms);
            flags = boot.flags.clone();
            ours_boots.push(boot);
        }
        if let Some(image) = &image {
            let boot = reference::boot(image, &flags).with_context(|| format!("boot {number} of the reference"))?;
            let landmarks: Vec<String> = boot.landmarks.iter().map(|(name, ms)| format!("{name} {ms}")).collect();
            println!("reference {number}: {} ms ({})", boot.reachable_ms, landmarks.join(", "));
            reference_times.push(boot.reachable_ms);
        }
    }
    drop(daemon);
    let copied =
        image.as_ref().map(|image| copy::measure(&image.root)).transpose().context("measure the reference's copy")?;

    let ours_times: Vec<u64> = ours_boots.iter().map(|boot| boot.reachable_ms).collect();
    let (ours_ms, reference_ms) = (median(&ours_times), median(&reference_times));
    let report = Report {
        ours_ms,
        reference_ms,
        reference_copy_ms: copied.map(|times| times.full_ms),
        ratio: ratio(ours_ms, reference_ms),
        bytes_copied: ours_boots.iter().map(|boot| boot.bytes_copied).max(),
        driver: ours_boots.first().map_or_else(|| format!("qemu-{}", flags.accelerator()), |boot| boot.driver.clone()),
    };
    print(&report, &flags, &ours_boots);
    if let Some(times) = copied {
        println!(
            "the reference's copy of its 8 GiB image comes on top, per VM: {} ms (every byte written, no sync; {} ms if cp may keep the holes)",
            times.full_ms, times.sparse_ms
        );
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn print(report: &Report, flags: &SharedFlags, ours_boots: &[ours::Boot]) {
    println!("\nboth sides: qemu {}; the reference also {}", flags.shown(), REFERENCE_SIZE.join(" "));
    let stages: Vec<_> = ours_boots.iter().map(|boot| boot.stages.as_slice()).collect();
    for (name, ms) in phases(&stages) {
        println!("  ours, {name:<9} {ms:>7.0} ms");
    }
    if let Some(ms) = between(&stages, Stage::InitStarted, Stage::RouteSet) {
        println!("  PID 1 to route_set, guest time: {ms:.0} ms");
    }
    println!(
        "request to reachable, median: ours {}, reference {}, ratio {}; bytes copied per start: {}",
        shown(report.ours_ms),
        shown(report.reference_ms),
        report.ratio.map_or("not measured".into(), |ratio| format!("{ratio:.2}")),
        report.bytes_copied.map_or("not measured".into(), |bytes| bytes.to_string()),
    );
}

fn shown(ms: Option<u64>) -> String {
    ms.map_or("not measured".into(), |ms| format!("{ms} ms"))
}

/// Reference through ours, to two places.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of a boot are far below 2^52")]
fn ratio(ours: Option<u64>, reference: Option<u64>) -> Option<f64> {
    let (ours, reference) = (ours.filter(|ms| *ms > 0)?, reference?);
    Some((reference as f64 / ours as f64 * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_needs_both_sides() {
        assert_eq!(ratio(Some(3200), Some(17_600)), Some(5.5));
        assert_eq!(ratio(None, Some(17_600)), None);
        assert_eq!(ratio(Some(0), Some(17_600)), None);
    }

    #[test]
    fn report_has_the_fields_of_the_design() {
        let report = Report {
            ours_ms: Some(1),
            reference_ms: Some(2),
            reference_copy_ms: Some(3),
            ratio: Some(2.0),
            bytes_copied: Some(0),
            driver: "qemu-tcg".into(),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"ours_ms":1,"reference_ms":2,"reference_copy_ms":3,"ratio":2.0,"bytes_copied":0,"driver":"qemu-tcg"}"#
        );
    }
}
