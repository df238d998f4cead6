//! Our side of the boot bench: the real `airlock` daemon, a real `base` VM, the daemon's own timeline.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::qemu::SharedFlags;

/// Where our side is found.
#[derive(Debug, clap::Args)]
pub struct OursArgs {
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds (or gets) the golden image `base`.
    #[arg(long, default_value = "target/bench-state")]
    state_dir: PathBuf,
}

/// What was measured.
#[derive(Debug)]
pub struct Ours {
    /// Median of planned to reachable.
    pub reachable_ms: u64,
    /// Bytes in files made for one VM, logs not counted.
    pub bytes_copied: u64,
    /// Flags of the QEMU that ran.
    pub flags: SharedFlags,
}

impl Ours {
    /// Prints where the time goes.
    pub fn print_phases(&self) {}
}

/// Boots `runs` VMs one after the other.
pub fn measure(args: &OursArgs, _runs: u16) -> Result<Ours> {
    bail!("{} cannot be measured yet in {}", args.airlock.display(), args.state_dir.display())
}
