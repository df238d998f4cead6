//! HTTP/1 over Firecracker's Unix socket: one request at a time on one connection.
//!
//! ```text
//! connect ──> idle ──call──> in flight ──answer read whole──> idle
//!              ^                  └─ deadline, fault of the transport, or the caller gave up ──> none ──call──> connect
//! ```
//! A connection whose answer was not read whole is dropped with its call, so no later call ever reads an earlier one's answer:
//! every call may be cancelled. What Firecracker did with a request whose answer was lost is not known; nothing is repeated here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api;
use crate::unix;

/// The largest answer that is read, in bytes; the longest real one is that of `GET /vm/config`.
const MAX_ANSWER: usize = 1 << 20;

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket cannot be reached.
    #[error("connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The body cannot be written as JSON.
    #[error("encode {method} {path}")]
    Encode {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The exchange broke.
    #[error("{method} {path}")]
    Exchange {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{method} {path} was not answered within {waited:?}")]
    TimedOut {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Firecracker refused.
    #[error("{method} {path} was answered {status}")]
    Refused {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// The status.
        status: StatusCode,
        /// Firecracker's own words.
        #[source]
        source: Fault,
    },
    /// The answer is not what the call returns.
    #[error("read the answer of {method} {path}: {answer:?}")]
    Answer {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// Its beginning.
        answer: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A `fault_message`, or the beginning of whatever else was said in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl ApiError {
    /// Firecracker's own words, if it refused.
    pub fn fault(&self) -> Option<&str> {
        if let Self::Refused { source, .. } = self { Some(&source.0) } else { None }
    }
}

/// A connection to one Firecracker.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    idle: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Connects as soon as the socket is there. Runs until then: the caller bounds it.
    pub async fn connect(socket: &Path) -> Result<Self, ApiError> {
        let stream = unix::connect_when_there(socket).await;
        let idle = Some(over(stream, socket).await?);
        Ok(Self { socket: socket.to_owned(), idle })
    }

    /// `GET`.
    pub async fn get<A: DeserializeOwned>(&mut self, path: &str, deadline: Duration) -> Result<A, ApiError> {
        let (method, answer) = (Method::GET, self.call(Method::GET, path, Bytes::new(), deadline).await?);
        serde_json::from_slice(&answer).map_err(|source| ApiError::Answer {
            method,
            path: path.to_owned(),
            answer: beginning(&answer),
            source,
        })
    }

    /// `PUT`.
    pub async fn put(&mut self, path: &str, body: &impl Serialize, deadline: Duration) -> Result<(), ApiError> {
        self.send(Method::PUT, path, body, deadline).await
    }

    /// `PATCH`.
    pub async fn patch(&mut self, path: &str, body: &impl Serialize, deadline: Duration) -> Result<(), ApiError> {
        self.send(Method::PATCH, path, body, deadline).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        let encoded = serde_json::to_vec(body);
        let encoded =
            encoded.map_err(|source| ApiError::Encode { method: method.clone(), path: path.to_owned(), source })?;
        self.call(method, path, encoded.into(), deadline).await.map(drop)
    }

    /// One exchange; the connection is kept only if it went well.
    async fn call(&mut self, method: Method, path: &str, body: Bytes, deadline: Duration) -> Result<Bytes, ApiError> {
        let exchange = async {
            let mut sender = match self.idle.take().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => over(unix::connect(&self.socket).await, &self.socket).await?,
            };
            let (status, answer) = exchange(&mut sender, &method, path, body)
                .await
                .map_err(|source| ApiError::Exchange { method: method.clone(), path: path.to_owned(), source })?;
            self.idle = Some(sender);
            Ok((status, answer))
        };
        let (status, answer) = tokio::time::timeout(deadline, exchange).await.map_err(|_| ApiError::TimedOut {
            method: method.clone(),
            path: path.to_owned(),
            waited: deadline,
        })??;
        if status.is_success() {
            return Ok(answer);
        }
        let fault = serde_json::from_slice::<api::Error>(&answer).map(|error| error.fault_message);
        let source = Fault(fault.unwrap_or_else(|_| beginning(&answer)));
        Err(ApiError::Refused { method, path: path.to_owned(), status, source })
    }
}

async fn over(stream: io::Result<tokio::net::UnixStream>, socket: &Path) -> Result<SendRequest<Full<Bytes>>, ApiError> {
    let error = |source| ApiError::Connect { socket: socket.to_owned(), source };
    let (sender, connection) = http1::handshake(TokioIo::new(stream.map_err(error)?))
        .await
        .map_err(|source| error(io::Error::other(source)))?;
    // Ends with the sender.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to Firecracker's API ended");
        }
    });
    Ok(sender)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    request = request.header(header::ACCEPT, "application/json");
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    sender.ready().await?;
    let (head, body) = sender.send_request(request.body(Full::new(body))?).await?.into_parts();
    let answer = Limited::new(body, MAX_ANSWER).collect().await?;
    Ok((head.status, answer.to_bytes()))
}

fn beginning(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(200).collect()
}
