//! The machine's side: from the session's record to an RFB server that has let the daemon in.

use std::time::Duration;

use airlock_domain::{Cause, SessionId};
use airlock_effects::rfb::{HandshakeError, handshake};
use airlock_engine::{Engine, Screen, ViewerEnd};
use tokio::net::TcpStream;

use super::end::End;
use crate::error::chain;

/// How long the machine may take to let the daemon in. Under emulation and load it takes its time.
const CONNECT: Duration = Duration::from_secs(10);

/// Waits for the machine's display, then for its password if it asks for one, and gets in. Nothing of it comes from the viewer.
pub async fn open(engine: &Engine, id: SessionId) -> Result<TcpStream, End> {
    let screen = known(engine.viewer_target(id).await)?;
    match connect(engine, &screen).await {
        Err(Attempt::NoPassword) => {
            let screen = known(engine.viewer_target_with_password(id).await)?;
            connect(engine, &screen).await.map_err(Attempt::end)
        }
        attempt => attempt.map_err(Attempt::end),
    }
}

fn known(target: Result<Result<Screen, ViewerEnd>, airlock_engine::Error>) -> Result<Screen, End> {
    match target {
        Ok(Ok(screen)) => Ok(screen),
        Ok(Err(ViewerEnd { state })) => Err(End::Session(state)),
        Err(error) => Err(End::Unreachable(chain(&error))),
    }
}

/// What came of one try.
enum Attempt {
    /// The server asks for a password, and the agent has not set it yet.
    NoPassword,
    Failed(End),
}

impl Attempt {
    fn end(self) -> End {
        match self {
            Self::NoPassword => End::PasswordMismatch("it asks for a password, and there is none".to_owned()),
            Self::Failed(end) => end,
        }
    }
}

async fn connect(engine: &Engine, screen: &Screen) -> Result<TcpStream, Attempt> {
    let addr = screen.addr;
    let failed = |why| Attempt::Failed(End::Unreachable(why));
    let opened = tokio::time::timeout(CONNECT, async {
        let socket = engine.network().tcp_socket().await.map_err(|error| failed(chain(&error)))?;
        let unreachable = |error| failed(format!("connect to {addr}: {error}"));
        let mut stream = socket.connect(addr).await.map_err(unreachable)?;
        // Key strokes are small and must not wait for each other.
        stream.set_nodelay(true).map_err(|error| failed(format!("set TCP_NODELAY to {addr}: {error}")))?;
        match handshake(&mut stream, screen.password.as_ref()).await {
            Ok(()) => Ok(stream),
            Err(HandshakeError::NoPassword) => Err(Attempt::NoPassword),
            Err(error @ HandshakeError::NotLetIn { .. }) => {
                let why = format!("{}: {addr}: {}", Cause::VncAuthMismatch, chain(&error));
                Err(Attempt::Failed(End::PasswordMismatch(why)))
            }
            Err(error) => Err(failed(format!("{addr}: {}", chain(&error)))),
        }
    });
    opened.await.unwrap_or_else(|_| Err(failed(format!("{addr}: not in within {} s", CONNECT.as_secs()))))
}
