//! `GET /api/vms/{id}/console`: what the guest wrote on its serial console, as it is.
//!
//! The text is the guest's and not to be trusted: it is sent as plain text, and whoever prints it on a terminal removes its control
//! sequences. A followed console ends when the machine is gone.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_api::ErrorBody;
use airlock_domain::VmId;
use airlock_effects::watch::DirWatch;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::app::App;
use crate::error::{ApiError, chain};
use crate::request::{Id, QueryOf};

/// Bytes of the tail that are sent without `tail`.
const TAIL: u64 = 64 * 1024;
/// How often a quiet console is asked whether its machine still lives.
const LIFE_CHECK: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<io::Result<Bytes>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleQuery {
    #[serde(default)]
    follow: bool,
    tail: Option<u64>,
}

/// The end of a machine's console, and with `follow=true` what comes after it.
#[utoipa::path(get, path = "/api/vms/{id}/console",
    params(("id" = String, Path), ("follow" = Option<bool>, Query), ("tail" = Option<u64>, Query, description = "bytes, 65536 by default")),
    responses((status = 200, content_type = "text/plain", body = String), (status = "default", body = ErrorBody)))]
pub async fn console(
    State(app): State<App>,
    Id(id): Id<VmId>,
    QueryOf(query): QueryOf<ConsoleQuery>,
) -> Result<Response, ApiError> {
    let path = app.engine().console_path(id).await?;
    let unreadable = |error: io::Error| {
        tracing::error!(vm = %id, path = %path.display(), %error, "open a console");
        let remedy = "the machine has no console yet, or its evidence was removed; see airlock vm show";
        ApiError::new(StatusCode::NOT_FOUND, "console_missing", format!("machine {id} has no readable console"), remedy)
    };
    let mut file = File::open(&path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(query.tail.unwrap_or(TAIL)))).await.map_err(unreadable)?;
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        let end = async {
            if query.follow {
                follow(&app, id, &path, &mut file, &sender).await
            } else {
                copy(&mut file, &sender).await.map(drop)
            }
        };
        tokio::select! {
            _ = end => {}
            () = sender.closed() => {}
            () = app.closing() => {}
        }
    });
    let kind = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
    Ok(([kind], Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

async fn follow(app: &App, id: VmId, path: &Path, file: &mut File, sender: &Sender) -> Result<(), Gone> {
    let dir = path.parent().map(PathBuf::from).unwrap_or_default();
    // A directory that is gone belongs to a machine that is gone: what is left in the file is all there is.
    let watch = DirWatch::new(&dir)
        .inspect_err(|error| tracing::info!(vm = %id, error = %chain(error), "console not followed"));
    loop {
        copy(file, sender).await?;
        let (Ok(watch), Ok(vm)) = (&watch, app.engine().vm(id).await) else { break };
        if vm.ended_ms.is_some() {
            break;
        }
        // Writes wake at once. The machine's end shows in its record and not always in the directory.
        let _ = tokio::time::timeout(LIFE_CHECK, watch.changed()).await;
    }
    copy(file, sender).await.map(drop)
}

/// Whoever listened is gone, or the file cannot be read.
struct Gone;

async fn copy(file: &mut File, sender: &Sender) -> Result<(), Gone> {
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        match file.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                sender.send(Ok(bytes)).await.map_err(|_| Gone)?;
            }
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return Err(Gone);
            }
        }
    }
}
