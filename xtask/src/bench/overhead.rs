//! `cargo xtask bench overhead`: what the host does for a start, request to VMM spawned, without VMM and guest.
//!
//! The work is done by the example `overhead` of `airlock-engine`: the real engine on real kernel objects, with a process that
//! does nothing in place of the VMM. It removes what it made. If it is killed, what it left is removed here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::run;

/// DESIGN section 12, in milliseconds.
const TARGET: Percentiles = Percentiles { p50: 15.0, p99: 60.0 };
/// Live VMs per line of the growth.
const BAND: usize = 50;

/// Options of `cargo xtask bench overhead`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Starts one at a time, each VM destroyed before the next.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    starts: u16,
    /// Rounds of 25 starts at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// VMs that live while both are measured again.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(0..=900))]
    live: u16,
    /// Where the engine's state directory is made: on the disk that a real one would be on.
    #[arg(long, default_value = "target")]
    state_on: PathBuf,
}

/// One start, as the example reports it, in milliseconds.
#[derive(Debug, Deserialize)]
struct Sample {
    total: f64,
    vmm: f64,
    accept: f64,
    steps: BTreeMap<String, f64>,
    journal: f64,
}

#[derive(Debug, Deserialize)]
struct Samples {
    c1: Vec<Sample>,
    c25: Vec<Sample>,
    growth: Vec<Sample>,
    live_c1: Vec<Sample>,
    live_c25: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// One way of starting.
#[derive(Debug, Serialize)]
struct Measured {
    /// Request to VMM spawned, the stand-in's own start included.
    p50: f64,
    p99: f64,
    /// The same without the stand-in's own start.
    without_vmm: Percentiles,
    /// Median of the stand-in's own start.
    vmm_ms: f64,
    starts: usize,
    /// Medians of the parts: `accept`, the steps, and `journal` for the outcomes of all steps together.
    steps: BTreeMap<String, f64>,
}

/// DESIGN section 13, and more.
#[derive(Debug, Serialize)]
struct Report {
    c1: Measured,
    c25: Measured,
    live_200: Measured,
    live_200_c25: Measured,
    /// Median of starts one after the other, by how many VMs lived before, in bands.
    growth: BTreeMap<usize, f64>,
    live: u16,
    disk: String,
    met: bool,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes a network namespace and TAPs: run it as root");
    }
    let root = run::workspace_root();
    run::run(Command::new("cargo").current_dir(&root).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "airlock-engine",
        "--example",
        "overhead",
    ]))?;
    let state_on = root.join(&args.state_on);
    std::fs::create_dir_all(&state_on).with_context(|| format!("create {}", state_on.display()))?;
    let disk = file_system(&state_on)?;
    let samples = measure(args, &root.join("target/release/examples/overhead"), &state_on)?;
    let report = Report {
        c1: measured(&samples.c1)?,
        c25: measured(&samples.c25)?,
        live_200: measured(&samples.live_c1)?,
        live_200_c25: measured(&samples.live_c25)?,
        growth: growth(&samples.growth),
        live: args.live,
        disk,
        met: [&samples.c1, &samples.c25].into_iter().all(|samples| meets(samples)),
    };
    print(&report);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn measure(args: &Args, program: &Path, state_on: &Path) -> Result<Samples> {
    let namespace = format!("airlock-bench-{}-overhead", std::process::id());
    let leftovers = Leftovers { state_dir: state_on.join(&namespace), namespace };
    let mut child = Command::new(program)
        .arg(&leftovers.namespace)
        .arg(&leftovers.state_dir)
        .args([args.starts, args.rounds, 25, args.live].map(|number| number.to_string()))
        // Held open: its end tells the example that nobody waits any more.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let held = child.stdin.take();
    let out = child.wait_with_output().context("wait for the example")?;
    drop(held);
    if !out.status.success() {
        bail!("the example ended with {}", out.status);
    }
    drop(leftovers);
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("read what the example measured")
}

/// What an example that was killed leaves. Nothing, after one that ended.
struct Leftovers {
    namespace: String,
    state_dir: PathBuf,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for pid in processes_in(&self.state_dir) {
            eprintln!("killing process {pid}, which the example left");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Path::new("/run/netns").join(&self.namespace).exists()
            && let Err(error) = run::run(Command::new("ip").args(["netns", "del", &self.namespace]))
        {
            eprintln!("left behind: network namespace {}: {error:#}", self.namespace);
        }
        if self.state_dir.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.state_dir)
        {
            eprintln!("left behind: {}: {error}", self.state_dir.display());
        }
    }
}

/// Processes that work below a directory, which is nobody else's.
fn processes_in(dir: &Path) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))).collect()
}

fn measured(samples: &[Sample]) -> Result<Measured> {
    let total = percentiles(samples.iter().map(|sample| sample.total)).context("nothing was measured")?;
    let without_vmm =
        percentiles(samples.iter().map(|sample| sample.total - sample.vmm)).context("no VMM was timed")?;
    let median = |values: &mut dyn Iterator<Item = f64>| percentiles(values).map(|found| found.p50);
    let mut steps = BTreeMap::new();
    let names = samples.iter().flat_map(|sample| sample.steps.keys());
    for name in names {
        if !steps.contains_key(name) {
            let of_step = median(&mut samples.iter().filter_map(|sample| sample.steps.get(name).copied()));
            steps.extend(of_step.map(|ms| (name.clone(), ms)));
        }
    }
    steps.extend(median(&mut samples.iter().map(|sample| sample.accept)).map(|ms| ("accept".to_owned(), ms)));
    steps.extend(median(&mut samples.iter().map(|sample| sample.journal)).map(|ms| ("journal".to_owned(), ms)));
    let vmm_ms = median(&mut samples.iter().map(|sample| sample.vmm)).unwrap_or_default();
    Ok(Measured { p50: total.p50, p99: total.p99, without_vmm, vmm_ms, starts: samples.len(), steps })
}

