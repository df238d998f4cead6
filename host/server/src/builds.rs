//! Builds of images: begun, listed, followed, cancelled. They run in the daemon and share its build lock.
//!
//! The events of a build are `build` (its view, first as it is and then whenever it changes) and `line` (of its log, from now on).
//! The stream ends after the view of an ended build, which is always its last event.

use std::convert::Infallible;
use std::time::Duration;

use airlock_api::build::{BuildLine, BuildList, BuildRequest, BuildStageView, BuildView};
use airlock_api::{ErrorBody, ErrorDetail};
use airlock_engine::images::{BuildNews, BuildWatch, StartBuild};
use airlock_image::job::{BuildFailure, BuildRecord, StageRecord, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::app::App;
use crate::error::ApiError;
use crate::request::JsonBody;
use crate::views::time;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader.
const BUFFER: usize = 64;

/// Build an image. Answers at once; see its events.
#[utoipa::path(post, path = "/api/images/builds", request_body = BuildRequest,
    responses((status = 202, body = BuildView), (status = "default", body = ErrorBody)))]
pub async fn create(
    State(app): State<App>,
    JsonBody(body): JsonBody<BuildRequest>,
) -> Result<(StatusCode, Json<BuildView>), ApiError> {
    let request = StartBuild { recipe: body.recipe, refresh: body.refresh, boot_test: body.boot_test, wait: body.wait };
    let record = app.engine().start_build(request).await?;
    Ok((StatusCode::ACCEPTED, Json(view(&record))))
}

/// Builds that run, and the latest of each name.
#[utoipa::path(get, path = "/api/images/builds", responses((status = 200, body = BuildList), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Result<Json<BuildList>, ApiError> {
    let builds = app.engine().builds().await?;
    Ok(Json(BuildList { builds: builds.iter().map(view).collect() }))
}

/// One build.
#[utoipa::path(get, path = "/api/images/builds/{id}", params(("id" = String, Path)),
    responses((status = 200, body = BuildView), (status = "default", body = ErrorBody)))]
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<BuildView>, ApiError> {
    Ok(Json(view(&app.engine().build(&id).await?)))
}

/// Cancel a build. Answers when nothing of it runs; one that ended already is left as it is.
#[utoipa::path(delete, path = "/api/images/builds/{id}", params(("id" = String, Path)),
    responses((status = 200, body = BuildView), (status = "default", body = ErrorBody)))]
pub async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result<Json<BuildView>, ApiError> {
    Ok(Json(view(&app.engine().cancel_build(&id).await?)))
}

/// Follow a build.
#[utoipa::path(get, path = "/api/images/builds/{id}/events", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String,
               description = "events `build` (BuildView) and `line` (BuildLine); ends after an ended build"),
              (status = "default", body = ErrorBody)))]
pub async fn events(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let watch = app.engine().watch_build(&id).await?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&app, watch, &sender) => {}
            () = sender.closed() => {}
            () = app.closing() => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

async fn follow(app: &App, mut watch: BuildWatch, sender: &mpsc::Sender<Result<Event, Infallible>>) {
    let id = watch.record.id.clone();
    let mut next = Some(BuildNews::Record(Box::new(watch.record)));
    loop {
        let over = matches!(&next, Some(BuildNews::Record(record)) if record.state.is_over());
        let event = match next {
            Some(BuildNews::Record(record)) => event("build", &view(&record)),
            Some(BuildNews::Line { stage, line }) => event("line", &BuildLine { stage: stage.name().to_owned(), line }),
            None => None,
        };
        if let Some(event) = event
            && sender.send(Ok(event)).await.is_err()
        {
            return;
        }
        if over {
            return;
        }
        next = match watch.news.recv().await {
            Ok(news) => Some(news),
            // Lines were missed, and maybe a change: where it stands is asked again.
            Err(RecvError::Lagged(_)) => {
                app.engine().build(&id).await.ok().map(|record| BuildNews::Record(Box::new(record)))
            }
            Err(RecvError::Closed) => {
                if let Ok(record) = app.engine().build(&id).await
                    && let Some(event) = event_of(&record)
                {
                    let _ = sender.send(Ok(event)).await;
                }
                return;
            }
        };
    }
}

fn event_of(record: &BuildRecord) -> Option<Event> {
    event("build", &view(record))
}

fn event(name: &str, body: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(body).ok()
}

/// A build as the API shows it.
fn view(record: &BuildRecord) -> BuildView {
    let remaining = record.remaining(now_ms());
    BuildView {
        id: record.id.clone(),
        name: record.name.clone(),
        state: record.state.name().to_owned(),
        stage: record.stage().map(|stage| stage.name().to_owned()),
        remaining_ms: remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        started_at: time(record.started_ms),
        ended_at: record.ended_ms.map(time),
        stages: record.stages.iter().map(stage).collect(),
        image: record.image.clone(),
        error: record.failure.as_ref().map(error),
    }
}

fn stage(record: &StageRecord) -> BuildStageView {
    let state = match (record.started_ms, record.elapsed_ms) {
        (_, Some(_)) => "done",
        (Some(_), None) => "running",
        (None, None) => "waiting",
    };
    BuildStageView {
        stage: record.stage.name().to_owned(),
        state: state.to_owned(),
        elapsed_ms: record.elapsed_ms,
        expected_ms: record.expected_ms,
        reused: record.reused,
    }
}

fn error(failure: &BuildFailure) -> ErrorDetail {
    ErrorDetail {
        code: failure.code.clone(),
        message: failure.message.clone(),
        cause: failure.cause.clone(),
        stage: failure.boot_stage,
        remedy: Some(failure.remedy.clone()),
        evidence_id: failure.evidence_id.clone(),
        console_end: Vec::new(),
        request_id: None,
    }
}
