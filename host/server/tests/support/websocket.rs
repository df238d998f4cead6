//! A WebSocket client (RFC 6455) as tests and the bench need it: frames cut as they like, a close code that is seen, no buffer of its
//! own but the one of the caller.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASK: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x96];

pub struct Socket {
    pub reader: Reader,
    pub writer: Writer,
}

pub struct Reader {
    stream: BufReader<OwnedReadHalf>,
    /// Bytes of the payload that is being read.
    left: u64,
    /// Code and reason of the close frame.
    pub close: Option<(u16, String)>,
    pub pings: usize,
}

pub struct Writer {
    pub stream: OwnedWriteHalf,
}

/// Status and code of an upgrade that was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub body: String,
}

/// Opens a WebSocket with more request headers.
pub async fn connect(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> io::Result<Result<Socket, Refused>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    write.write_all(format!("{request}\r\n").as_bytes()).await?;
    // As small as it may be: what the bridge holds is measured, and not what is held here.
    let mut reader = BufReader::with_capacity(4096, read);
    let (mut status, mut accepted, mut length) = (0, false, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
        }
        // RFC 6455 1.3: the answer to the example's key.
        accepted |= line == "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap_or(0);
        }
    }
    if status != 101 || !accepted {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        return Ok(Err(Refused { status, body: String::from_utf8_lossy(&body).into_owned() }));
    }
    let reader = Reader { stream: reader, left: 0, close: None, pings: 0 };
    Ok(Ok(Socket { reader, writer: Writer { stream: write } }))
}

impl Reader {
    /// The next bytes of binary messages; 0 when the connection is closed.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if self.close.is_some() || !self.next_frame().await? {
                return Ok(0);
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.stream.read(&mut buffer[..most]).await?;
        self.left -= count as u64;
        Ok(count)
    }

    /// The connection, without what was read ahead.
    pub fn into_inner(self) -> OwnedReadHalf {
        self.stream.into_inner()
    }

    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Reads on to the end, and says how it ended.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        self.close.clone()
    }

    /// Goes to the payload of the next binary message. `false` at the end.
    async fn next_frame(&mut self) -> io::Result<bool> {
        let first = match self.stream.read_u8().await {
            Ok(first) => first,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        };
        let second = self.stream.read_u8().await?;
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let length = match second {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        if matches!(first & 0x0f, CONTINUATION | BINARY) {
            self.left = length;
            return Ok(true);
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
        self.stream.read_exact(&mut payload).await?;
        match first & 0x0f {
            PING => self.pings += 1,
            CLOSE => {
                let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                let reason = payload.get(2..).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                self.close = Some((code, reason));
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Writer {
    /// One binary message in one frame.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame(BINARY, true, bytes).await
    }

    /// One frame, masked as a client's frames are.
    pub async fn frame(&mut self, opcode: u8, last: bool, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&masked(opcode, last, payload)).await
    }
}

/// A frame as bytes.
pub fn masked(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![if last { FIN | opcode } else { opcode }];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