fn meets(samples: &[Sample]) -> bool {
    let found = percentiles(samples.iter().map(|sample| sample.total - sample.vmm));
    found.is_some_and(|found| found.p50 <= TARGET.p50 && found.p99 <= TARGET.p99)
}

fn growth(samples: &[Sample]) -> BTreeMap<usize, f64> {
    let bands = samples.chunks(BAND).enumerate();
    bands.filter_map(|(n, band)| Some((n * BAND, percentiles(band.iter().map(|sample| sample.total))?.p50))).collect()
}

/// By nearest rank, to hundredths; none of nothing.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<Percentiles> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).map(|value| (value * 100.0).round() / 100.0)
    };
    Some(Percentiles { p50: at(50)?, p99: at(99)? })
}

/// Device and type of the file system that a directory is on.
fn file_system(dir: &Path) -> Result<String> {
    let device =
        File::open(dir).and_then(|dir| dir.metadata()).with_context(|| format!("look at {}", dir.display()))?;
    let (major, minor) = (nix::sys::stat::major(device.dev()), nix::sys::stat::minor(device.dev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let found = mounts.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        (place.split(' ').nth(2)? == format!("{major}:{minor}")).then(|| what.split(' ').take(2).collect::<Vec<_>>())
    });
    Ok(found.map_or_else(|| format!("device {major}:{minor}"), |what| what.join(" ")))
}

const COLUMNS: [(&str, &str); 8] = [
    ("accept", "accept"),
    ("create_tap", "tap"),
    ("guard_tap", "guard"),
    ("prepare_disk", "disk"),
    ("write_vm_config", "config"),
    ("spawn_vmm", "spawn"),
    ("journal", "journal"),
    ("vmm", "vmm"),
];

fn print(report: &Report) {
    let titles: String = COLUMNS.map(|(_, title)| format!("{title:>8}")).concat();
    println!("ms per start                 p50     p99 | without vmm |{titles}");
    let live = format!("{} live, ", report.live);
    for (name, measured) in [
        ("1 at a time".to_owned(), &report.c1),
        ("25 at once".to_owned(), &report.c25),
        (format!("{live}1 at a time"), &report.live_200),
        (format!("{live}25 at once"), &report.live_200_c25),
    ] {
        let parts = COLUMNS.map(|(part, _)| match part {
            "vmm" => format!("{:>8.2}", measured.vmm_ms),
            part => measured.steps.get(part).map_or_else(|| " ".repeat(8), |ms| format!("{ms:>8.2}")),
        });
        let Measured { p50, p99, without_vmm, .. } = measured;
        let (bare50, bare99) = (without_vmm.p50, without_vmm.p99);
        println!("{name:<24} {p50:>7.2} {p99:>7.2} |{bare50:>6.1}{bare99:>6.1} |{}", parts.concat());
    }
    let growth: Vec<String> = report.growth.iter().map(|(live, ms)| format!("{live}+: {ms:.1}")).collect();
    println!("p50 by live VMs: {}", growth.join(", "));
    println!("parts are medians, spawn holds the stand-in's own start (vmm); state directory on {}", report.disk);
    let verdict = if report.met { "met" } else { "missed" };
    println!("target without vmm, 1 and 25 at once: p50 {} ms, p99 {} ms: {verdict}", TARGET.p50, TARGET.p99);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(total: f64) -> Sample {
        Sample {
            total,
            vmm: 1.0,
            accept: 2.0,
            steps: BTreeMap::from([("create_tap".into(), total / 2.0)]),
            journal: 1.0,
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(percentiles([].into_iter()), None);
        assert_eq!(percentiles([7.0].into_iter()), Some(Percentiles { p50: 7.0, p99: 7.0 }));
        let found = percentiles((1..=200).rev().map(f64::from));
        assert_eq!(found, Some(Percentiles { p50: 100.0, p99: 198.0 }));
    }

    #[test]
    fn the_stand_in_is_subtracted_openly() {
        let found = measured(&[sample(9.0), sample(11.0), sample(80.0)]).unwrap();
        assert_eq!((found.p50, found.p99, found.vmm_ms), (11.0, 80.0, 1.0));
        assert_eq!(found.without_vmm, Percentiles { p50: 10.0, p99: 79.0 });
        assert_eq!(found.steps["create_tap"], 5.5);
        assert!(!meets(&[sample(9.0), sample(80.0)]) && meets(&[sample(9.0), sample(61.0)]) && !meets(&[]));
        assert!(measured(&[]).is_err());
    }

    #[test]
    fn growth_is_by_bands() {
        let samples: Vec<Sample> = (0..120u8).map(|n| sample(f64::from(n))).collect();
        assert_eq!(growth(&samples), BTreeMap::from([(0, 24.0), (50, 74.0), (100, 109.0)]));
    }
}
