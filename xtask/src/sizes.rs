//! How long our files are: `crates`, the 90th percentile of lines per file, and every file over 800 lines.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::run;

/// A file longer than this is named in the report.
const LONG: usize = 800;

/// Options of `cargo xtask sizes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Report {
    crates: usize,
    p90_lines: usize,
    over_800: Vec<String>,
}

/// Counts every `.rs` file of the workspace.
pub fn report(args: &Args) -> Result<()> {
    let root = run::workspace_root();
    let mut files = Vec::new();
    let mut crates = 0;
    for top in ["common", "host", "guest", "xtask"] {
        walk(&root.join(top), &mut |path| {
            if path.file_name().is_some_and(|name| name == "Cargo.toml") {
                crates += 1;
            }
            if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        })?;
    }
    let mut lines = Vec::with_capacity(files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let shown = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        lines.push((shown, text.lines().count()));
    }
    let report = summarize(crates, &mut lines);
    println!("{} crates, {} files, p90 {} lines", report.crates, lines.len(), report.p90_lines);
    for name in &report.over_800 {
        println!("over {LONG} lines: {name}");
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn summarize(crates: usize, lines: &mut [(String, usize)]) -> Report {
    lines.sort_by_key(|(_, count)| *count);
    let p90_lines = lines.get((lines.len() * 9).div_ceil(10).saturating_sub(1)).map_or(0, |(_, count)| *count);
    let over_800 = lines.iter().filter(|(_, count)| *count > LONG).map(|(name, _)| name.clone()).collect();
    Report { crates, p90_lines, over_800 }
}

fn walk(dir: &Path, each: &mut impl FnMut(PathBuf)) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() != "target" {
                walk(&entry.path(), each)?;
            }
        } else {
            each(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninetieth_of_ten_is_the_ninth() {
        let mut lines: Vec<_> = (1..=10).rev().map(|n| (format!("f{n}"), n * 100)).collect();
        let report = summarize(2, &mut lines);
        assert_eq!(report, Report { crates: 2, p90_lines: 900, over_800: vec!["f9".into(), "f10".into()] });
    }

    #[test]
    fn no_file_is_no_division() {
        assert_eq!(summarize(0, &mut []).p90_lines, 0);
    }
}
