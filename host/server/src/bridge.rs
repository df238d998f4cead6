//! `WS .../vnc`: the machine's screen (RFB, RFC 6143) as binary WebSocket messages.
//!
//! ```text
//! open -> waiting for the display -> bridging -> closed
//! ```
//!
//! Bytes pass unread. Each direction holds one buffer and waits for its reader, so a slow side slows the other and memory stays
//! bounded. The close code says how the session stands: 4000 completed, 4001 failed, 4002 cancelled, 4003 expired, 4004 the machine
//! is gone (its session not over yet), 1012 the daemon ends, 1011 the screen cannot be reached. A person who leaves ends nothing:
//! the session lives on until its deadline.

use std::net::SocketAddr;
use std::time::Duration;

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use airlock_engine::records::SessionEvent;
use airlock_engine::{Engine, ViewerEnd};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::error::RecvError;

use crate::app::App;
use crate::error::{ApiError, chain};
use crate::request::Id;

/// noVNC's name for RFB over binary messages.
const SUBPROTOCOL: &str = "binary";
/// Bytes that wait for the browser.
const BUFFER: usize = 64 * 1024;
/// Largest message of a viewer; key and pointer events have a few bytes, a clipboard some thousand.
const LARGEST_MESSAGE: usize = 1 << 20;
const PING: Duration = Duration::from_secs(20);
/// Pings stay unanswered for this long: the viewer is gone.
const SILENCE: Duration = Duration::from_secs(65);
const CONNECT: Duration = Duration::from_secs(5);
/// The machine is destroyed right after its session ends; this long the verdict is waited for when the screen went first.
const VERDICT: Duration = Duration::from_secs(3);

/// The screen of the session's machine as a WebSocket; waits until the machine has a display.
#[utoipa::path(get, path = "/api/auth/session/{id}/vnc", params(("id" = String, Path)),
    responses((status = 101, description = "WebSocket, subprotocol `binary` or none"),
              (status = "default", body = airlock_api::ErrorBody)))]
pub async fn screen(
    State(app): State<App>,
    Id(id): Id<SessionId>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        let remedy = "open it as a WebSocket; people use the session's viewer link";
        ApiError::new(rejection.status(), "not_a_websocket", rejection.body_text(), remedy)
    })?;
    if !speaks_binary(&headers) {
        let message = "none of the offered subprotocols is known";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "unknown_subprotocol", message, "offer binary, or none"));
    }
    app.engine().session(id).await?;
    let upgrade = upgrade.protocols([SUBPROTOCOL]).max_message_size(LARGEST_MESSAGE).max_frame_size(LARGEST_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| serve(app, id, socket)).into_response())
}

fn speaks_binary(headers: &HeaderMap) -> bool {
    let mut offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().peekable();
    offered.peek().is_none()
        || offered
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .any(|name| name.trim() == SUBPROTOCOL)
}

/// Why a bridge ended.
enum End {
    /// The viewer left; there is nobody to tell.
    ViewerGone,
    /// The machine closed the screen.
    ScreenGone,
    Session(SessionState),
    Unreachable(String),
    DaemonEnds,
}

async fn serve(app: App, id: SessionId, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let end = tokio::select! {
        end = run(app.engine(), id, &mut sink, &mut stream) => end,
        state = session_over(app.engine(), id) => End::Session(state),
        () = app.closing() => End::DaemonEnds,
    };
    let end = match end {
        End::ScreenGone => match tokio::time::timeout(VERDICT, session_over(app.engine(), id)).await {
            Ok(state) => End::Session(state),
            Err(_) => End::ScreenGone,
        },
        other => other,
    };
    if let End::Unreachable(why) = &end {
        tracing::warn!(session = %id, why, "the screen cannot be shown");
    }
    let Some((code, reason)) = close_code(&end) else { return };
    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // A viewer that does not read is not waited for.
    let _ = tokio::time::timeout(CONNECT, sink.send(close)).await;
}

fn close_code(end: &End) -> Option<(u16, &'static str)> {
    Some(match end {
        End::ViewerGone => return None,
        End::ScreenGone => (4004, "machine gone"),
        End::Session(SessionState::Completed) => (4000, "completed"),
        End::Session(SessionState::Failed) => (4001, "failed"),
        End::Session(SessionState::Cancelled) => (4002, "cancelled"),
        End::Session(SessionState::Expired) => (4003, "expired"),
        // Not terminal: the machine went before its session's verdict.
        End::Session(_) => (4004, "machine gone"),
        End::Unreachable(_) => (1011, "screen not reachable"),
        End::DaemonEnds => (1012, "daemon restarts"),
    })
}

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

