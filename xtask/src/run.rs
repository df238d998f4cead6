//! Runs other programs and says what failed: the command line, its status and what it wrote last.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The checkout this xtask was built from.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Runs a command to its end; its output is shown only if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    if !out.status.success() {
        bail!("{shown} ended with {}\n{}", out.status, tail(&String::from_utf8_lossy(&out.stderr), 20));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a long command to its end with all its output in `log`.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let shown = format!("{command:?}");
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let both = file.try_clone().context("share the log between stdout and stderr")?;
    let status =
        command.stdin(Stdio::null()).stdout(file).stderr(both).status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        bail!("{shown} ended with {status}; its log is {}\n{}", log.display(), tail(&text, 20));
    }
    Ok(())
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
