//! `airlock serve`: the daemon.

use std::net::SocketAddr;
use std::process::ExitCode;

use airlock_engine::{OpenError, providers};
use airlock_server::{prepare, serve, shutdown_signal};
use clap::Args;
use serde_json::json;

use crate::args::Global;
use crate::config;
use crate::daemon;
use crate::failure::Outcome;
use crate::output::{json_line, line, result};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of the HTTP API [default: 127.0.0.1:4000]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Check the configuration and end
    #[arg(long)]
    pub check_config: bool,
}

pub async fn run(global: &Global, args: ServeArgs) -> Outcome {
    let mut config = config::load(global, args.listen)?;
    if args.check_config {
        providers::read(&config).map_err(OpenError::Providers)?;
        config.demo_idp.password = config.demo_idp.password.map(|_| "[redacted]".to_owned());
        return Ok(result(global.json, &json!({"ok": true, "config": config}), || line("the configuration is valid")));
    }
    let demo_password = config::choose_demo_password(&mut config)?;
    let (engine, listener) = daemon::open(config).await?;
    if let Some(password) = demo_password {
        password.tell()?;
    }
    let token = prepare(&engine).await?;
    let address = format!("http://{}", engine.config().listen);
    let state_dir = engine.config().state_dir.clone();
    // Printed once everything is open, so a starter may wait for this line.
    if global.json {
        json_line(&json!({"event": "serving", "address": address, "stateDir": state_dir, "adminToken": token}));
    } else {
        line(format!("serving on {address}   state {}   admin token in {}", state_dir.display(), token.display()));
    }
    serve(engine, listener, shutdown_signal()).await?;
    if global.json {
        json_line(&json!({"event": "ended"}));
    }
    Ok(ExitCode::SUCCESS)
}
