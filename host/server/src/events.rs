//! `GET .../events`: a session's life as server-sent events.
//!
//! What was, then what is: the timeline so far, the state, then everything new. Events are `state` (the session's view) and `stage`.
//! The stream ends after a final state, which is always its last event. A reader that falls behind gets what it missed from the
//! timeline. Comment lines keep proxies from closing a quiet stream.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use airlock_domain::SessionId;
use airlock_domain::boot::TimelineEntry;
use airlock_engine::records::{SessionEvent, SessionRecord};
use airlock_engine::{Engine, SessionWatch};
use airlock_protocol::Stage;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::access::Caller;
use crate::app::App;
use crate::error::{ApiError, chain};
use crate::request::Id;
use crate::views::{self, Around};

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader; more than a whole boot has.
const BUFFER: usize = 64;

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// Follow a session.
#[utoipa::path(get, path = "/api/auth/session/{id}/events", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String,
               description = "events `state` (SessionView) and `stage` (StageView); ends after a final state"),
              (status = "default", body = airlock_api::ErrorBody)))]
pub async fn events(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Response, ApiError> {
    let watch = app.engine().watch(id).await?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(app.engine(), watch, &caller, &sender) => {}
            () = sender.closed() => {}
            () = app.closing() => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

async fn follow(engine: &Engine, mut watch: SessionWatch, caller: &Caller, sender: &Sender) {
    let (id, around) = (watch.session.id, Around::of(engine));
    let mut told = Told { caller: Some(caller.clone()), ..Told::default() };
    loop {
        // A watch repeats what was told before it was opened; only what is new is sent.
        for event in told.catch_up(around, &watch.session, &watch.timeline) {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        let mut closed = false;
        while !told.over && !closed {
            let event = match watch.events.recv().await {
                Ok(SessionEvent::Stage(entry)) => told.stage(&entry),
                Ok(SessionEvent::State(record)) => told.state(around, &record),
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => {
                    closed = true;
                    None
                }
            };
            if let Some(event) = event
                && sender.send(Ok(event)).await.is_err()
            {
                return;
            }
        }
        if told.over {
            return;
        }
        watch = match engine.watch(id).await {
            // Nothing will happen any more: what the record says is the last word.
            Ok(watch) if closed && !watch.session.state.is_terminal() => {
                return tracing::warn!(session = %id, state = watch.session.state.name(), "a session has no task");
            }
            Ok(watch) => watch,
            Err(error) => {
                return tracing::warn!(session = %id, error = %chain(&error), "an event stream lost its session");
            }
        };
    }
}

/// What a reader knows already.
#[derive(Default)]
struct Told {
    stages: HashSet<(Stage, bool)>,
    reached: Option<Stage>,
    last: Option<SessionRecord>,
    over: bool,
    caller: Option<Caller>,
}

impl Told {
    fn catch_up(&mut self, around: Around<'_>, session: &SessionRecord, timeline: &[TimelineEntry]) -> Vec<Event> {
        let mut events: Vec<Event> = timeline.iter().filter_map(|entry| self.stage(entry)).collect();
        events.extend(self.state(around, session));
        events
    }

    fn stage(&mut self, entry: &TimelineEntry) -> Option<Event> {
        if !self.stages.insert((entry.stage, entry.ok)) {
            return None;
        }
        if entry.ok {
            self.reached = self.reached.max(Some(entry.stage));
        }
        event("stage", &views::stage(entry))
    }

    fn state(&mut self, around: Around<'_>, record: &SessionRecord) -> Option<Event> {
        if self.over || self.last.as_ref() == Some(record) {
            return None;
        }
        self.last = Some(record.clone());
        self.over = record.state.is_terminal();
        let mut view = views::session(around, record, self.reached);
        if let Some(caller) = &self.caller {
            views::for_caller(&mut view, caller);
        }
        event("state", &view)
    }
}

fn event(name: &str, body: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::session::SessionState;
    use airlock_domain::vmm::DriverKind;
    use airlock_domain::{SessionId, VmId};
    use airlock_engine::records::SessionClock;

    fn record(state: SessionState) -> SessionRecord {
        SessionRecord {
            id: "01234567-89ab-4def-8123-456789abcdef".parse::<SessionId>().unwrap(),
            user_id: "u".into(),
            provider: "demo".into(),
            state,
            vm_id: "01234567-89ab-4def-8123-456789abcdee".parse::<VmId>().unwrap(),
            image: "browser@sha256:00".into(),
            driver: DriverKind::QemuTcg,
            memory_mib: 1024,
            address: Some([192, 168, 100, 2].into()),
            queue_position: None,
            created_ms: 0,
            deadline_ms: 1,
            clock: SessionClock { boot_id: String::new(), created_ms: 0, deadline_ms: 1 },
            ended_ms: None,
            failure: None,
        }
    }

    fn entry(stage: Stage) -> TimelineEntry {
        TimelineEntry { stage, ok: true, at_ms: 1.0, guest_us: None, errno: None, detail: None }
    }

    #[test]
    fn nothing_is_told_twice_and_nothing_after_the_end() {
        let mut told = Told::default();
        let timeline = [entry(Stage::Planned), entry(Stage::Leased)];
        assert_eq!(told.catch_up(Around::default(), &record(SessionState::Starting), &timeline).len(), 3);
        // The same stages again, live, because they happened between subscribing and reading.
        assert!(told.stage(&entry(Stage::Leased)).is_none());
        assert!(told.state(Around::default(), &record(SessionState::Starting)).is_none());
        let later = [entry(Stage::Planned), entry(Stage::Leased), entry(Stage::TapUp)];
        assert_eq!(told.catch_up(Around::default(), &record(SessionState::Booting), &later).len(), 2);
        assert_eq!(told.reached, Some(Stage::TapUp));
        assert!(told.state(Around::default(), &record(SessionState::Cancelled)).is_some() && told.over);
        assert!(told.state(Around::default(), &record(SessionState::Booting)).is_none());
    }
}
