//! Builds the guest programs statically and embeds them, and embeds the recipes below `images/`.
//!
//! The guest programs are built by a second cargo into `target/guest` (a target directory of its own: sharing the outer
//! one would wait forever for its lock). `AIRLOCK_BUILD_ID` is a hash of everything they are made of; the guest programs
//! and this crate see the same value, so a running agent can be compared with the image it came from.
//!
//! A failure (guest code that does not compile, a program that needs an interpreter) fails the build of this crate.
//! `AIRLOCK_GUEST_DIR` names a directory of guest programs that were built elsewhere; then nothing is compiled here.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

#[allow(dead_code, reason = "the crate uses more of it")]
#[path = "src/elf.rs"]
mod elf;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the guest programs are made of, below the workspace root.
const GUEST_SOURCES: &[&str] = &["guest", "common/protocol", "Cargo.lock"];

fn main() -> Fallible<()> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let build_id = hash_sources(&workspace)?;
    println!("cargo::rustc-env=AIRLOCK_BUILD_ID={build_id}");
    // The profile of the guest programs stands here; it is not part of the id because most of the file is not about them.
    println!("cargo::rerun-if-changed={}", workspace.join("Cargo.toml").display());
    println!("cargo::rerun-if-env-changed=AIRLOCK_GUEST_DIR");

    let programs = match env::var_os("AIRLOCK_GUEST_DIR") {
        Some(dir) => prebuilt_programs(Path::new(&dir))?,
        None => build_programs(&workspace, &build_id)?,
    };
    embed_programs(&programs, &out)?;
    embed_recipes(&workspace.join("images"), &out)
}

/// Sixteen hex digits over path and content of every guest source, in the order of their paths.
fn hash_sources(workspace: &Path) -> Fallible<String> {
    let mut files = Vec::new();
    for source in GUEST_SOURCES {
        let path = workspace.join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        collect_files(&path, &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file)?;
        let name = file.strip_prefix(workspace)?.to_string_lossy().into_owned();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    let mut id = String::new();
    for byte in &hash.finalize()[..8] {
        write!(id, "{byte:02x}")?;
    }
    Ok(id)
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Fallible<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect_files(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

fn build_programs(workspace: &Path, build_id: &str) -> Fallible<Vec<PathBuf>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--locked", "--profile", "guest", "--target", TARGET]);
    cargo.args(["-p", "airlock-init", "-p", "airlock-agent", "--message-format", "json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(workspace.join("target/guest"));
    // What the outer cargo (or clippy) sets for this crate must not reach the guest's compiler.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        cargo.env_remove(name);
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("AIRLOCK_BUILD_ID", build_id);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        let last = workspace.join("target/guest").join(TARGET).join("guest");
        let hint = format!("AIRLOCK_GUEST_DIR={} takes the last that compiled", last.display());
        return Err(format!("cargo build of the guest programs: {}; {hint}", output.status).into());
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if let Some(path) = message["executable"].as_str() {
            programs.push(PathBuf::from(path));
        }
    }
    programs.sort();
    Ok(programs)
}

fn prebuilt_programs(dir: &Path) -> Fallible<Vec<PathBuf>> {
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut programs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("airlock-"));
        if named && path.is_file() && path.extension().is_none() {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

/// Copies the programs beside the generated code, so that what was checked is what is embedded.
fn embed_programs(programs: &[PathBuf], out: &Path) -> Fallible<()> {
    let mut code = String::from("static PROGRAMS: &[GuestProgram] = &[\n");
    let mut names = Vec::new();
    for program in programs {
        let name = program.file_name().and_then(|name| name.to_str()).ok_or("a guest program has no name")?;
        let bytes = fs::read(program)?;
        elf::check_static(&bytes).map_err(|err| format!("{}: {err}", program.display()))?;
        let copy = out.join(name);
        fs::write(&copy, bytes)?;
        writeln!(code, "    GuestProgram {{ name: {name:?}, bytes: include_bytes!({copy:?}) }},")?;
        names.push(name.to_owned());
    }
    for wanted in ["airlock-init", "airlock-agent"] {
        if !names.iter().any(|name| name == wanted) {
            return Err(format!("the guest programs {names:?} lack {wanted}").into());
        }
    }
    code.push_str("];\n");
    fs::write(out.join("guest_programs.rs"), code)?;
    Ok(())
}

/// A table of `images/<name>.toml` with the files of `images/<name>/`.
fn embed_recipes(images: &Path, out: &Path) -> Fallible<()> {
    println!("cargo::rerun-if-changed={}", images.display());
    let mut recipes: Vec<PathBuf> =
        fs::read_dir(images)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    recipes.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    recipes.sort();
    let mut code = String::from("static EMBEDDED: &[Embedded] = &[\n");
    for recipe in recipes {
        let name = recipe.file_stem().and_then(|name| name.to_str()).ok_or("a recipe has no name")?;
        let mut files = Vec::new();
        let dir = images.join(name);
        if dir.is_dir() {
            collect_files(&dir, &mut files)?;
        }
        files.sort();
        writeln!(code, "    Embedded {{ name: {name:?}, text: include_str!({recipe:?}), files: &[")?;
        for file in files {
            let relative = file.strip_prefix(images)?;
            writeln!(code, "        ({relative:?}, include_bytes!({file:?})),")?;
        }
        code.push_str("    ] },\n");
    }
    code.push_str("];\n");
    fs::write(out.join("recipes.rs"), code)?;
    Ok(())
}
