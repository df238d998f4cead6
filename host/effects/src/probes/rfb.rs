//! The guest's RFB server (RFC 6143): the handshake, and whether its first frame shows anything.
//!
//! ```text
//! connect -> handshake (crate::rfb) | the server speaks and lets us in: Ok
//!   -> ClientInit (shared) -> ServerInit -> one whole frame, raw | two colours: painted; all of it one colour: not
//! ```
//! Everything the server says is passed through one small buffer, whatever sizes it claims, and the deadline ends it. The cursor
//! is asked for as an image of its own, or the server would paint it into a black frame.

use std::io;
use std::net::SocketAddr;

use airlock_domain::diagnosis::facts::Probe;
use airlock_protocol::Sensitive;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use super::errno::outcome;
use super::known;
use crate::network::{Network, NetworkError};
use crate::rfb::{HandshakeError, handshake};

const BUFFER: usize = 32 * 1024;
/// What is asked for of a larger screen, in pixels each way.
const MAX_SIDE: u16 = 2048;
/// Encodings: raw, and the cursor as an image of its own.
const RAW: i32 = 0;
const CURSOR: i32 = -239;
/// Bytes of a pixel in the format that is asked for.
const PIXEL: usize = 4;

type Stream = BufReader<TcpStream>;

/// Outcome of the handshake until `greeted`, and whether the first frame that came until `ends` has more than one colour.
pub(super) async fn look(
    network: &Network,
    addr: SocketAddr,
    password: Option<&Sensitive>,
    greeted: Instant,
    ends: Instant,
) -> (Option<Probe>, Option<bool>) {
    let shake = async {
        let socket = network.tcp_socket().await?;
        let stream = match timeout_at(greeted, socket.connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ok(Err(outcome(&error, "connect"))),
            Err(_) => return Ok(Err(Probe::TimedOut)),
        };
        let mut stream = BufReader::with_capacity(BUFFER, stream);
        let shaken = timeout_at(greeted, handshake(&mut stream, password)).await;
        Ok::<_, NetworkError>(match shaken {
            Ok(Ok(())) => Ok(Some(stream)),
            // The agent has not set it yet: the server does what it should.
            Ok(Err(HandshakeError::NoPassword)) => Ok(None),
            Ok(Err(HandshakeError::NotLetIn { said } | HandshakeError::Refused { said })) => {
                Err(Probe::Wrong { detail: said })
            }
            Ok(Err(HandshakeError::Broke(error))) => Err(outcome(&error, "RFB handshake")),
            Err(_) => Err(Probe::TimedOut),
        })
    };
    match known("RFB", ends, shake).await {
        Some(Ok(None)) => (Some(Probe::Ok), None),
        Some(Ok(Some(mut stream))) => (Some(Probe::Ok), known("the first frame", ends, first_frame(&mut stream)).await),
        Some(Err(failed)) => (Some(failed), None),
        None => (None, None),
    }
}

/// Whether the first whole frame has more than one colour.
async fn first_frame(stream: &mut Stream) -> io::Result<bool> {
    // Others may look on.
    stream.write_all(&[1]).await?;
    let (width, height) = (stream.read_u16().await?.min(MAX_SIDE), stream.read_u16().await?.min(MAX_SIDE));
    skip(stream, 16).await?;
    let name = stream.read_u32().await?;
    skip(stream, u64::from(name)).await?;
    stream.write_all(&ask_for(width, height)).await?;

    let (wanted, mut seen) = (u64::from(width) * u64::from(height), 0);
    let mut first = None;
    while seen < wanted {
        // Small messages without an end would come out of the buffer for long without a look at the clock.
        consume_budget().await;
        match stream.read_u8().await? {
            0 => {
                stream.read_u8().await?;
                for _ in 0..stream.read_u16().await? {
                    consume_budget().await;
                    match rectangle(stream, &mut first).await? {
                        Some(pixels) => seen += pixels,
                        None => return Ok(true),
                    }
                }
            }
            // Colours of a palette: none is in use. A bell. A clipboard.
            1 => {
                skip(stream, 3).await?;
                let colours = stream.read_u16().await?;
                skip(stream, u64::from(colours) * 6).await?;
            }
            2 => {}
            3 => {
                skip(stream, 3).await?;
                let length = stream.read_u32().await?;
                skip(stream, u64::from(length)).await?;
            }
            other => return Err(unexpected(format!("message {other}"))),
        }
    }
    Ok(false)
}

/// SetPixelFormat (32 bits, red, green and blue of 8), SetEncodings, and a request for all of it.
fn ask_for(width: u16, height: u16) -> Vec<u8> {
    let format = [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    let encodings = [&[2, 0, 0, 2][..], &RAW.to_be_bytes(), &CURSOR.to_be_bytes()].concat();
    let request = [&[3, 0, 0, 0, 0, 0][..], &width.to_be_bytes(), &height.to_be_bytes()].concat();
    [&format[..], &encodings, &request].concat()
}

/// Takes a rectangle; the number of its pixels, or none when there was one of another colour than `first`.
async fn rectangle(stream: &mut Stream, first: &mut Option<[u8; 3]>) -> io::Result<Option<u64>> {
    skip(stream, 4).await?;
    let (width, height) = (u64::from(stream.read_u16().await?), u64::from(stream.read_u16().await?));
    match stream.read_i32().await? {
        RAW => Ok(is_uniform(stream, width * height, first).await?.then_some(width * height)),
        // Pixels, and a bit for each.
        CURSOR => {
            skip(stream, width * height * PIXEL as u64 + width.div_ceil(8) * height).await?;
            Ok(Some(0))
        }
        other => Err(unexpected(format!("encoding {other}"))),
    }
}

async fn is_uniform(stream: &mut Stream, mut pixels: u64, first: &mut Option<[u8; 3]>) -> io::Result<bool> {
    // The fourth byte means nothing.
    let mut is_same = |pixel: &[u8]| {
        let colour = [pixel[0], pixel[1], pixel[2]];
        *first.get_or_insert(colour) == colour
    };
    while pixels > 0 {
        let available = stream.fill_buf().await?;
        let whole = u64::try_from(available.len() / PIXEL).unwrap_or(u64::MAX).min(pixels);
        if whole == 0 {
            // One that is cut by the buffer's end, or the end of all.
            let mut pixel = [0; PIXEL];
            stream.read_exact(&mut pixel).await?;
            if !is_same(&pixel) {
                return Ok(false);
            }
            pixels -= 1;
            continue;
        }
        let taken = usize::try_from(whole).unwrap_or_default() * PIXEL;
        if !available.get(..taken).unwrap_or_default().chunks_exact(PIXEL).all(&mut is_same) {
            return Ok(false);
        }
        stream.consume(taken);
        pixels -= whole;
    }
    Ok(true)
}

/// Reads and forgets.
async fn skip(stream: &mut (impl AsyncBufRead + Unpin), mut count: u64) -> io::Result<()> {
    while count > 0 {
        let available = stream.fill_buf().await?.len();
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = usize::try_from(count).unwrap_or(usize::MAX).min(available);
        stream.consume(taken);
        count -= taken as u64;
    }
    Ok(())
}

fn unexpected(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the RFB server sends {what}, which nobody asked for"))
}
