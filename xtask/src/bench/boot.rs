//! `cargo xtask bench boot`: request to agent reachable, cold, ours against the reference, on the same VMM and machine.
//!
//! Ours runs first: the reference then takes its QEMU flags from the process that was really started for ours.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::qemu::SharedFlags;
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

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let ours =
        if args.reference_only { None } else { Some(ours::measure(&args.ours, args.runs).context("measure ours")?) };
    let flags = ours.as_ref().map_or_else(SharedFlags::default, |ours| ours.flags.clone());
    println!("both sides: qemu {}", flags.shown());

    let mut report = Report {
        ours_ms: ours.as_ref().map(|ours| ours.reachable_ms),
        reference_ms: None,
        reference_copy_ms: None,
        ratio: None,
        bytes_copied: ours.as_ref().map(|ours| ours.bytes_copied),
        driver: format!("qemu-{}", flags.accelerator()),
    };
    if !args.ours_only {
        let cache = run::workspace_root().join(&args.cache);
        let image = reference_image::prepare(&cache)?;
        let mut times = Vec::new();
        for number in 1..=args.runs {
            let boot = reference::boot(&image, &flags).with_context(|| format!("reference boot {number}"))?;
            let landmarks: Vec<String> = boot.landmarks.iter().map(|(name, ms)| format!("{name} {ms}")).collect();
            println!("reference boot {number}: {} ms ({})", boot.reachable_ms, landmarks.join(", "));
            times.push(boot.reachable_ms);
        }
        report.reference_ms = median(&times);
        let times = copy::measure(&image.root).context("measure the reference's copy")?;
        println!(
            "reference copy of its 8 GiB image, per VM, on top: {} ms (plain full copy; {} ms if cp keeps the holes)",
            times.full_ms, times.sparse_ms
        );
        report.reference_copy_ms = Some(times.full_ms);
    }
    if let Some(ours) = &ours {
        ours.print_phases();
    }
    report.ratio = ratio(report.ours_ms, report.reference_ms);
    println!(
        "request to reachable: ours {}, reference {}, ratio {}; bytes copied per start: {}",
        shown(report.ours_ms),
        shown(report.reference_ms),
        report.ratio.map_or("not measured".into(), |ratio| format!("{ratio:.2}")),
        report.bytes_copied.map_or("not measured".into(), |bytes| bytes.to_string()),
    );
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
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
