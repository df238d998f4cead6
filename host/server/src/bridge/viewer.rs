//! The viewer's side: binary messages as a stream of bytes, and the RFB handshake that lets it in.
//!
//! The daemon has proved the machine's password before it speaks; to the viewer it offers the security type None, so no
//! password gets near the page. Where messages begin and end means nothing: RFB is a stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use airlock_protocol::vnc_auth::SECURITY_NONE;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;

use super::end::End;

const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// A viewer that takes longer to shake hands does not want to.
const GREETING: Duration = Duration::from_secs(30);

/// Where messages to the viewer go.
pub type Sink = SplitSink<WebSocket, Message>;

/// When the viewer last gave a sign of life.
#[derive(Debug)]
pub struct Signs {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Signs {
    /// It is there now.
    pub fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// It is there now.
    pub fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// When it was there for the last time.
    pub fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// What comes from the viewer.
pub struct Incoming {
    stream: SplitStream<WebSocket>,
    /// Came with an earlier message and is not taken yet.
    left: Bytes,
}

impl Incoming {
    /// Of a socket that nothing was read of.
    pub fn new(stream: SplitStream<WebSocket>) -> Self {
        Self { stream, left: Bytes::new() }
    }

    /// The next bytes, never none of them; `None` when the viewer is gone, or sends what is no RFB. Every message counts as a
    /// sign of life. Cancel safe.
    pub async fn next(&mut self, signs: &Signs) -> Option<Bytes> {
        if !self.left.is_empty() {
            return Some(std::mem::take(&mut self.left));
        }
        loop {
            let message = self.stream.next().await?.ok()?;
            signs.note();
            match message {
                Message::Binary(bytes) if !bytes.is_empty() => return Some(bytes),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
                Message::Text(_) | Message::Close(_) => return None,
            }
        }
    }

    /// Forgets everything up to the viewer's end.
    pub async fn drain(&mut self) {
        while matches!(self.stream.next().await, Some(Ok(_))) {}
    }

    /// So many bytes, however they were cut.
    async fn take<const N: usize>(&mut self, signs: &Signs) -> Option<[u8; N]> {
        let (mut taken, mut count) = ([0; N], 0);
        while count < N {
            let mut bytes = self.next(signs).await?;
            let part = bytes.split_to(bytes.len().min(N - count));
            taken.get_mut(count..count + part.len())?.copy_from_slice(&part);
            count += part.len();
            self.left = bytes;
        }
        Some(taken)
    }
}

/// RFC 6143 7.1: versions, security type None, result. What the viewer sends next is its ClientInit.
pub async fn greet(sink: &mut Sink, incoming: &mut Incoming, signs: &Signs) -> Result<(), End> {
    match tokio::time::timeout(GREETING, shake_hands(sink, incoming, signs)).await {
        Ok(end) => end,
        Err(_) => Err(End::NotRfb),
    }
}

async fn shake_hands(sink: &mut Sink, incoming: &mut Incoming, signs: &Signs) -> Result<(), End> {
    say(sink, VERSION).await?;
    let version = incoming.take::<12>(signs).await.ok_or(End::ViewerGone)?;
    let minor = spoken(&version).ok_or(End::NotRfb)?;
    if minor == 3 {
        // The server chooses, and no result follows.
        return say(sink, &[0, 0, 0, SECURITY_NONE]).await;
    }
    say(sink, &[1, SECURITY_NONE]).await?;
    if incoming.take::<1>(signs).await.ok_or(End::ViewerGone)? != [SECURITY_NONE] {
        return Err(End::NotRfb);
    }
    if minor == 8 { say(sink, &[0; 4]).await } else { Ok(()) }
}

/// The minor version that a viewer chose; RFC 6143 7.1.1: anything odd counts as 3.3.
fn spoken(version: &[u8; 12]) -> Option<u32> {
    let minor = version.strip_prefix(b"RFB 003.")?.strip_suffix(b"\n")?;
    Some(match minor {
        b"008" => 8,
        b"007" => 7,
        _ => 3,
    })
}

async fn say(sink: &mut Sink, bytes: &'static [u8]) -> Result<(), End> {
    sink.send(Message::Binary(Bytes::from_static(bytes))).await.map_err(|_| End::ViewerGone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_versions_of_viewers() {
        assert_eq!(spoken(b"RFB 003.008\n"), Some(8));
        assert_eq!(spoken(b"RFB 003.007\n"), Some(7));
        assert_eq!(spoken(b"RFB 003.003\n"), Some(3));
        assert_eq!(spoken(b"RFB 003.005\n"), Some(3));
        assert_eq!(spoken(b"RFB 004.001\n"), None);
        assert_eq!(spoken(b"GET / HTTP/1"), None);
    }
}
