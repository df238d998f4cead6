//! Client of the daemon's API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_api::{ErrorBody, ErrorDetail};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::config;
use crate::failure::{FAILED, Failure, Outcome, REFUSED, USAGE};

const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer that is no stream: a cancel waits for the machine's end, the first start for the probe guest.
const ANSWER: Duration = Duration::from_secs(180);

/// The daemon as this user may use it.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// The client of the global flags. The token is that of `AIRLOCK_TOKEN`, else the state directory's `admin.token`.
    pub fn open(global: &Global) -> Outcome<Self> {
        let token = match std::env::var("AIRLOCK_TOKEN") {
            Ok(token) if !token.is_empty() => token,
            _ => read_token(&config::state_dir(global)?.join("admin.token"))?,
        };
        Self::new(&global.server, token)
    }

    /// A client with a known token.
    pub fn new(server: &str, token: String) -> Outcome<Self> {
        if !server.starts_with("http://") {
            let remedy = "give --server as http://HOST:PORT; behind TLS use a local forward";
            return Err(Failure::new(USAGE, "bad_server", format!("{server:?} is not an http:// address"), remedy));
        }
        // The daemon is local or named by hand: a proxy of the environment has no part in it.
        let http = reqwest::Client::builder().connect_timeout(CONNECT).no_proxy().build();
        let http =
            http.map_err(|error| Failure::new(FAILED, "client_failed", "make an HTTP client", "").because(&error))?;
        Ok(Self { http, base: server.trim_end_matches('/').to_owned(), token })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.json(self.request(Method::GET, path).timeout(ANSWER)).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Outcome<T> {
        self.json(self.request(Method::POST, path).timeout(ANSWER).json(body)).await
    }

    /// A POST that the daemon carries out once however often it arrives.
    pub async fn post_once<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, key: &str) -> Outcome<T> {
        self.json(self.request(Method::POST, path).timeout(ANSWER).header("Idempotency-Key", key).json(body)).await
    }

    /// A POST that is answered with nothing.
    pub async fn post_empty(&self, path: &str, body: &impl Serialize) -> Outcome<()> {
        self.send(self.request(Method::POST, path).timeout(ANSWER).json(body)).await.map(drop)
    }

    pub async fn delete(&self, path: &str) -> Outcome<()> {
        self.send(self.request(Method::DELETE, path).timeout(ANSWER)).await.map(drop)
    }

    /// A response that is read as it comes.
    pub async fn stream(&self, path: &str) -> Outcome<Response> {
        self.send(self.request(Method::GET, path)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Outcome<T> {
        self.send(request).await?.json().await.map_err(|error| self.broken(&error))
    }

    async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let detail = match response.json::<ErrorBody>().await {
            Ok(body) => body.error,
            Err(_) => ErrorDetail {
                code: "not_the_daemon".into(),
                message: format!("{} answered {status} without an error body", self.base),
                remedy: Some("check --server: this is no Airlock daemon".into()),
                ..ErrorDetail::default()
            },
        };
        Err(Failure::answered(status.as_u16(), detail))
    }

    /// A failure on the way.
    pub fn broken(&self, error: &reqwest::Error) -> Box<Failure> {
        let (code, remedy) = if error.is_connect() {
            ("daemon_unreachable", "start it with airlock serve or airlock up, or give its address with --server")
        } else if error.is_decode() {
            ("unexpected_answer", "use a client of the daemon's version")
        } else {
            ("connection_lost", "see the daemon's log")
        };
        // reqwest's own text repeats the URL, which may hold a user's id; the chain beneath says what happened.
        Failure::new(FAILED, code, format!("talk to the daemon at {}", self.base), remedy).beneath(error)
    }
}

fn read_token(path: &Path) -> Outcome<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => {
            let path: PathBuf = path.to_owned();
            let remedy = "set AIRLOCK_TOKEN, or run as the daemon's user with its --state-dir";
            Err(Failure::new(REFUSED, "token_missing", format!("read the token {}", path.display()), remedy)
                .because(&error))
        }
    }
}

/// A path segment, percent-encoded (RFC 3986 section 3.3).
pub fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_stay_one_segment() {
        assert_eq!(segment("ann@example.org"), "ann@example.org");
        assert_eq!(segment("a/../b?c#d e+ü"), "a%2F..%2Fb%3Fc%23d%20e%2B%C3%BC");
    }

    #[test]
    fn only_http_addresses_are_taken() {
        assert_eq!(Client::new("https://h", String::new()).err().unwrap().exit, USAGE);
        assert_eq!(Client::new("http://h:1/", String::new()).unwrap().base, "http://h:1");
    }
}
