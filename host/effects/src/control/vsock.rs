//! The control channel over a vsock that is a Unix socket on the host (Firecracker's `docs/vsock.md`).
//!
//! ```text
//! waiting for the socket ──> CONNECT <port> ──"OK <n>"──> channel
//!                                  └─ closed: nobody listens yet ──(the guest knocks, or RETRY)──> CONNECT <port>
//! ```
//! Nothing in the guest depends on its network, and the host does not ask in vain more than once a second: as soon as it
//! listens, the guest knocks, by connecting to port [`EVENT_VSOCK_PORT`] of the host, which is the Unix socket `<socket>_<port>`.
//! Its listener is made again by whoever waits, so a daemon that was started again hears it as the first one did.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_protocol::paths::EVENT_VSOCK_PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::unix;

/// How long nobody asks again when no knock is heard.
const RETRY: Duration = Duration::from_secs(1);
/// `OK 4294967295\n` is no longer than this.
const LONGEST_ANSWER: usize = 32;

/// Connects as soon as the guest listens on `port`. Runs until then: the caller bounds it.
pub(super) async fn connect(socket: &Path, port: u32) -> io::Result<UnixStream> {
    // Before the first try, so that no knock is missed. One who cannot listen asks again and again instead.
    let knocks =
        Knocks::listen(socket).inspect_err(|error| tracing::debug!(%error, "knocks of the guest are not heard")).ok();
    loop {
        match ask(unix::connect_when_there(socket).await?, port).await {
            Err(error) if is_early(&error) => {
                let knock = async {
                    match &knocks {
                        Some(knocks) => knocks.next().await,
                        None => std::future::pending().await,
                    }
                };
                let _ = tokio::time::timeout(RETRY, knock).await;
            }
            answered => return answered,
        }
    }
}

/// Whether nobody in the guest listens yet: the VMM closes the connection without a word.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Asks for a port. Read byte by byte: what follows the answer is the guest's.
async fn ask(mut stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if answer.len() < LONGEST_ANSWER => answer.push(byte),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    match text.strip_prefix("OK ").map(str::parse::<u32>) {
        Some(Ok(_)) => Ok(stream),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("asked for vsock port {port}, was told {text:?}"))),
    }
}

/// What the guest says without being asked.
struct Knocks {
    listener: UnixListener,
}

impl Knocks {
    fn listen(socket: &Path) -> io::Result<Self> {
        let path = event_socket(socket);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = unix::listen(&path)?;
        // A jailed VMM is another user; nobody else gets into its directory.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        Ok(Self { listener })
    }

    async fn next(&self) {
        // What it says is nothing but that it is there.
        if self.listener.accept().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The Unix socket of the host's port for events.
fn event_socket(socket: &Path) -> PathBuf {
    let mut name = OsString::from(socket);
    name.push(format!("_{EVENT_VSOCK_PORT}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A VMM whose guest listens on `port` from the second connection on.
    async fn early_then_there(listener: &UnixListener, port: u32) -> UnixStream {
        let (mut first, _) = listener.accept().await.unwrap();
        assert_eq!(line(&mut first).await, format!("CONNECT {port}"));
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        assert_eq!(line(&mut second).await, format!("CONNECT {port}"));
        second.write_all(b"OK 1073741824\nalready the guest").await.unwrap();
        second
    }

    async fn line(stream: &mut UnixStream) -> String {
        let mut text = String::new();
        loop {
            match stream.read_u8().await.unwrap() {
                b'\n' => return text,
                byte => text.push(char::from(byte)),
            }
        }
    }

    #[tokio::test]
    async fn a_knock_is_answered_at_once_and_no_byte_of_the_guest_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        // Left by an earlier daemon.
        drop(UnixListener::bind(event_socket(&path)).unwrap());
        let connecting = tokio::spawn({
            let path = path.clone();
            async move { connect(&path, 1024).await }
        });
        let (mut first, _) = listener.accept().await.unwrap();
        assert_eq!(line(&mut first).await, "CONNECT 1024");
        let knocked = Instant::now();
        drop(first);
        let knock = UnixStream::connect(event_socket(&path)).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        assert!(knocked.elapsed() < RETRY / 2, "{:?}", knocked.elapsed());
        assert_eq!(line(&mut second).await, "CONNECT 1024");
        second.write_all(b"OK 1073741824\nalready the guest").await.unwrap();
        let mut stream = connecting.await.unwrap().unwrap();
        let mut said = [0; 17];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"already the guest");
        drop(knock);
    }

    #[tokio::test]
    async fn without_a_knock_it_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let connecting = tokio::spawn(async move { connect(&path, 7).await });
        let served = tokio::time::timeout(RETRY * 5, early_then_there(&listener, 7)).await.unwrap();
        connecting.await.unwrap().unwrap();
        drop(served);
    }

    #[tokio::test]
    async fn another_answer_is_an_error_that_quotes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        for answer in ["HTTP/1.1 400\n", "OK x\n", "OK 1 and much more than a number can have\n"] {
            let connecting = tokio::spawn({
                let path = path.clone();
                async move { connect(&path, 7).await }
            });
            let (mut vmm, _) = listener.accept().await.unwrap();
            vmm.write_all(answer.as_bytes()).await.unwrap();
            let error = connecting.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("vsock port 7"), "{error}");
        }
    }
}
