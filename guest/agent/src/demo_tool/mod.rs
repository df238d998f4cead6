//! `airlock-demo-tool`: a small OAuth client for native apps (RFC 8252) with PKCE (RFC 7636), as a command-line tool
//! that people sign in with has one: `login` and `status`. `login` waits for the browser on a port of its own, `login --paste` asks
//! for the code that the server's page shows, `login --device` shows one for that page.
//!
//! A refusal or a failure prints one line and ends with 1; nothing secret is printed except the URL that the person needs.

mod authorization;
mod callback;
mod device;
mod paste;
mod tokens;

use std::process::ExitCode;

/// Names the authorization server, e.g. `http://192.168.100.1:4080`.
pub const ISSUER_VARIABLE: &str = "AIRLOCK_DEMO_ISSUER";
/// Names the port of the callback; another one at every login without it.
pub const PORT_VARIABLE: &str = "AIRLOCK_DEMO_CALLBACK_PORT";
/// Client id at the authorization server.
pub const CLIENT_ID: &str = "airlock-demo";

/// What is said of a code that is not taken.
const WRONG_CODE: &str = "That code is not right";

/// Why a login or a status failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The environment names no server.
    #[error("{ISSUER_VARIABLE} is not set")]
    NoIssuer,
    /// The server's address cannot be used.
    #[error("{issuer} is not http://ADDRESS:PORT")]
    Issuer {
        /// What was given.
        issuer: String,
    },
    /// The callback's port is no port.
    #[error("{PORT_VARIABLE} is {port:?}: expected a port")]
    Port {
        /// What was given.
        port: String,
    },
    /// Random bytes cannot be had.
    #[error("get random bytes")]
    Random(#[from] getrandom::Error),
    /// Something on this machine failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The person or the server said no.
    #[error("Sign-in refused: {error}")]
    Refused {
        /// The server's error code (RFC 6749 section 4.1.2.1).
        error: String,
    },
    /// Nobody brought a code that the server takes.
    #[error("{WRONG_CODE}. Start again")]
    Code,
    /// The token endpoint said no.
    #[error("The server did not accept the code: HTTP {status} {error}")]
    Token {
        /// HTTP status.
        status: u16,
        /// Its error code (RFC 6749 section 5.2).
        error: String,
    },
    /// The server's answer is not what was asked for.
    #[error("The server's answer cannot be read")]
    Answer(#[from] serde_json::Error),
    /// Nobody is logged in.
    #[error("Not logged in")]
    NotLoggedIn,
}

/// For `map_err` on I/O.
fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}

/// The program.
pub fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["login"] => authorization::login(),
        ["login", "--paste"] => paste::login(),
        ["login", "--device"] => device::login(),
        ["status"] => tokens::status(),
        _ => {
            eprintln!("usage: airlock-demo-tool login [--paste|--device] | status");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(account) => {
            println!("Logged in as {account}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "{error}{}",
                std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}
