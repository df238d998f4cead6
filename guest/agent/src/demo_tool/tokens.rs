//! Tokens: from the token endpoint into the credential file, and what `status` says of it.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::authorization::Issuer;
use super::{CLIENT_ID, DemoError, io};
use crate::clock;
use crate::http::percent_encode;

/// How long the server may take.
const TOKEN_WITHIN: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// The credential file.
#[derive(Serialize, Deserialize)]
pub struct Tokens {
    access_token: String,
    refresh_token: String,
    token_type: String,
    /// Milliseconds since the Unix epoch.
    expires_at: u64,
    /// Who signed in.
    pub account: String,
}

/// The token endpoint's answer (RFC 6749 section 5.1).
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    token_type: String,
    expires_in: u64,
    #[serde(default)]
    account: String,
}

/// What the server says to a request.
pub type Said<T> = Result<T, Refusal>;

/// An error answer (RFC 6749 section 5.2).
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Its error code.
    pub error: String,
}

/// Swaps the code for tokens.
pub fn exchange(issuer: &Issuer, code: &str, redirect_uri: &str, verifier: &str) -> Result<Tokens, DemoError> {
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("client_id", CLIENT_ID),
        ("code_verifier", verifier),
    ];
    ask(issuer, &form)?.map_err(|Refusal { status, error }| DemoError::Token { status, error })
}

/// Asks the token endpoint.
pub fn ask(issuer: &Issuer, form: &[(&str, &str)]) -> Result<Said<Tokens>, DemoError> {
    let answer: Said<Answer> = post(issuer, "/token", form)?;
    Ok(answer.map(|answer| Tokens {
        access_token: answer.access_token,
        refresh_token: answer.refresh_token,
        token_type: answer.token_type,
        expires_at: clock::wall_ms() + answer.expires_in * 1000,
        account: answer.account,
    }))
}

/// Sends a form; returns the JSON that is answered.
pub fn post<T: DeserializeOwned>(issuer: &Issuer, path: &str, form: &[(&str, &str)]) -> Result<Said<T>, DemoError> {
    let pairs = form.iter().map(|(key, value)| format!("{key}={}", percent_encode(value)));
    let body = pairs.collect::<Vec<_>>().join("&");
    let (status, answer) = send(issuer, path, &body).map_err(io("ask the server"))?;
    if status != 200 {
        let json: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        let error = json.get("error").and_then(|error| error.as_str()).unwrap_or_default().to_owned();
        return Ok(Err(Refusal { status, error }));
    }
    Ok(Ok(serde_json::from_slice(&answer)?))
}

/// One HTTP/1.1 request over a connection that the server closes. Returns status and body.
fn send(issuer: &Issuer, path: &str, body: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&issuer.addr.into(), TOKEN_WITHIN)?;
    stream.set_read_timeout(Some(TOKEN_WITHIN))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-www-form-urlencoded\r\nAccept: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        issuer.addr,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    split_answer(&bytes).ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer"))
}

/// Status and body; a chunked body (RFC 9112 section 7.1) is put together.
fn split_answer(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = &bytes[end + 4..];
    Some((status, if chunked { join_chunks(body)? } else { body.to_vec() }))
}

fn join_chunks(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&body[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        let start = line + 2;
        out.extend_from_slice(body.get(start..start.checked_add(size)?)?);
        body = body.get(start + size + 2..)?;
    }
}

impl Tokens {
    /// Writes the file whole or not at all, readable by its owner only.
    pub fn save(&self) -> Result<(), DemoError> {
        let path = path();
        let dir = path.with_file_name("");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io("create ~/.airlock-demo"))?;
        let part = path.with_extension(format!("part-{}", std::process::id()));
        let json = serde_json::to_vec(self)?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&part))).map_err(io("write the credential file"))
    }
}

fn path() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".airlock-demo/credentials.json")
}

/// Who is logged in.
pub fn status() -> Result<String, DemoError> {
    let text = fs::read(path()).map_err(|_| DemoError::NotLoggedIn)?;
    let tokens: Tokens = serde_json::from_slice(&text)?;
    if tokens.expires_at > clock::wall_ms() { Ok(tokens.account) } else { Err(DemoError::NotLoggedIn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_and_chunked_answers() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(split_answer(plain), Some((200, b"{}".to_vec())));
        let chunked =
            b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\n\r\n";
        assert_eq!(split_answer(chunked), Some((400, b"{\"a\":1}".to_vec())));
        assert_eq!(split_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), None);
        assert_eq!(split_answer(b"nonsense"), None);
    }
}
