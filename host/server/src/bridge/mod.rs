//! `WS .../vnc`: the machine's screen (RFB, RFC 6143) as binary WebSocket messages.
//!
//! ```text
//! open -> waiting for the display (and its password) -> let in by the machine -> viewer greeted -> bridging -> closed
//! ```
//!
//! The target is the session's record and never the client's word. The daemon proves the machine's password; from then on bytes
//! pass unread. How it ended is the close code ([`end`]). A person who leaves ends nothing: the session lives on until its
//! deadline. Anything that goes wrong here costs one viewer.

mod end;
mod relay;
mod screen;
mod seats;
mod viewer;

use std::time::Duration;

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use airlock_engine::Engine;
use airlock_engine::records::SessionEvent;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use self::end::End;
pub use self::seats::Seats;
use self::viewer::{Incoming, Signs, Sink};
use crate::app::App;
use crate::error::{ApiError, chain};
use crate::request::Id;

/// noVNC's name for RFB over binary messages.
const SUBPROTOCOL: &str = "binary";
/// Largest message of a viewer; key and pointer events have a few bytes, a clipboard some thousand.
const LARGEST_MESSAGE: usize = 1 << 20;
/// What is read of a viewer at once.
const READ_BUFFER: usize = 16 * 1024;
/// The machine is destroyed right after its session ends; this long the verdict is waited for when the screen went first.
const VERDICT: Duration = Duration::from_secs(3);
/// A viewer that does not read is not waited for when it is told the end.
const FAREWELL: Duration = Duration::from_secs(5);

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
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(LARGEST_MESSAGE)
        .max_frame_size(LARGEST_MESSAGE)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0);
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

async fn serve(app: App, id: SessionId, socket: WebSocket) {
    let limits = &app.engine().config().viewer;
    let (mut sink, stream) = socket.split();
    let mut incoming = Incoming::new(stream);
    let seat = app.seats().take(id, limits.per_session);
    let end = if seat.is_none() {
        End::Limit
    } else {
        tokio::select! {
            end = run(app.engine(), id, &mut sink, &mut incoming) => end,
            state = session_over(app.engine(), id) => End::Session(state),
            () = tokio::time::sleep(Duration::from_secs(limits.max_s)) => End::Limit,
            () = app.closing() => End::DaemonEnds,
        }
    };
    // The place is free as soon as nothing is carried any more.
    drop(seat);
    let end = match end {
        End::ScreenGone => match tokio::time::timeout(VERDICT, session_over(app.engine(), id)).await {
            Ok(state) => End::Session(state),
            Err(_) => End::ScreenGone,
        },
        other => other,
    };
    match &end {
        End::Unreachable(why) | End::PasswordMismatch(why) => {
            tracing::warn!(session = %id, why, "the screen cannot be shown");
        }
        end => tracing::info!(session = %id, ?end, "a viewer left"),
    }
    let Some((code, reason)) = end.close_code() else { return };
    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // What the viewer still says is read to its end: a connection that is closed over unread bytes is reset, and the reset
    // overtakes the reason.
    let _ = tokio::time::timeout(FAREWELL, async {
        if sink.send(close).await.is_ok() {
            incoming.drain().await;
        }
    })
    .await;
}

async fn run(engine: &Engine, id: SessionId, sink: &mut Sink, incoming: &mut Incoming) -> End {
    let signs = Signs::new();
    let opened = tokio::select! {
        opened = screen::open(engine, id) => opened,
        end = relay::keep_alive(sink, incoming, &signs) => return end,
    };
    let idle = Duration::from_secs(engine.config().viewer.idle_s);
    match opened {
        Ok(screen) => match viewer::greet(sink, incoming, &signs).await {
            Ok(()) => relay::relay(screen, sink, incoming, &signs, idle).await,
            Err(end) => end,
        },
        Err(end) => end,
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
