//! `cargo xtask faults`: produces every fault of the table on real machines and real objects of the host, and compares what Airlock says
//! of it with what is true: cause, stage, time to the verdict, nothing left behind, and the machine beside it still healthy.
//!
//! One fault at a time, beside one healthy machine: under emulation more would only slow each other. Consoles are kept in
//! `artifacts/faults` for the corpus of the classifier.

mod cell;
mod coverage;
mod cpio;
mod disk;
mod docs;
mod fault;
mod image;
mod leftovers;
mod lent;
mod outcome;
pub mod outside;
mod site;
mod stop;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use airlock_protocol::Stage;
use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::run;
use cell::World;
use fault::{Fault, Said, Way};
use outcome::Outcome;
use site::Places;

/// Options of `cargo xtask faults`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Only these faults; a part of the name is enough.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only the few that every change is tested with.
    #[arg(long)]
    quick: bool,
    /// Print the names and produce nothing.
    #[arg(long)]
    list: bool,
    /// Write docs/faults.md.
    #[arg(long)]
    write_docs: bool,
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds the golden images.
    #[arg(long, default_value = "target/test-state")]
    state_dir: PathBuf,
}

/// DESIGN section 13.
#[derive(Debug, Serialize)]
struct Report {
    total: usize,
    right: usize,
    wrong: usize,
    inconclusive: usize,
    worst_ms: u64,
    faults: Vec<Outcome>,
}

/// Produces the faults and prints what came of them.
pub fn report(args: &Args) -> Result<()> {
    let chosen = chosen(args)?;
    if args.list {
        chosen.iter().for_each(|fault| println!("{:<30} {:<26} {}", fault.name, fault.cause, fault.how));
        println!("{} faults", chosen.len());
        return Ok(());
    }
    let root = run::workspace_root();
    let places = Places { program: root.join(&args.airlock), golden: root.join(&args.state_dir) };
    if !places.program.exists() {
        bail!("{} is missing: cargo build -p airlock, or name another with --airlock", places.program.display());
    }
    let artifacts = root.join("artifacts/faults");
    std::fs::create_dir_all(&artifacts).with_context(|| format!("create {}", artifacts.display()))?;
    stop::listen()?;
    let began = Instant::now();
    let world = World::open(places, artifacts)?;
    let mut faults = Vec::new();
    for fault in &chosen {
        if stop::is_asked() {
            break;
        }
        let outcome = produce(&world, fault);
        println!("{}", outcome.line());
        faults.push(outcome);
    }
    stop::check()?;
    let closed = world.close();
    let report = Report::of(faults);
    println!(
        "{}/{} right, worst time to verdict {} ms, {} wrong, {} inconclusive, {} s",
        report.right,
        report.total,
        report.worst_ms,
        report.wrong,
        report.inconclusive,
        began.elapsed().as_secs()
    );
    let last = outcome::merge(&root.join("artifacts/faults/outcomes.json"), &report.faults)?;
    if args.write_docs {
        docs::write(&root.join("docs/faults.md"), &last)?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    closed?;
    if report.right < report.total {
        bail!("{} of {} faults are not judged right, named above", report.total - report.right, report.total);
    }
    Ok(())
}

fn chosen(args: &Args) -> Result<Vec<Fault>> {
    let all = table::all();
    let asked = |fault: &Fault| args.only.is_empty() || args.only.iter().any(|part| fault.name.contains(part.as_str()));
    let chosen: Vec<Fault> = all.into_iter().filter(|fault| asked(fault) && (fault.quick || !args.quick)).collect();
    if chosen.is_empty() {
        bail!("no fault is called like {:?}; see --list", args.only);
    }
    Ok(chosen)
}

/// Produces one fault; everything that goes wrong with that is its outcome.
fn produce(world: &World, fault: &Fault) -> Outcome {
    let said = match &fault.way {
        Way::Machine(machine) => world.machine(fault, machine),
        Way::Own(make) => make(world),
    };
    let wrong = match &said {
        Ok(said) => judge(fault, said).or_else(|| world.beside_is_healthy().err().map(|error| format!("{error:#}"))),
        Err(error) => Some(format!("{error:#}")),
    };
    Outcome::of(fault, said.ok(), wrong)
}

/// What is wrong with what was said.
fn judge(fault: &Fault, said: &Said) -> Option<String> {
    let stage = |stage: Option<Stage>| stage.map_or("no stage", Stage::name);
    if said.cause != fault.cause {
        return Some(format!("{} said: {}", said.cause, said.detail));
    }
    if said.stage != fault.stage {
        return Some(format!("{} is the stage: {}", stage(said.stage), said.detail));
    }
    (said.ms > fault.within_ms).then(|| format!("{} ms, {} are allowed", said.ms, fault.within_ms))
}

impl Report {
    fn of(faults: Vec<Outcome>) -> Self {
        let right = faults.iter().filter(|outcome| outcome.ok).count();
        let inconclusive =
            faults.iter().filter(|outcome| !outcome.ok && outcome.said.as_deref() == Some("inconclusive")).count();
        let worst_ms = faults.iter().filter_map(|outcome| outcome.ms).max().unwrap_or_default();
        Self { total: faults.len(), right, wrong: faults.len() - right - inconclusive, inconclusive, worst_ms, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::fault::Since;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_a_name_of_its_own_a_known_cause_and_says_how_it_is_made() {
        let all = table::all();
        let names: BTreeSet<&str> = all.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), all.len());
        for fault in &all {
            assert!(!fault.how.is_empty(), "{}", fault.name);
            assert!(fault.cause.parse::<airlock_domain::Cause>().is_ok(), "{}: {}", fault.name, fault.cause);
        }
    }

    #[test]
    fn a_wrong_cause_a_wrong_stage_and_a_late_verdict_are_wrong() {
        let fault = fault::fault("x", "link_missing", Stage::LinkFound).shows(Since::Asked, 10);
        let said = Said { cause: "link_missing".into(), stage: Some(Stage::LinkFound), ms: 10, ..Said::default() };
        assert_eq!(judge(&fault, &said), None);
        assert!(judge(&fault, &Said { cause: "inconclusive".into(), ..said.clone() }).is_some());
        assert!(judge(&fault, &Said { stage: None, ..said.clone() }).is_some());
        assert!(judge(&fault, &Said { ms: 11, ..said }).is_some());
    }
}
