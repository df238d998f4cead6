//! `airlock up`: from a fresh machine to a running daemon with a demo sign-in, in the foreground.
//!
//! doctor, then images, then daemon, then sign-in. Each step that cannot be taken ends the command with its remedy. The end of the
//! demo sign-in does not end the daemon.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use airlock_domain::config::Config;
use airlock_effects::doctor::examine;
use airlock_image::{LoadedRecipe, Registry};
use airlock_server::{prepare, serve, shutdown_signal};
use clap::Args;

use crate::args::Global;
use crate::client::Client;
use crate::doctor::{self, IMAGES};
use crate::failure::{FAILED, Failure, Outcome};
use crate::follow::follow;
use crate::image::How;
use crate::login::{self, Shown};
use crate::output::{line, print_failure};
use crate::{config, daemon, image};

/// Whose sign-in the demo is.
const DEMO_USER: &str = "demo";
const DEMO_PROVIDER: &str = "demo";

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Address of the HTTP API [default: 127.0.0.1:4000]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Start no demo sign-in
    #[arg(long)]
    pub no_demo: bool,
}

pub async fn run(global: &Global, args: UpArgs) -> Outcome {
    let mut config = config::load(global, args.listen)?;
    config.demo_idp.enabled = true;
    check_host(&config).await?;
    build_missing(&config).await?;
    let demo_password = config::choose_demo_password(&mut config)?;

    let (engine, listener) = daemon::open(config).await?;
    if let Some(password) = demo_password {
        password.tell()?;
    }
    let token_path = prepare(&engine).await?;
    let address = format!("http://{}", engine.config().listen);
    line(format!("serving on {address}   admin token in {}", token_path.display()));
    let token = std::fs::read_to_string(&token_path).map_err(|error| {
        Failure::new(FAILED, "token_missing", format!("read the token {}", token_path.display()), "").because(&error)
    })?;
    let demo = (!args.no_demo).then(|| {
        let (address, state_dir) = (address.clone(), engine.config().state_dir.clone());
        tokio::spawn(async move {
            if let Err(failure) = demo_sign_in(&address, token.trim().to_owned(), &state_dir).await {
                print_failure(&failure, false);
                line("the daemon goes on; press Ctrl-C to end it");
            }
        })
    });
    serve(engine, listener, shutdown_signal()).await?;
    if let Some(demo) = demo {
        demo.abort();
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends with every remedy on screen if a start would fail.
async fn check_host(config: &Config) -> Outcome<()> {
    let facts = examine(&config.state_dir, &config.network).await;
    facts.iter().filter(|fact| !fact.ok).for_each(doctor::print);
    let failed: Vec<&str> = facts.iter().filter(|fact| !doctor::is_fine(fact)).map(|fact| fact.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("this host cannot run Airlock: {}", failed.join(", "));
    Err(Failure::new(FAILED, "host_not_ready", message, "follow the remedies above; airlock doctor checks again"))
}

/// Builds what is not there or was made by another recipe or other guest programs.
async fn build_missing(config: &Config) -> Outcome<()> {
    let registry = Registry::open(&config.state_dir)?;
    let how = How { refresh: false, boot_test: true, wait: true, quiet: false };
    for name in IMAGES {
        let recipe = LoadedRecipe::load(name)?;
        match registry.find(name) {
            Ok(image) if image.is_up_to_date(&recipe)? => line(format!("image {name}   {}", image.reference())),
            _ => drop(image::build_one(config, name, how).await?),
        }
    }
    Ok(())
}

async fn demo_sign_in(address: &str, token: String, state_dir: &Path) -> Outcome<()> {
    let client = Client::new(address, token)?;
    let started = login::start(&client, DEMO_USER, DEMO_PROVIDER).await?;
    line(format!("demo sign-in {}   {}", started.session_id, login::place(&started)));
    line(format!("open the viewer (the link works once): {}", started.novnc_url));
    let mut shown = Shown::new(&started, false);
    shown.link_is_known();
    let session = follow(&client, &started.session_id, |event| shown.event(event)).await?;
    drop(shown);
    login::outcome(&session)?;
    let state_dir = state_dir.display();
    line(format!("see it with: airlock credentials ls {DEMO_USER} --server {address} --state-dir {state_dir}"));
    line("the daemon goes on; press Ctrl-C to end it");
    Ok(())
}
