//! `airlock net exec`: a command inside the installation's network namespace, its exit code passed on.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use airlock_effects::netns::Netns;
use clap::Subcommand;

use crate::args::Global;
use crate::config;
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};

/// What a shell answers for a program that does not exist, and for one that cannot be run.
const COMMAND_NOT_FOUND: u8 = 127;
const COMMAND_NOT_RUN: u8 = 126;

#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Run a command where the guests can be reached, e.g. airlock net exec -- curl http://192.168.100.8:8080/health
    Exec {
        /// Namespace [default: that of the configuration]
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
        /// Program and arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

pub async fn run(global: &Global, command: NetCommand) -> Outcome {
    let NetCommand::Exec { namespace, command } = command;
    let name = match namespace {
        Some(name) => name,
        None => config::load(global, None)?.network.namespace,
    };
    if !Netns::exists(&name) {
        let message = format!("there is no network namespace {name:?}");
        let remedy = "start the daemon, which makes it, or name another with --namespace";
        return Err(Failure::new(NOT_FOUND, "namespace_missing", message, remedy));
    }
    let inside = |error: &dyn std::error::Error| {
        Failure::new(FAILED, "namespace_unusable", format!("enter namespace {name:?}"), "run as root").because(error)
    };
    let netns = Netns::open(&name).map_err(|error| inside(&error))?;
    // A child is in the namespace of the thread that forks it, and that thread lives in this one.
    let (program, args) =
        command.split_first().map(|(program, args)| (program.clone(), args.to_vec())).unwrap_or_default();
    let ran = netns
        .call(move || (Command::new(&program).args(args).status(), program))
        .await
        .map_err(|error| inside(&error))?;
    match ran {
        (Ok(status), _) => Ok(ExitCode::from(code_of(status))),
        (Err(error), program) => {
            let exit = if error.kind() == io::ErrorKind::NotFound { COMMAND_NOT_FOUND } else { COMMAND_NOT_RUN };
            let remedy = "name a program that is in PATH";
            Err(Failure::new(exit, "command_not_run", format!("run {program:?}"), remedy).because(&error))
        }
    }
}

/// A signal counts as 128 and its number, as in a shell.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
    }
}
