//! A few lines of HTTP/1.1 client: one request per connection, whole answers, a deadline on everything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Status and body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Sends one request and reads the answer to its end.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
    deadline: Duration,
) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, deadline).with_context(|| format!("connect to {addr}"))?;
    stream.set_read_timeout(Some(deadline)).context("set the read deadline")?;
    stream.set_write_timeout(Some(deadline)).context("set the write deadline")?;
    let auth = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{auth}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()))
        .with_context(|| format!("send {method} {path} to {addr}"))?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).with_context(|| format!("read the answer of {method} {path} from {addr}"))?;
    parse(&raw).with_context(|| format!("understand the answer of {method} {path} from {addr}"))
}

fn parse(raw: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(raw);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("{} bytes and no end of the head", raw.len()) };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    Ok(Answer { status, body: if chunked { join_chunks(body)? } else { body.to_owned() } })
}

/// RFC 9112, 7.1: size in hex, line end, that many bytes, line end; size 0 ends it.
fn join_chunks(mut rest: &str) -> Result<String> {
    let mut out = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without size")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16).context("size of a chunk")?;
        if size == 0 {
            return Ok(out);
        }
        out.push_str(after.get(..size).context("a chunk that is cut")?);
        rest = after.get(size + 2..).context("a chunk without end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_framings() {
        let plain = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        assert_eq!(plain, Answer { status: 200, body: "ok".into() });
        let chunked =
            parse(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(chunked, Answer { status: 404, body: "abc".into() });
    }

    #[test]
    fn refuses_what_is_cut() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab").is_err());
    }
}
