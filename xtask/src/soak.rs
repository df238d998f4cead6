//! `cargo xtask soak viewer`: a person in front of a real machine for a long time (`e2e/vm-soak.mjs`), with an input every 20 seconds that
//! a site outside of the machine writes down.
//!
//! It fails with the first input that is lost and when the screen was ever not connected. Daemon, machine and namespaces are removed on
//! every way out.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use airlock_api::session::StartResponse;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::daemon::{Daemon, Wanted};
use crate::faults::outside::{FAR, Outside};
use crate::run;

/// What stays.
#[derive(Debug, clap::Subcommand)]
pub enum Soak {
    /// A person with a viewer.
    Viewer(Args),
}

/// Options of `cargo xtask soak viewer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the person stays.
    #[arg(long, default_value_t = 30)]
    minutes: u32,
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds the golden images.
    #[arg(long, default_value = "target/test-state")]
    state_dir: PathBuf,
    /// Directory with the scripts of the person.
    #[arg(long, default_value_os_t = run::workspace_root().join("e2e"))]
    e2e: PathBuf,
    /// Where pictures are put.
    #[arg(long, default_value_os_t = run::workspace_root().join("artifacts/viewer-soak"))]
    artifacts: PathBuf,
    /// Print one JSON object as the last line. It is printed anyway: everything else goes before it.
    #[arg(long)]
    json: bool,
}

/// Runs a soak.
pub fn run(soak: &Soak) -> Result<()> {
    let Soak::Viewer(args) = soak;
    viewer(args)
}

fn viewer(args: &Args) -> Result<()> {
    let outside = Outside::open()?;
    let network = format!("[network.egress]\nuplink = \"namespace:{}\"\n", outside.lender);
    // The session is shorter than the soak, so that the person has to ask for more time.
    let config = "provider_images = { shell = \"browser\" }\nboot_deadline_s = 150\n";
    let wanted = Wanted { name: "soak", config, network: &network, ..Wanted::default() };
    let images = args.state_dir.canonicalize().with_context(|| format!("find {}", args.state_dir.display()))?;
    let daemon = Daemon::start(&args.airlock, &images, &wanted)?;
    let body = r#"{"userId": "soak", "provider": "shell"}"#;
    let started: StartResponse = daemon.call("POST", "/api/auth/start", Some(body))?;

    let person = Command::new("node")
        .arg("vm-soak.mjs")
        .args(["--url", &started.novnc_url, "--site-namespace", &outside.far, "--site", FAR])
        .args(["--minutes", &args.minutes.to_string()])
        .arg("--artifacts")
        .arg(&args.artifacts)
        .current_dir(&args.e2e)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start node")?;
    let said = String::from_utf8_lossy(&person.stdout);
    print!("{said}");
    if !person.status.success() {
        let session: Value = daemon.call("GET", &format!("/api/auth/session/{}", started.session_id), None)?;
        bail!("the person was interrupted; the session is {}\n{}", session["state"], run::tail(&daemon.log(), 20));
    }
    Ok(())
}
