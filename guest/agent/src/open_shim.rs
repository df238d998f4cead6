//! The `BROWSER` program: `airlock-open URL` hands the URL to the agent and ends.
//!
//! Also called `xdg-open`, which tools run that do not look at `BROWSER`. It prints nothing: a URL is a secret. If the
//! agent cannot be reached it ends with 1, and the tool shows the URL on its terminal, where the agent finds it too.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use airlock_protocol::paths::GUEST_OPEN_SOCKET;

/// Names another socket than [`GUEST_OPEN_SOCKET`].
pub const SOCKET_VARIABLE: &str = "AIRLOCK_OPEN_SOCKET";

/// The program.
pub fn main(args: &[String]) -> ExitCode {
    let Some(url) = args.iter().find(|arg| arg.contains("://")) else {
        return ExitCode::from(2);
    };
    let path = std::env::var_os(SOCKET_VARIABLE).map_or_else(|| PathBuf::from(GUEST_OPEN_SOCKET), PathBuf::from);
    let sent = UnixStream::connect(path).and_then(|mut stream| stream.write_all(format!("{url}\n").as_bytes()));
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
