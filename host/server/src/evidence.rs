//! Evidence bundles: all, one, export, remove. All need `admin`: a console may tell more than its session's owner should know.

use std::io::{self, Write};

use airlock_api::ErrorBody;
use airlock_api::evidence::{EvidenceDetail, EvidenceFile, EvidenceLeftOut, EvidenceList, EvidenceView};
use airlock_domain::EvidenceId;
use airlock_domain::evidence::EvidenceIdError;
use airlock_engine::evidence::{Bundle, FileRecord, Summary};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::access::Caller;
use crate::app::App;
use crate::error::{ApiError, chain};
use crate::request::PathText;
use crate::views;

/// Every evidence bundle, newest first.
#[utoipa::path(get, path = "/api/evidence",
    responses((status = 200, body = EvidenceList), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Result<Json<EvidenceList>, ApiError> {
    let found = app.engine().evidence().await?;
    let size_bytes = found.iter().map(|summary| summary.bytes).sum();
    Ok(Json(EvidenceList { evidence: found.iter().map(view).collect(), size_bytes }))
}

/// An evidence bundle: cause, remedy, timeline, the end of the console, its files.
#[utoipa::path(get, path = "/api/evidence/{id}", params(("id" = String, Path)),
    responses((status = 200, body = EvidenceDetail), (status = "default", body = ErrorBody)))]
pub async fn show(State(app): State<App>, PathText(id): PathText<String>) -> Result<Json<EvidenceDetail>, ApiError> {
    let bundle = app.engine().evidence_bundle(id.parse()?).await?;
    Ok(Json(detail(bundle)))
}

/// An evidence bundle as one gzipped tar file, the same bytes every time.
#[utoipa::path(get, path = "/api/evidence/{id}/export", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/gzip", body = Vec<u8>), (status = "default", body = ErrorBody)))]
pub async fn export(State(app): State<App>, PathText(id): PathText<String>) -> Result<Response, ApiError> {
    let id: EvidenceId = id.parse()?;
    let export = app.engine().export_evidence(id).await?;
    let disposition = format!("attachment; filename=\"{}\"", export.file_name());
    let (sender, receiver) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || match export.write(Chunks(&sender)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            tracing::error!(%id, error = %chain(&error), "export evidence");
            // Ends the answer as a broken one, so that nobody takes it for whole.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/gzip".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// Remove an evidence bundle. Refused while its machine is not destroyed.
#[utoipa::path(delete, path = "/api/evidence/{id}", params(("id" = String, Path)),
    responses((status = 204, description = "gone"), (status = "default", body = ErrorBody)))]
pub async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, ApiError> {
    app.engine().delete_evidence(id.parse()?, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A writer whose bytes go out as they come; a reader that went away is a broken pipe.
struct Chunks<'s>(&'s mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<EvidenceIdError> for ApiError {
    fn from(error: EvidenceIdError) -> Self {
        Self::bad_input("malformed_id", error.to_string(), "list the bundles with airlock evidence ls")
    }
}

fn view(summary: &Summary) -> EvidenceView {
    let age_ms = Timestamp::now().as_millisecond().saturating_sub(summary.saved_ms);
    EvidenceView {
        id: summary.id.to_string(),
        vm_id: summary.id.vm_id().to_string(),
        session_id: summary.session_id.map(|id| id.to_string()),
        cause: summary.cause.map(|cause| cause.code().to_owned()),
        stage: summary.stage,
        saved_at: views::time(summary.saved_ms),
        age_s: u64::try_from(age_ms / 1000).unwrap_or(0),
        size_bytes: summary.bytes,
    }
}

fn detail(bundle: Bundle) -> EvidenceDetail {
    let (airlock_version, guest_build_id) = bundle.made_by.unzip();
    EvidenceDetail {
        evidence: view(&bundle.summary),
        message: bundle.detail,
        remedy: bundle.summary.cause.map(|cause| cause.remedy().to_owned()),
        airlock_version,
        guest_build_id,
        stages: bundle.timeline.iter().map(views::stage).collect(),
        console_end: bundle.console_end,
        files: bundle.files.into_iter().map(file).collect(),
        left_out: bundle
            .left_out
            .into_iter()
            .map(|left| EvidenceLeftOut { name: left.name, reason: left.reason })
            .collect(),
    }
}

fn file(record: FileRecord) -> EvidenceFile {
    let (cut_bytes, cut_reason) = record.cut.map(|cut| (cut.bytes, cut.reason)).unzip();
    EvidenceFile {
        name: record.name,
        size_bytes: record.size,
        sha256: Some(record.sha256).filter(|digest| !digest.is_empty()),
        redacted: record.redacted,
        cut_bytes,
        cut_reason,
    }
}
