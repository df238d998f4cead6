//! Project tasks: arrows between crates, sizes, benches.
//!
//! Every task is a report: it prints for a person, and with `--json` one JSON object as its last line. A task that found
//! what it forbids, or could not measure, exits with 1 and says why.

mod bench;
mod crash_matrix;
mod daemon;
mod deps;
mod faults;
mod guests;
mod run;
mod sizes;
mod soak;
mod test_firecracker;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the Airlock project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check the arrows between the crates and the walls around them (ARCHITECTURE.md).
    Deps,
    /// Count crates and file lengths.
    Sizes(sizes::Args),
    /// Count what leaks when everything goes wrong at every step.
    CrashMatrix(crash_matrix::Args),
    /// Boot every image and show which becomes reachable.
    Guests(guests::Args),
    /// Produce faults on real machines and compare what Airlock says of them.
    Faults(faults::Args),
    /// Stay for a long time and see that nothing is lost.
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Test the drivers' contract, Firecracker's API, and the real Firecracker where one is given.
    TestFirecracker(test_firecracker::Args),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match perform(&Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task) -> Result<()> {
    match task {
        Task::Deps => deps::check(),
        Task::Sizes(args) => sizes::report(args),
        Task::CrashMatrix(args) => crash_matrix::report(args),
        Task::Guests(args) => guests::report(args),
        Task::Faults(args) => faults::report(args),
        Task::Soak(soak) => soak::run(soak),
        Task::TestFirecracker(args) => test_firecracker::report(args),
        Task::Bench(bench) => bench::run(bench),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
