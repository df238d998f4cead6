//! The device flow (RFC 8628): the tool shows a code, the person types it on the server's page, the tool asks until it is decided.

use std::time::Duration;

use serde::Deserialize;

use super::authorization::{Issuer, open_browser};
use super::tokens::{Refusal, ask, post};
use super::{CLIENT_ID, DemoError};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// What `slow_down` adds (RFC 8628 section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// The server's answer (RFC 8628 section 3.2).
#[derive(Deserialize)]
struct Begun {
    device_code: String,
    user_code: String,
    verification_uri: String,
    #[serde(default = "five")]
    interval: u64,
}

fn five() -> u64 {
    5
}

/// Signs in. Returns the account's name.
pub fn login() -> Result<String, DemoError> {
    let issuer = Issuer::named()?;
    let begun = post(&issuer, "/device_authorization", &[("client_id", CLIENT_ID), ("scope", "demo")])?;
    let Begun { device_code, user_code, verification_uri, interval } =
        begun.map_err(|Refusal { error, .. }| DemoError::Refused { error })?;
    println!("Open {verification_uri} on any device and type the code {user_code}");
    open_browser(&verification_uri);

    let mut pause = Duration::from_secs(interval);
    let form = [("grant_type", GRANT_TYPE), ("device_code", device_code.as_str()), ("client_id", CLIENT_ID)];
    loop {
        // The server says how often it wants to be asked; nothing else tells the decision.
        std::thread::sleep(pause);
        match ask(&issuer, &form)? {
            Ok(tokens) => {
                tokens.save()?;
                return Ok(tokens.account);
            }
            Err(Refusal { error, .. }) => match error.as_str() {
                "authorization_pending" => {}
                "slow_down" => pause += SLOWER,
                _ => return Err(DemoError::Refused { error }),
            },
        }
    }
}
