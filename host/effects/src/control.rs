//! The control channel: frames of `airlock-protocol` over the Unix socket of the VMM: virtio-serial behind it, or a vsock ([`vsock`]).
//!
//! ```text
//! connect ──> (sender, receiver)   sender ──[64]──> writer task ──> socket ──> reader task ──[64]──> receiver
//! ```
//! Both queues are bounded: a guest that does not read makes `send` wait, a host that does not receive makes the guest wait.
//! When the VMM closes the socket the receiver ends; connecting again is the caller's choice. Bytes that are no frame are skipped.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_protocol::frame::{self, Decoder, EncodeError};
use airlock_protocol::message::{GuestMessage, HostMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::unix;

pub mod vsock;

/// Messages that wait in one direction.
const QUEUE: usize = 64;

/// What went wrong with the control channel.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be reached.
    #[error("connect to control socket {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The socket did not appear in time.
    #[error("control socket {} did not appear within {waited:?}", socket.display())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The message has no frame.
    #[error("encode a message for the guest")]
    Encode(#[from] EncodeError),
    /// The other side is gone.
    #[error("control channel {} is closed", socket.display())]
    Closed {
        /// The socket.
        socket: PathBuf,
    },
    /// Reading broke.
    #[error("read from control channel {}", socket.display())]
    Read {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A connected channel, to be split.
#[derive(Debug)]
pub struct ControlChannel {
    sender: ControlSender,
    receiver: ControlReceiver,
}

/// The host's half. Clones send into the same queue; the last one that goes ends the writing side.
#[derive(Debug, Clone)]
pub struct ControlSender {
    socket: PathBuf,
    queue: mpsc::Sender<Vec<u8>>,
}

/// The guest's half.
#[derive(Debug)]
pub struct ControlReceiver {
    queue: mpsc::Receiver<Result<GuestMessage, ControlError>>,
    reader: JoinHandle<()>,
}

impl ControlChannel {
    /// Connects as soon as the VMM has made the socket, and the guest listens on that port of its vsock if there is one; at the
    /// latest after `deadline`.
    pub async fn connect(socket: &Path, port: Option<u32>, deadline: Duration) -> Result<Self, ControlError> {
        let connect = async {
            match port {
                None => unix::connect_when_there(socket).await,
                Some(port) => vsock::connect(socket, port).await,
            }
        };
        match tokio::time::timeout(deadline, connect).await {
            Ok(Ok(stream)) => Ok(Self::over(stream, socket)),
            Ok(Err(source)) => Err(ControlError::Connect { socket: socket.to_owned(), source }),
            Err(_) => Err(ControlError::TimedOut { socket: socket.to_owned(), waited: deadline }),
        }
    }

    fn over(stream: UnixStream, socket: &Path) -> Self {
        let (read, write) = stream.into_split();
        let (send, to_write) = mpsc::channel(QUEUE);
        let (received, receive) = mpsc::channel(QUEUE);
        tokio::spawn(write_frames(to_write, write));
        let reader = tokio::spawn(read_frames(read, received, socket.to_owned()));
        let socket = socket.to_owned();
        Self { sender: ControlSender { socket, queue: send }, receiver: ControlReceiver { queue: receive, reader } }
    }

    /// The two halves.
    pub fn split(self) -> (ControlSender, ControlReceiver) {
        (self.sender, self.receiver)
    }
}

impl ControlSender {
    /// Queues a message; waits while the queue is full. Cancel safe: a frame is sent whole or not at all. Queued is not
    /// delivered: the guest's answers say what arrived.
    pub async fn send(&self, message: &HostMessage) -> Result<(), ControlError> {
        let frame = frame::encode(message)?;
        self.queue.send(frame).await.map_err(|_| ControlError::Closed { socket: self.socket.clone() })
    }
}

impl ControlReceiver {
    /// The guest's next message; none when the VMM closed the channel. Cancel safe.
    pub async fn recv(&mut self) -> Option<Result<GuestMessage, ControlError>> {
        self.queue.recv().await
    }
}

impl Drop for ControlReceiver {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn write_frames(mut queue: mpsc::Receiver<Vec<u8>>, mut socket: OwnedWriteHalf) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = socket.write_all(&frame).await {
            // Dropping the queue turns every further send into `Closed`; the reader reports the end.
            tracing::debug!(%error, "the control channel cannot be written any more");
            return;
        }
    }
}

async fn read_frames(
    mut read: OwnedReadHalf,
    queue: mpsc::Sender<Result<GuestMessage, ControlError>>,
    socket: PathBuf,
) {
    let mut decoder = Decoder::new();
    let mut bytes = vec![0; 64 * 1024];
    let mut skipped = 0;
    loop {
        match read.read(&mut bytes).await {
            Ok(0) => return,
            Ok(count) => decoder.push(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
            Err(source) => {
                let _ = queue.send(Err(ControlError::Read { socket, source })).await;
                return;
            }
        }
        while let Some(message) = decoder.next_message() {
            if queue.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if decoder.skipped() > skipped {
            tracing::debug!(bytes = decoder.skipped() - skipped, socket = %socket.display(), "skipped on the control channel");
            skipped = decoder.skipped();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chain;
    use airlock_protocol::message::VERSION;
    use std::error::Error;
    use tokio::net::UnixListener;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn waits_for_the_socket_and_carries_frames_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let connecting = tokio::spawn({
            let path = path.clone();
            async move { ControlChannel::connect(&path, None, DEADLINE).await }
        });
        tokio::task::yield_now().await;
        let listener = UnixListener::bind(&path).unwrap();
        let (mut guest, _) = listener.accept().await.unwrap();
        let (sender, mut receiver) = connecting.await.unwrap().unwrap().split();

        sender.send(&HostMessage::Hello { version: VERSION, now_ms: 5, vnc_password: None }).await.unwrap();
        let mut decoder = Decoder::new();
        let mut bytes = [0; 256];
        let hello: HostMessage = loop {
            let count = guest.read(&mut bytes).await.unwrap();
            decoder.push(&bytes[..count]);
            if let Some(message) = decoder.next_message() {
                break message;
            }
        };
        assert_eq!(hello, HostMessage::Hello { version: VERSION, now_ms: 5, vnc_password: None });

        let pong = frame::encode(&GuestMessage::Pong { n: 7 }).unwrap();
        guest.write_all(&pong[5..]).await.unwrap();
        guest.write_all(&pong).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), GuestMessage::Pong { n: 7 });

        drop(guest);
        assert!(receiver.recv().await.is_none());
        // The first send after the end may still find room in the queue; soon none does.
        let closed = async { while sender.send(&HostMessage::Ping { n: 1 }).await.is_ok() {} };
        tokio::time::timeout(DEADLINE, closed).await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_makes_the_sender_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let channel = ControlChannel::connect(&path, None, DEADLINE).await.unwrap();
        let _guest = listener.accept().await.unwrap();
        let (sender, _receiver) = channel.split();
        let page = HostMessage::OpenUrl { url: airlock_protocol::Sensitive::new("x".repeat(900_000)) };
        let flood = async {
            loop {
                sender.send(&page).await.unwrap()
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(300), flood).await.is_err());
        assert_eq!(sender.queue.capacity(), 0);
    }

    #[tokio::test]
    async fn works_with_a_path_longer_than_a_socket_address() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let short = dir.path().join("s");
        std::os::unix::fs::symlink(&long, &short).unwrap();
        let listener = UnixListener::bind(short.join("agent.sock")).unwrap();
        ControlChannel::connect(&long.join("agent.sock"), None, DEADLINE).await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn errors_keep_their_cause() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = ControlChannel::connect(&path, None, DEADLINE).await.unwrap_err();
        assert_eq!(chain(&error)[1], "Connection refused (os error 111)");
        let missing = dir.path().join("none.sock");
        let error = ControlChannel::connect(&missing, None, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, ControlError::TimedOut { .. }));
        assert!(error.source().is_none());
    }
}
