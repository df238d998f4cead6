//! `cargo xtask crash-matrix`: every plan x every step x every fault, in memory and on real kernel objects, and what leaked.
//!
//! The matrix is a test of the engine (`host/engine/tests/crash_matrix`), which this crate may not depend on: it is run as a test, and
//! the last line of each of its levels is read.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run;

/// Options of `cargo xtask crash-matrix`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// One level of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    cells: u64,
    leaks: u64,
}

/// DESIGN section 13. What was not run is null.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    fake: Option<Level>,
    real: Option<Level>,
}

/// The last line of a level.
#[derive(Debug, Deserialize)]
struct LastLine {
    level: String,
    #[serde(flatten)]
    counted: Level,
}

impl Report {
    /// Takes the last line of a level; every other line is nothing to it.
    fn take(&mut self, line: &str) {
        let Ok(LastLine { level, counted }) = serde_json::from_str(line) else { return };
        match level.as_str() {
            "fake" => self.fake = Some(counted),
            "real" => self.real = Some(counted),
            _ => {}
        }
    }

    fn levels(&self) -> [(&'static str, &'static str, Option<Level>); 2] {
        [("fake", "a host in memory", self.fake), ("real", "real kernel objects, daemons really killed", self.real)]
    }

    /// Fails if anything leaked, or was not run.
    fn check(&self) -> Result<()> {
        for (name, _, level) in self.levels() {
            match level {
                None => bail!("level {name} was not run to its end"),
                Some(Level { leaks: 0, .. }) => {}
                Some(Level { cells, leaks }) => bail!("level {name}: {leaks} of {cells} cells leak, named above"),
            }
        }
        Ok(())
    }
}

/// Runs the matrix and prints.
pub fn report(args: &Args) -> Result<()> {
    let started = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--package", "airlock-engine", "--test", "crash_matrix"]);
    // Only the levels, one after the other; what they print is the progress.
    command.args(["--", "crash_matrix_", "--nocapture", "--test-threads=1"]);
    command.current_dir(run::workspace_root()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut report = Report::default();
    for line in BufReader::new(child.stdout.take().context("read what the matrix prints")?).lines() {
        let line = line.context("read what the matrix prints")?;
        report.take(&line);
        // The first line of a level follows the name of its test.
        if let Some(at) = ["fake: ", "real: ", "skipped: "].iter().find_map(|prefix| line.find(prefix)) {
            println!("{}", &line[at..]);
        }
    }
    let status = child.wait().with_context(|| format!("wait for {command:?}"))?;

    println!("\n{:<6} {:>6} {:>6}", "level", "cells", "leaks");
    for (name, what, level) in report.levels() {
        match level {
            Some(Level { cells, leaks }) => println!("{name:<6} {cells:>6} {leaks:>6}   {what}"),
            None => println!("{name:<6} {:>6} {:>6}   {what}", "-", "-"),
        }
    }
    println!("{:.0} s, building included", started.elapsed().as_secs_f64());
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    match report.check() {
        Ok(()) if status.success() => Ok(()),
        Ok(()) => bail!("{command:?} ended with {status}"),
        // A matrix that could not be built or run is not one that leaks.
        Err(error) if !status.success() => Err(error.context(format!("{command:?} ended with {status}"))),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_lines_and_has_the_fields_of_the_design() {
        let mut report = Report::default();
        for line in [
            "running 2 tests",
            "fake: 25 of 231 cells",
            r#"{"cells":231,"leaks":0,"level":"fake"}"#,
            r#"{"cells":1,"leaks":0}"#,
            r#"{"cells":230,"leaks":2,"level":"real"}"#,
        ] {
            report.take(line);
        }
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"fake":{"cells":231,"leaks":0},"real":{"cells":230,"leaks":2}}"#
        );
        assert!(report.check().unwrap_err().to_string().contains("2 of 230"));
    }

    #[test]
    fn a_level_that_was_not_run_is_no_success() {
        let mut report = Report::default();
        report.take(r#"{"cells":231,"leaks":0,"level":"fake"}"#);
        assert_eq!(serde_json::to_string(&report).unwrap(), r#"{"fake":{"cells":231,"leaks":0},"real":null}"#);
        assert!(report.check().is_err());
        report.take(r#"{"cells":231,"leaks":0,"level":"real"}"#);
        report.check().unwrap();
    }
}
