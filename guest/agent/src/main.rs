//! In-guest service: health, control channel, login, capture. One static program with several names:
//!
//! | called as | is |
//! |---|---|
//! | `airlock-agent` | the service |
//! | `airlock-agent launch USER TTY COMMAND...` | a child of the service that becomes a user on a terminal, then the command |
//! | `airlock-open`, `xdg-open` | the `BROWSER` shim |
//! | `airlock-demo-tool` | the OAuth client of the provider `demo` |

use std::process::ExitCode;

use airlock_agent::{demo_tool, launch, open_shim, service};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called_as = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match called_as.rsplit('/').next().unwrap_or_default() {
        "airlock-open" | "xdg-open" => open_shim::main(&args),
        "airlock-demo-tool" => demo_tool::main(&args),
        _ if args.first().is_some_and(|arg| arg == "launch") => launch::main(&args[1..]),
        _ => service::main(),
    }
}
