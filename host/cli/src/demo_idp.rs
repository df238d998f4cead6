//! `airlock demo-idp`: the demo identity provider alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use airlock_server::demo_idp::{Account, serve_until};
use airlock_server::shutdown_signal;
use clap::Args;

use crate::config::random_password;
use crate::daemon;
use crate::failure::{FAILED, Failure, Outcome};
use crate::output::line;

#[derive(Debug, Args)]
pub struct DemoIdpArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:4080", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The one account's name
    #[arg(long, default_value = "alice")]
    pub user: String,
}

/// The password comes from `AIRLOCK_DEMO_PASSWORD`, which unlike an argument does not show in the process list; else it is random.
pub async fn run(args: DemoIdpArgs) -> Outcome {
    let listener = daemon::bind(args.listen).await?;
    let address = listener.local_addr().unwrap_or(args.listen);
    line(format!("demo identity provider on http://{address}"));
    let account = match std::env::var("AIRLOCK_DEMO_PASSWORD") {
        Ok(password) if !password.is_empty() => Account::new(&args.user, &password),
        _ => {
            let password = random_password()?;
            line(format!("demo account   user {}   password {password}", args.user));
            Account::new(&args.user, &password)
        }
    };
    serve_until(account, listener, async {
        shutdown_signal().await;
    })
    .await
    .map_err(|error| Failure::new(FAILED, "listener_failed", format!("serve on {address}"), "").because(&error))?;
    Ok(ExitCode::SUCCESS)
}
