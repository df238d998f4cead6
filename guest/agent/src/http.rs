//! Just enough HTTP/1.1 for the health answer, the start page and a loopback callback (RFC 9112).
//!
//! A request is its head only, at most [`MAX_HEAD`] bytes, within [`READ_WITHIN`]; everything else is refused with the
//! fitting status. Every answer closes the connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest request head, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take to send its head or to take an answer.
pub const READ_WITHIN: Duration = Duration::from_secs(3);
/// Connections at once; more are closed at once, so that a slow client costs threads, never memory without bound.
const MAX_CONNECTIONS: usize = 64;

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Query, without `?`, still percent-encoded.
    pub query: String,
    /// `Host` header.
    pub host: Option<String>,
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The head is larger than [`MAX_HEAD`].
    #[error("the request head is larger than {MAX_HEAD} bytes")]
    TooLarge,
    /// It is not HTTP/1.
    #[error("the request is not HTTP/1")]
    Malformed,
}

/// Reads a request head; `Ok(None)` means that more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, BadRequest> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD { Err(BadRequest::TooLarge) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| BadRequest::Malformed)?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BadRequest::Malformed);
    };
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
    if !is_method || !target.starts_with('/') || !version.starts_with("HTTP/1.") {
        return Err(BadRequest::Malformed);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let host = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim().to_owned());
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), host }))
}

/// Reads one request from a client; refuses bad ones itself and then returns `None`.
pub fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let deadline = Instant::now() + READ_WITHIN;
    stream.set_write_timeout(Some(READ_WITHIN))?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        match parse(&bytes) {
            Ok(Some(request)) => return Ok(Some(request)),
            Ok(None) => {}
            Err(BadRequest::TooLarge) => {
                respond(stream, "431 Request Header Fields Too Large", "text/plain", b"")?;
                return Ok(None);
            }
            Err(BadRequest::Malformed) => {
                respond(stream, "400 Bad Request", "text/plain", b"")?;
                return Ok(None);
            }
        }
        // The deadline is for the whole head: a client that sends one byte at a time gets no more.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            len => bytes.extend_from_slice(&chunk[..len]),
        }
    }
}

/// Writes a whole answer.
pub fn respond(stream: &mut TcpStream, status: &str, content_type: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = head.into_bytes();
    answer.extend_from_slice(body);
    stream.write_all(&answer)
}

/// Takes connections for ever, each on a thread of its own, a bounded number at once.
pub fn serve(listener: &TcpListener, name: &str, handle: impl Fn(TcpStream) + Send + Sync + 'static) {
    let handle = Arc::new(handle);
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (handle, open_in_thread) = (handle.clone(), open.clone());
        let body = move || {
            handle(stream);
            open_in_thread.fetch_sub(1, Ordering::Relaxed);
        };
        if crate::spawn(name, body).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Decodes `%41` and `+` of a query value; broken escapes stay as they are.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped =
            text.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes everything that RFC 3986 does not leave unreserved.
pub fn percent_encode(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The value of `key` in a query or form.
pub fn query_value(query: &str, key: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| percent_decode(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_heads_byte_by_byte() {
        let text = b"GET /callback?code=a%2Bb&state=s HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX: y\r\n\r\nbody";
        let end = text.len() - 4;
        for cut in 0..end {
            assert_eq!(parse(&text[..cut]), Ok(None), "{cut}");
        }
        let request = parse(text).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/callback"));
        assert_eq!(request.host.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(query_value(&request.query, "code").as_deref(), Some("a+b"));
        assert_eq!(query_value(&request.query, "missing"), None);
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bad in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "get / HTTP/1.1\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET / x HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(BadRequest::Malformed), "{bad:?}");
        }
        assert_eq!(parse(&vec![b'a'; MAX_HEAD + 1]), Err(BadRequest::TooLarge));
    }

    #[test]
    fn percent_encoding_round_trips() {
        let text = "http://127.0.0.1:40/callback?a=b c&ä%";
        assert_eq!(percent_decode(&percent_encode(text)), text);
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
    }
}