async fn run(engine: &Engine, id: SessionId, sink: &mut Sink, stream: &mut Stream) -> End {
    let target = tokio::select! {
        target = engine.viewer_target(id) => target,
        () = keep_alive(sink, stream) => return End::ViewerGone,
    };
    let target = match target {
        Ok(Ok(target)) => target,
        Ok(Err(ViewerEnd { state })) => return End::Session(state),
        Err(error) => return End::Unreachable(chain(&error)),
    };
    let (screen_read, screen_write) = match connect(engine, target).await {
        Ok(screen) => screen.into_split(),
        Err(why) => return End::Unreachable(why),
    };
    tokio::select! {
        end = to_viewer(screen_read, sink) => end,
        end = to_screen(stream, screen_write) => end,
    }
}

async fn connect(engine: &Engine, target: SocketAddr) -> Result<TcpStream, String> {
    let socket = engine.network().tcp_socket().await.map_err(|error| chain(&error))?;
    let connected = tokio::time::timeout(CONNECT, socket.connect(target)).await;
    let screen = connected
        .map_err(|_| format!("connect to {target}: no answer in {} s", CONNECT.as_secs()))?
        .map_err(|error| format!("connect to {target}: {error}"))?;
    // Key strokes are small and must not wait for each other.
    screen.set_nodelay(true).map_err(|error| format!("set TCP_NODELAY to {target}: {error}"))?;
    Ok(screen)
}

/// Keeps a connection that has nothing to carry yet; returns when the viewer is gone.
async fn keep_alive(sink: &mut Sink, stream: &mut Stream) {
    let mut ping = tokio::time::interval(PING);
    loop {
        tokio::select! {
            _ = ping.tick() => if sink.send(Message::Ping(Vec::new().into())).await.is_err() { return },
            // RFB lets the server speak first, so whatever a viewer sends now is not RFB.
            message = stream.next() => if !matches!(message, Some(Ok(Message::Pong(_) | Message::Ping(_)))) { return },
        }
    }
}

async fn to_viewer(mut screen: OwnedReadHalf, sink: &mut Sink) -> End {
    let mut buffer = vec![0u8; BUFFER];
    let mut ping = tokio::time::interval(PING);
    loop {
        let message = tokio::select! {
            _ = ping.tick() => Message::Ping(Vec::new().into()),
            read = screen.read(&mut buffer) => match read {
                Ok(count) if count > 0 => Message::Binary(buffer.get(..count).unwrap_or_default().to_vec().into()),
                _ => return End::ScreenGone,
            },
        };
        if sink.send(message).await.is_err() {
            return End::ViewerGone;
        }
    }
}

async fn to_screen(stream: &mut Stream, mut screen: OwnedWriteHalf) -> End {
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(Message::Binary(bytes)))) => {
                if screen.write_all(&bytes).await.is_err() {
                    return End::ScreenGone;
                }
            }
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            // Text is no RFB; the rest is a close, a broken connection, or silence.
            _ => return End::ViewerGone,
        }
    }
}

/// Returns when the session has reached a final state.
async fn session_over(engine: &Engine, id: SessionId) -> SessionState {
    loop {
        let mut watch = match engine.watch(id).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(session = %id, error = %chain(&error), "a viewer lost its session");
                return SessionState::Failed;
            }
        };
        if watch.session.state.is_terminal() {
            return watch.session.state;
        }
        loop {
            match watch.events.recv().await {
                Ok(SessionEvent::State(record)) if record.state.is_terminal() => return record.state,
                Ok(_) => {}
                // Fell behind, or the session's task ended: the record says what became of it.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => {
                    let state = engine.session(id).await.map_or(SessionState::Failed, |record| record.state);
                    return state;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn close_codes_tell_how_it_ended() {
        let code = |end| close_code(&end).map(|(code, _)| code);
        assert_eq!(code(End::Session(SessionState::Completed)), Some(4000));
        assert_eq!(code(End::Session(SessionState::Failed)), Some(4001));
        assert_eq!(code(End::Session(SessionState::Cancelled)), Some(4002));
        assert_eq!(code(End::Session(SessionState::Expired)), Some(4003));
        assert_eq!(code(End::ScreenGone), Some(4004));
        assert_eq!(code(End::Session(SessionState::AwaitingUser)), Some(4004));
        assert_eq!(code(End::ViewerGone), None);
    }

    #[test]
    fn knows_its_subprotocol() {
        let offers = |value| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
            speaks_binary(&headers)
        };
        assert!(speaks_binary(&HeaderMap::new()));
        assert!(offers("binary") && offers("base64, binary"));
        assert!(!offers("base64") && !offers("binaryx"));
    }
}
