//! The person in front of the viewer: `e2e/sign-in.mjs` in a browser of the host, which sees pixels and presses keys, nothing else.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Who signs in.
pub const USER: &str = "alice";
/// A secret that nothing may keep.
pub const PASSWORD: &str = "canary-password-7f3a";

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Where a test's pictures are kept.
pub fn artifacts(test: &str) -> PathBuf {
    let dir = std::env::var_os("E2E_ARTIFACTS").map_or_else(|| root().join("artifacts"), PathBuf::from).join(test);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Plays the person at the viewer's link; returns whether it went as it should and the last line of the script.
pub fn sign_in(url: &str, test: &str, more: &[&str]) -> (bool, Value) {
    let out = Command::new("node")
        .arg("e2e/sign-in.mjs")
        .args(["--url", url, "--user", USER, "--events-timeout", "240", "--artifacts"])
        .arg(artifacts(test))
        .args(more)
        .current_dir(root())
        .env("E2E_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{stdout}{stderr}");
    let last = stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    (out.status.success(), last.unwrap_or(Value::Null))
}
