//! Bytes both ways, unread. Each direction holds what it read last and waits for its reader, so a slow side slows the other and
//! memory stays bounded, whatever the size of a frame.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::Message;
use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, MissedTickBehavior};

use super::end::End;
use super::viewer::{Incoming, Signs, Sink};

/// Bytes of the screen that are read at once.
pub const BUFFER: usize = 64 * 1024;
/// How often a viewer is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// A viewer that gave no sign of life for this long is gone.
const SILENCE: Duration = Duration::from_secs(90);

/// Carries bytes until one side is gone, or nobody touched the viewer for `idle`.
pub async fn relay(screen: TcpStream, sink: &mut Sink, incoming: &mut Incoming, signs: &Signs, idle: Duration) -> End {
    let (screen_read, screen_write) = screen.into_split();
    tokio::select! {
        end = to_viewer(screen_read, sink, signs) => end,
        end = to_screen(incoming, screen_write, signs, idle) => end,
        () = silence(signs) => End::ViewerGone,
    }
}

/// Keeps a connection that has nothing to carry yet, as long as the viewer is there and waits. RFB lets the server speak first.
pub async fn keep_alive(sink: &mut Sink, incoming: &mut Incoming, signs: &Signs) -> End {
    let pings = async {
        let mut ping = pings();
        loop {
            ping.tick().await;
            if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                return End::ViewerGone;
            }
        }
    };
    tokio::select! {
        end = pings => end,
        said = incoming.next(signs) => if said.is_some() { End::NotRfb } else { End::ViewerGone },
        () = silence(signs) => End::ViewerGone,
    }
}

fn pings() -> tokio::time::Interval {
    let mut pings = tokio::time::interval_at(Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

async fn silence(signs: &Signs) {
    loop {
        let gone = signs.last() + SILENCE;
        if Instant::now() >= gone {
            return;
        }
        tokio::time::sleep_until(gone).await;
    }
}

async fn to_viewer(mut screen: OwnedReadHalf, sink: &mut Sink, signs: &Signs) -> End {
    let mut buffer = vec![0u8; BUFFER];
    let mut ping = pings();
    loop {
        let count = tokio::select! {
            _ = ping.tick() => {
                if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return End::ViewerGone;
                }
                continue;
            }
            read = screen.read(&mut buffer) => match read {
                Ok(count) if count > 0 => count,
                _ => return End::ScreenGone,
            },
        };
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if sink.send(Message::Binary(bytes)).await.is_err() {
            return End::ViewerGone;
        }
        // Whoever takes what is sent is there, however long the way of its answers is.
        signs.note();
    }
}

async fn to_screen(incoming: &mut Incoming, mut screen: OwnedWriteHalf, signs: &Signs, idle: Duration) -> End {
    loop {
        match tokio::time::timeout(idle, incoming.next(signs)).await {
            Ok(Some(bytes)) => {
                if screen.write_all(&bytes).await.is_err() {
                    return End::ScreenGone;
                }
            }
            Ok(None) => return End::ViewerGone,
            Err(_) => return End::Idle,
        }
    }
}
