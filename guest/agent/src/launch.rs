//! `airlock-agent launch USER TTY COMMAND...`: becomes USER in a session of its own, on TTY, and then the command.
//!
//! A program of its own between the agent and the tool, so that the agent needs no code between fork and exec. TTY is a
//! path or `-` for none. It dumps no core. The environment is what the agent gave. It ends with 126 or 127 as a shell would, saying why.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use airlock_protocol::accounts::Account;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execvp, setgid, setgroups, setsid, setuid};

/// Looks a user up in the running guest.
pub fn account(name: &str) -> io::Result<Account> {
    Account::look_up(name, |path| fs::read_to_string(path))
}

/// The program; `args` are what stands behind `launch`. Returns only on failure.
pub fn main(args: &[String]) -> ExitCode {
    let [user, tty, command @ ..] = args else {
        eprintln!("usage: airlock-agent launch USER TTY COMMAND...");
        return ExitCode::from(2);
    };
    match launch(user, tty, command) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("start {}: {error}", command.first().map_or("nothing", String::as_str));
            ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

fn launch(user: &str, tty: &str, command: &[String]) -> io::Result<std::convert::Infallible> {
    let account = account(user)?;
    // A core file would hold what the tool had in memory, and a guest keeps nothing of that anywhere else.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setsid()?;
    if tty != "-" {
        // A session leader without a terminal gets the one it opens (tty(4)).
        let terminal = OpenOptions::new().read(true).write(true).open(tty)?;
        dup2_stdin(&terminal)?;
        dup2_stdout(&terminal)?;
        dup2_stderr(&terminal)?;
    }
    if account.uid != Uid::effective().as_raw() {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(account.gid))?;
        setuid(Uid::from_raw(account.uid))?;
    }
    // $HOME rather than the account's: a test gives another one.
    let home = std::env::var("HOME").unwrap_or(account.home);
    if chdir(Path::new(&home)).is_err() {
        chdir("/")?;
    }
    let argv: Vec<CString> = command.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<_, _>>()?;
    let program = argv.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    Ok(execvp(program, &argv)?)
}
