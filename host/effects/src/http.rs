//! The agent's `GET /health` over the guest's own network: the proof that a guest is reachable.
//!
//! One attempt per call. Each way to fail is its own variant, because each means something else: nothing listens yet (refused),
//! nobody answers ARP (unreachable), packets are lost (timed out), somebody else answers (bad status or body).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use airlock_protocol::health::Health;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;

use crate::network::{Network, NetworkError};

/// The largest body that is read, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Why a guest's health is not known.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No socket in the namespace.
    #[error("ask {addr} for its health")]
    Network {
        /// The guest.
        addr: SocketAddr,
        /// What went wrong.
        #[source]
        source: NetworkError,
    },
    /// The guest's kernel answers, nothing listens.
    #[error("{addr} refused the connection")]
    Refused {
        /// The guest.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Nobody answers for that address.
    #[error("{addr} is unreachable")]
    Unreachable {
        /// The guest.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{addr} did not answer within {waited:?} ({step})")]
    TimedOut {
        /// The guest.
        addr: SocketAddr,
        /// How long was waited.
        waited: Duration,
        /// `connect` or `response`: packets are lost, or the agent hangs.
        step: &'static str,
    },
    /// The connection failed in another way.
    #[error("connect to {addr}")]
    Connect {
        /// The guest.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Connected, but no HTTP came of it.
    #[error("speak HTTP with {addr}")]
    Http {
        /// The guest.
        addr: SocketAddr,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// An answer that is not 200.
    #[error("{addr} answered {status}")]
    Status {
        /// The guest.
        addr: SocketAddr,
        /// The status.
        status: StatusCode,
    },
    /// The body broke off or is too large.
    #[error("read the body of {addr}")]
    ReadBody {
        /// The guest.
        addr: SocketAddr,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body is not a [`Health`].
    #[error("{addr} answered something that is not a health report: {body:?}")]
    Body {
        /// The guest.
        addr: SocketAddr,
        /// Its beginning.
        body: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl HealthError {
    /// Whether a guest that still boots looks like this; then it is no fault yet (`reachable_but_pending`).
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

/// Asks once. `deadline` bounds the whole exchange.
pub async fn get_health(network: &Network, addr: SocketAddr, deadline: Duration) -> Result<Health, HealthError> {
    let ends = tokio::time::Instant::now() + deadline;
    let timed_out = |step| HealthError::TimedOut { addr, waited: deadline, step };
    let socket = network.tcp_socket().await.map_err(|source| HealthError::Network { addr, source })?;
    let connected = tokio::time::timeout_at(ends, socket.connect(addr)).await.map_err(|_| timed_out("connect"))?;
    let stream = connected.map_err(|source| connect_error(addr, source))?;
    let _ = stream.set_nodelay(true);
    tokio::time::timeout_at(ends, exchange(TokioIo::new(stream), addr)).await.map_err(|_| timed_out("response"))?
}

async fn exchange(stream: TokioIo<tokio::net::TcpStream>, addr: SocketAddr) -> Result<Health, HealthError> {
    let http = |source| HealthError::Http { addr, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(http)?;
    let request = Request::get("/health")
        .header(header::HOST, addr.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    // The parts are constants and an address, so a request always comes of them.
    let request = request.map_err(|error| HealthError::ReadBody { addr, source: error.into() })?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|source| HealthError::ReadBody { addr, source })?.to_bytes();
        if status != StatusCode::OK {
            return Err(HealthError::Status { addr, status });
        }
        serde_json::from_slice(&body).map_err(|source| HealthError::Body {
            addr,
            body: String::from_utf8_lossy(&body).chars().take(200).collect(),
            source,
        })
    };
    // The connection must be driven for the answer to come; its own end says nothing that the answer does not.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        health = &mut answer => health,
        _ = connection => answer.await,
    }
}

fn connect_error(addr: SocketAddr, source: io::Error) -> HealthError {
    match source.raw_os_error() {
        Some(libc::ECONNREFUSED) => HealthError::Refused { addr, source },
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => HealthError::Unreachable { addr, source },
        _ => HealthError::Connect { addr, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestNetns, chain, skip_unless_root};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HEALTH: &str = r#"{"status":"ok","build_id":"b","vm_id":"v","addresses":[],"uptime_s":1.5,"timeline":[]}"#;

    async fn serve(network: &Network, answer: String) -> SocketAddr {
        let listener = network.listen("192.168.100.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        });
        addr
    }

    fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn tells_the_ways_to_fail_apart() {
        if skip_unless_root() {
            return;
        }
        let guard = TestNetns::new();
        let network = Network::open(&guard.spec()).await.unwrap();
        let second = Duration::from_secs(1);

        let addr = serve(&network, response("200 OK", HEALTH)).await;
        assert_eq!(get_health(&network, addr, second).await.unwrap().vm_id, "v");
        let addr = serve(&network, response("503 Service Unavailable", "later")).await;
        assert!(
            matches!(get_health(&network, addr, second).await, Err(HealthError::Status { status, .. }) if status == 503)
        );
        let addr = serve(&network, response("200 OK", "<html>")).await;
        assert!(
            matches!(get_health(&network, addr, second).await, Err(HealthError::Body { body, .. }) if body == "<html>")
        );
        let addr = serve(&network, String::new()).await;
        let error = get_health(&network, addr, Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, HealthError::TimedOut { step: "response", .. }) && error.is_pending());

        let error = get_health(&network, "192.168.100.1:9".parse().unwrap(), second).await.unwrap_err();
        assert!(matches!(error, HealthError::Refused { .. }) && error.is_pending());
        assert_eq!(chain(&error), ["192.168.100.1:9 refused the connection", "Connection refused (os error 111)"]);
        let error = get_health(&network, "10.9.9.9:8080".parse().unwrap(), second).await.unwrap_err();
        assert!(matches!(error, HealthError::Unreachable { .. }), "{error:?}");
        // Nobody answers ARP in the subnet, the kernel gives up after three seconds.
        let error = get_health(&network, "192.168.100.77:8080".parse().unwrap(), Duration::from_millis(200)).await;
        assert!(matches!(error, Err(HealthError::TimedOut { step: "connect", .. })), "{error:?}");
    }
}
