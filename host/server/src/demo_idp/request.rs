//! Whether an authorization request may be shown a login form. Pure.

use std::net::IpAddr;

use serde::Deserialize;
use url::{Host, Url};

/// The parameters as they came (RFC 6749 section 4.1.1, RFC 7636 section 4.3).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuthorizeParams {
    pub response_type: String,
    pub client_id: String,
    pub redirect_uri: String,
    pub state: String,
    pub scope: String,
    pub code_challenge: String,
    pub code_challenge_method: String,
}

/// A redirect URI that asks for a page with the code on it, for a tool that a browser elsewhere cannot reach.
pub const SHOW_CODE: &str = "urn:ietf:wg:oauth:2.0:oob";

/// A request that may be answered with a code.
#[derive(Debug, Clone)]
pub struct AuthorizeRequest {
    pub client_id: String,
    /// As it was sent: the token request must repeat it byte by byte.
    pub redirect_uri: String,
    pub code_challenge: String,
    /// None: the code is shown.
    redirect: Option<Url>,
    /// The client's own mark, which goes back with the answer.
    pub state: String,
}

/// How a request is turned down.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The redirect cannot be trusted: say it here (RFC 6749 section 4.1.2.1).
    Page(&'static str),
    /// Send the browser back with the error.
    Redirect(String),
}

impl AuthorizeRequest {
    /// Checks everything that does not need the account.
    pub fn validate(params: &AuthorizeParams) -> Result<Self, Refused> {
        if !is_client_id(&params.client_id) {
            return Err(Refused::Page("client_id is missing or malformed"));
        }
        let redirect = match params.redirect_uri.as_str() {
            SHOW_CODE => None,
            text => Some(loopback(text).ok_or(Refused::Page(
                "redirect_uri must be http on a loopback address, like http://127.0.0.1:PORT/callback",
            ))?),
        };
        let request = Self {
            client_id: params.client_id.clone(),
            redirect_uri: params.redirect_uri.clone(),
            code_challenge: params.code_challenge.clone(),
            redirect,
            state: params.state.clone(),
        };
        let refuse = |error, why| {
            let pairs = [("error", error), ("error_description", why)];
            Err(request.redirect_with(&pairs).map_or(Refused::Page(why), Refused::Redirect))
        };
        if params.response_type != "code" {
            return refuse("unsupported_response_type", "response_type must be code");
        }
        if params.code_challenge_method != "S256" {
            return refuse("invalid_request", "code_challenge_method must be S256");
        }
        // 32 bytes of SHA-256 in base64url without padding.
        let is_challenge_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if params.code_challenge.len() != 43 || !params.code_challenge.chars().all(is_challenge_char) {
            return refuse("invalid_request", "code_challenge must be 43 characters of base64url");
        }
        Ok(request)
    }

    /// The redirect with these parameters and the client's state; none for a client that has no place to go back to.
    pub fn redirect_with(&self, pairs: &[(&str, &str)]) -> Option<String> {
        let mut url = self.redirect.clone()?;
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(pairs);
            if !self.state.is_empty() {
                query.append_pair("state", &self.state);
            }
        }
        Some(url.into())
    }

    /// Scheme, host and port of the redirect, for the page's `form-action`.
    pub fn redirect_origin(&self) -> Option<String> {
        Some(self.redirect.as_ref()?.origin().ascii_serialization())
    }
}

/// Whether a client may call itself so.
pub fn is_client_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// RFC 8252 section 7.3: http, loopback, any port; no user information, no fragment.
fn loopback(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_loopback = match url.host()? {
        Host::Ipv4(addr) => IpAddr::from(addr).is_loopback(),
        Host::Ipv6(addr) => IpAddr::from(addr).is_loopback(),
        Host::Domain(name) => name == "localhost",
    };
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (url.scheme() == "http" && is_loopback && plain && text.len() <= 2048).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_redirects_are_followed() {
        for good in
            ["http://127.0.0.1:1/cb", "http://127.8.0.1:65535/", "http://[::1]:8400/cb?x=1", "http://localhost:9/cb"]
        {
            assert!(loopback(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/cb",
            "https://127.0.0.1/cb",
            "http://example.com/cb",
            "http://127.0.0.1.example.com/cb",
            "http://localhost.example/cb",
            "http://127.0.0.1@example.com/cb",
            "http://u:p@127.0.0.1/cb",
            "http://127.0.0.1/cb#x",
            "javascript:alert(1)",
            "http://10.0.0.1/cb",
            "http://0.0.0.0/cb",
        ] {
            assert!(loopback(bad).is_none(), "{bad}");
        }
    }
}
