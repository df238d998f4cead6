//! The airlock binary: daemon, client and local tools. One file per subcommand; errors are printed once, here.

mod args;
mod audit;
mod client;
mod config;
mod credentials;
mod daemon;
mod demo_idp;
mod desktop;
mod diagnose;
mod doctor;
mod evidence;
mod export;
mod failure;
mod follow;
mod image;
mod login;
mod login_news;
mod net;
mod output;
mod progress;
mod provider;
mod reconcile;
mod serve;
mod session;
mod token;
mod up;
mod vault;
mod vm;

use std::process::ExitCode;

use airlock_effects::secret::WipingAllocator;
use args::{Cli, Command};
use clap::Parser;

/// What passes through this program may be a credential: nothing of it stays in memory that was given back.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    output::init_log(&cli.command);
    let global = cli.global;
    let json = global.json;
    let outcome = match cli.command {
        Command::Up(args) => up::run(&global, args).await,
        Command::Serve(args) => serve::run(&global, args).await,
        Command::Doctor => doctor::run(&global).await,
        Command::Diagnose(args) => diagnose::run(&global, args).await,
        Command::Login(args) => login::run(&global, args).await,
        Command::Session(command) => session::run(&global, command).await,
        Command::Provider(command) => provider::run(&global, command).await,
        Command::Vm(command) => vm::run(&global, command).await,
        Command::Image(command) => image::run(&global, command).await,
        Command::Credentials(command) => credentials::run(&global, command).await,
        Command::Evidence(command) => evidence::run(&global, command).await,
        Command::Token(command) => token::run(&global, command).await,
        Command::Vault(command) => vault::run(&global, command).await,
        Command::Audit(command) => audit::run(&global, command).await,
        Command::Reconcile(args) => reconcile::run(&global, args).await,
        Command::Net(command) => net::run(&global, command).await,
        Command::DemoIdp(args) => demo_idp::run(args).await,
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => output::print_failure(&failure, json),
    }
}
