//! `cargo xtask guests`: builds every recipe with `airlock image build`, boots it with `airlock login demo --until reachable`, and shows
//! which image becomes reachable, by whom its network is configured, how its interface is named, and how long that takes.
//!
//! One VM at a time: under emulation a second would only slow the first. A cell that could not be tried (its image could not
//! be built) is empty, and an empty cell fails the report as one that is not reachable does.

mod cell;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::run;

/// Options of `cargo xtask guests`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Only these images.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds (or gets) the golden images.
    #[arg(long, default_value = "target/test-state")]
    state_dir: PathBuf,
}

/// How the guest's interface gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Naming {
    /// By the kernel.
    Eth0,
    /// By the image's udev, if it has one.
    Predictable,
    /// By the kernel, behind another NIC.
    SecondNic,
    /// By the kernel, on a machine without PCI.
    Mmio,
    /// By a program of the image, when the machine is up.
    Renamed,
}

/// Images that are booted without PCI too: one without udev, one with. The bus changes nothing that depends on the network's owner.
const WITHOUT_PCI: [&str; 2] = ["base", "debian-systemd"];
/// The image that renames its interface.
const RENAMED: &str = "renamed";

impl Naming {
    /// The ways in which an image is booted.
    fn of(image: &str) -> Vec<Self> {
        let mut all = vec![Self::Eth0, Self::Predictable, Self::SecondNic];
        all.extend(WITHOUT_PCI.contains(&image).then_some(Self::Mmio));
        if image == RENAMED { vec![Self::Renamed] } else { all }
    }

    /// The lines of the daemon's configuration that lead to it.
    fn config(self) -> &'static str {
        match self {
            Self::Eth0 | Self::Renamed => "",
            Self::Mmio => "vmm.transport = \"mmio\"\n",
            Self::Predictable => "predictable_names = true\n",
            Self::SecondNic => "extra_nics = 1\n",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Eth0 => "eth0",
            Self::Predictable => "predictable",
            Self::SecondNic => "second-nic",
            Self::Mmio => "mmio",
            Self::Renamed => "renamed",
        }
    }
}

#[derive(Debug, Serialize)]
struct Cell {
    image: String,
    owner: String,
    naming: Naming,
    ok: bool,
    reachable_ms: Option<u64>,
    /// PID 1 to `route_set`.
    #[serde(skip)]
    network_ms: Option<u64>,
    /// Why not.
    #[serde(skip)]
    failure: Option<String>,
}

/// DESIGN section 13.
#[derive(Debug, Serialize)]
struct Report {
    cells: Vec<Cell>,
    empty: usize,
}

/// Boots the matrix and prints it.
pub fn report(args: &Args) -> Result<()> {
    let root = run::workspace_root();
    let (program, state_dir) = (root.join(&args.airlock), root.join(&args.state_dir));
    if !program.exists() {
        bail!("{} is missing: cargo build -p airlock, or name another with --airlock", program.display());
    }
    std::fs::create_dir_all(&state_dir).with_context(|| format!("create {}", state_dir.display()))?;
    let mut report = Report { cells: Vec::new(), empty: 0 };
    for (image, owner) in recipes(&root.join("images"), &args.only)? {
        let built = build(&program, &state_dir, &image);
        for naming in Naming::of(&image) {
            let tried = match &built {
                Ok(()) => cell::boot(&program, &state_dir, &image, naming),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            report.empty += usize::from(built.is_err());
            let (image, owner) = (image.clone(), owner.clone());
            let times = tried.as_ref().ok();
            let cell = Cell {
                image,
                owner,
                naming,
                ok: times.is_some(),
                reachable_ms: times.map(|times| times.reachable),
                network_ms: times.map(|times| times.network),
                failure: tried.as_ref().err().map(|error| format!("{error:#}")),
            };
            println!("{}", cell.line());
            report.cells.push(cell);
        }
    }
    let failed = report.cells.iter().filter(|cell| !cell.ok).count();
    println!("{} cells, {failed} not reachable, {} of them empty", report.cells.len(), report.empty);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    if failed > 0 {
        bail!("{failed} of {} cells are not reachable, named above", report.cells.len());
    }
    Ok(())
}

impl Cell {
    fn line(&self) -> String {
        let outcome = match (&self.reachable_ms, &self.failure) {
            (Some(ms), _) => {
                format!("reachable {ms:>6} ms, PID 1 to route_set {:>5} ms", self.network_ms.unwrap_or_default())
            }
            (None, failure) => format!("FAILED {}", failure.as_deref().unwrap_or_default()),
        };
        format!("{:<18} {:<26} {:<12} {outcome}", self.image, self.owner, self.naming.name())
    }
}

/// Name and owner of every recipe, or of those that are named.
fn recipes(dir: &Path, only: &[String]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "toml") || !(only.is_empty() || only.contains(&name)) {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        found.push((name, owner_of(&text).to_owned()));
    }
    found.sort();
    let names: BTreeSet<&String> = found.iter().map(|(name, _)| name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("{} has no recipe {unknown}", dir.display());
    }
    Ok(found)
}

/// What a recipe says of its network's owner.
fn owner_of(recipe: &str) -> &str {
    let value = recipe.lines().find_map(|line| line.strip_prefix("network_owner = "));
    value.map_or("airlock", |value| value.trim_matches('"'))
}

/// Always: what the cache has is not fetched again, and the guest programs in the image are those of this checkout.
fn build(program: &Path, state_dir: &Path, image: &str) -> Result<()> {
    let log = state_dir.join(format!("guests-{image}.log"));
    let mut command = Command::new(program);
    // It is booted below, again and again.
    command.args(["image", "build", image, "--no-boot-test", "--state-dir"]).arg(state_dir);
    run::run_logged(&mut command, &log).with_context(|| format!("build the image {image}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_in_the_matrix_with_its_owner() {
        let all = recipes(&run::workspace_root().join("images"), &[]).unwrap();
        let owner = |name: &str| all.iter().find(|(image, _)| image == name).map(|(_, owner)| owner.as_str());
        assert_eq!(owner("base"), Some("airlock"));
        assert_eq!(owner("net-generator"), Some("systemd-networkd-generator"));
        assert_eq!(owner("seed"), Some("script"));
        assert!(recipes(&run::workspace_root().join("images"), &["bsae".to_owned()]).is_err());
        for image in WITHOUT_PCI.iter().chain([&RENAMED]) {
            assert!(owner(image).is_some(), "{image}");
        }
        assert!(all.iter().all(|(image, _)| !Naming::of(image).is_empty()));
    }

    #[test]
    fn the_report_has_the_fields_of_the_design() {
        let cell = Cell {
            image: "base".into(),
            owner: "airlock".into(),
            naming: Naming::SecondNic,
            ok: true,
            reachable_ms: Some(4100),
            network_ms: Some(90),
            failure: None,
        };
        let report = Report { cells: vec![cell], empty: 0 };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"cells":[{"image":"base","owner":"airlock","naming":"second-nic","ok":true,"reachable_ms":4100}],"empty":0}"#
        );
    }
}
