//! The authorization code flow: URL, browser, callback, token.

use std::net::SocketAddrV4;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::callback::Callback;
use super::{CLIENT_ID, DemoError, ISSUER_VARIABLE, PORT_VARIABLE, io, tokens};
use crate::http::percent_encode;

/// The authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Base URL without a slash at its end.
    pub url: String,
    /// Where it listens. An address, since static programs look no names up.
    pub addr: SocketAddrV4,
}

impl Issuer {
    /// The one that the environment names.
    pub fn named() -> Result<Self, DemoError> {
        Self::parse(&std::env::var(ISSUER_VARIABLE).map_err(|_| DemoError::NoIssuer)?)
    }

    /// Reads `http://ADDRESS:PORT`.
    pub fn parse(text: &str) -> Result<Self, DemoError> {
        let url = text.trim_end_matches('/').to_owned();
        let addr = url.strip_prefix("http://").and_then(|rest| rest.parse().ok());
        addr.map(|addr| Self { url: url.clone(), addr }).ok_or(DemoError::Issuer { issuer: text.to_owned() })
    }
}

/// One authorization request, as it is remembered until its answer.
#[derive(Debug)]
pub struct Request {
    /// Who is asked.
    pub issuer: Issuer,
    /// The code verifier (RFC 7636 section 4.1).
    pub verifier: String,
    /// The mark by which the answer is known as this request's.
    pub state: String,
}

impl Request {
    /// A request that nobody made before.
    pub fn new() -> Result<Self, DemoError> {
        Ok(Self { issuer: Issuer::named()?, verifier: random_text()?, state: random_text()? })
    }

    /// Tells the person the page whose answer goes to `redirect_uri`, and opens it.
    pub fn show(&self, redirect_uri: &str) {
        let url = authorize_url(&self.issuer, redirect_uri, &self.state, &self.verifier);
        println!("Signing in at {}", self.issuer.url);
        println!("If the browser didn't open, visit: {url}");
        open_browser(&url);
    }
}

/// Signs in by way of the browser. Returns the account's name.
pub fn login() -> Result<String, DemoError> {
    let request = Request::new()?;
    let callback = Callback::listen(port()?).map_err(io("listen for the callback"))?;
    request.show(&callback.redirect_uri());
    let code = callback.wait(&request.state)?;
    let tokens = tokens::exchange(&request.issuer, &code, &callback.redirect_uri(), &request.verifier)?;
    tokens.save()?;
    Ok(tokens.account)
}

/// The port that the environment names; 0, for which the kernel picks one, without it.
fn port() -> Result<u16, DemoError> {
    let Ok(port) = std::env::var(PORT_VARIABLE) else { return Ok(0) };
    port.parse().map_err(|_| DemoError::Port { port })
}

fn authorize_url(issuer: &Issuer, redirect_uri: &str, state: &str, verifier: &str) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    format!(
        "{}/authorize?response_type=code&client_id={CLIENT_ID}&redirect_uri={}&scope=demo&state={state}&code_challenge={challenge}&code_challenge_method=S256",
        issuer.url,
        percent_encode(redirect_uri),
    )
}

/// 32 random bytes as unreserved characters: a code verifier (RFC 7636 section 4.1) or a state.
fn random_text() -> Result<String, DemoError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A browser that does not start is no failure: the person has the URL.
pub fn open_browser(url: &str) {
    let Ok(browser) = std::env::var("BROWSER") else { return };
    let child = Command::new(browser).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Ok(mut child) = child {
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_the_documented_one() {
        let issuer = Issuer::parse("http://192.168.100.1:4080/").unwrap();
        // Verifier and challenge of RFC 7636 appendix B.
        let url = authorize_url(
            &issuer,
            "http://127.0.0.1:40001/callback",
            "s",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        );
        assert_eq!(
            url,
            "http://192.168.100.1:4080/authorize?response_type=code&client_id=airlock-demo\
             &redirect_uri=http%3A%2F%2F127.0.0.1%3A40001%2Fcallback&scope=demo&state=s\
             &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
        );
    }

    #[test]
    fn refuses_an_issuer_it_cannot_reach() {
        for bad in ["", "https://1.2.3.4:1", "http://idp.example:80", "http://1.2.3.4"] {
            assert!(Issuer::parse(bad).is_err(), "{bad}");
        }
    }
}
