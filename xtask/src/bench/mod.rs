//! Benches: each measures ours and a reference on the same machine in one run.

mod boot;
mod classify;
mod copy;
pub(crate) mod http;
mod netns;
mod ours;
mod overhead;
mod phases;
mod qemu;
mod reference;
mod reference_image;
mod viewer;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Request to agent reachable, cold: ours against a full distribution with a shell bootstrap.
    Boot(boot::Args),
    /// How fast a long console is read, and in how much memory.
    Classify(classify::Args),
    /// Host overhead per start, request to VMM spawned: one at a time, many at once, and beside many live VMs.
    Overhead(overhead::Args),
    /// The screen bridge against a plain TCP relay: throughput and added latency.
    Viewer(viewer::Args),
}

/// Runs one bench.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Boot(args) => boot::run(args),
        Bench::Classify(args) => classify::run(args),
        Bench::Overhead(args) => overhead::run(args),
        Bench::Viewer(args) => viewer::run(args),
    }
}

/// The median; of an even number the lower of the two in the middle. None of nothing.
fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// Milliseconds since `start`.
fn millis_since(start: std::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_of_few() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7]), Some(7));
        assert_eq!(median(&[9, 1]), Some(1));
        assert_eq!(median(&[9, 1, 5]), Some(5));
    }
}
