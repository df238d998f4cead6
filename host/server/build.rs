//! Builds the viewer and the operator page (ui/) with npm and hands the three files of each to `src/assets.rs`.
//!
//! Needs Node.js and npm. `npm ci` runs only when node_modules does not belong to the lock file. A failure says which command
//! failed and what to do; it never embeds an older page.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// What the pages consist of.
const FILES: [&str; 6] = ["viewer.html", "viewer.js", "viewer.css", "operator.html", "operator.js", "operator.css"];
/// Copy of the lock file that node_modules was made from.
const INSTALLED_LOCK: &str = "node_modules/.airlock-installed-lock";

enum BuildError {
    NpmMissing(io::Error),
    NpmFailed { command: String, output: String },
    File { doing: &'static str, path: PathBuf, source: io::Error },
}

impl BuildError {
    fn lines(&self) -> String {
        match self {
            Self::NpmMissing(source) => {
                format!(
                    "run npm: {source}\nremedy: install Node.js 18 or newer with npm (Debian: apt-get install nodejs npm)"
                )
            }
            Self::NpmFailed { command, output } => format!("npm {command} failed in ui/:\n{output}"),
            Self::File { doing, path, source } => format!("{doing} {}: {source}", path.display()),
        }
    }
}

fn main() {
    if let Err(error) = run() {
        for line in error.lines().lines() {
            println!("cargo::error=web pages: {line}");
        }
        std::process::exit(1);
    }
}

fn run() -> Result<(), BuildError> {
    let ui = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../ui");
    for input in ["src", "build.mjs", "package.json", "package-lock.json"] {
        println!("cargo::rerun-if-changed={}", ui.join(input).display());
    }
    let lock = read(&ui.join("package-lock.json"))?;
    let installed = ui.join(INSTALLED_LOCK);
    if fs::read(&installed).ok().as_ref() != Some(&lock) {
        npm(&ui, &["ci", "--no-audit", "--no-fund"])?;
        fs::write(&installed, &lock).map_err(|source| BuildError::File { doing: "write", path: installed, source })?;
    }
    npm(&ui, &["run", "build", "--silent"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for name in FILES {
        let (from, to) = (ui.join("dist").join(name), out.join(name));
        let text = read(&from)?;
        fs::write(&to, text).map_err(|source| BuildError::File { doing: "write", path: to, source })?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|source| BuildError::File { doing: "read", path: path.to_owned(), source })
}

fn npm(ui: &Path, args: &[&str]) -> Result<(), BuildError> {
    let run = Command::new("npm").args(args).current_dir(ui).output().map_err(BuildError::NpmMissing)?;
    if run.status.success() {
        return Ok(());
    }
    let output = [run.stdout, run.stderr].concat();
    Err(BuildError::NpmFailed { command: args.join(" "), output: String::from_utf8_lossy(&output).into_owned() })
}
