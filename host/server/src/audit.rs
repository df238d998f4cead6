//! The audit log (needs `admin`), and the receipt of a session's machine.

use airlock_api::ErrorBody;
use airlock_api::audit::{AuditEntry, AuditHead, AuditKeyView, AuditLog, Receipt};
use airlock_domain::SessionId;
use airlock_engine::audit::{Entry, PublicKey};
use airlock_engine::store::AuditFilter;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use crate::app::App;
use crate::error::ApiError;
use crate::request::{Id, QueryOf};

/// Which entries are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    #[serde(default)]
    after: i64,
    limit: Option<i64>,
    action: Option<String>,
    subject: Option<String>,
}

/// Entries of the audit log, oldest first; the next page begins `after` the last number.
#[utoipa::path(get, path = "/api/audit",
    params(("after" = Option<i64>, Query), ("limit" = Option<i64>, Query, description = "1 to 1000"),
        ("action" = Option<String>, Query), ("subject" = Option<String>, Query)),
    responses((status = 200, body = AuditLog), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<App>, QueryOf(query): QueryOf<AuditQuery>) -> Result<Json<AuditLog>, ApiError> {
    let AuditQuery { after, limit, action, subject } = query;
    let page = app.engine().audit_log(&AuditFilter { after, limit, action, subject }).await?;
    Ok(Json(AuditLog {
        entries: page.entries.into_iter().map(entry).collect(),
        head: page.head.map(|(seq, hash)| AuditHead { seq, hash }),
        keys: vec![key(page.key)],
    }))
}

/// What was removed when the session's machine was destroyed, signed. 404 as long as something of it may be left.
#[utoipa::path(get, path = "/api/auth/session/{id}/receipt", params(("id" = String, Path)),
    responses((status = 200, body = Receipt), (status = "default", body = ErrorBody)))]
pub async fn receipt(State(app): State<App>, Id(id): Id<SessionId>) -> Result<Json<Receipt>, ApiError> {
    let (found, signed_with) = app.engine().receipt(id).await?;
    Ok(Json(Receipt { entry: entry(found), key: key(signed_with) }))
}

fn key(key: PublicKey) -> AuditKeyView {
    AuditKeyView { id: key.id, key: key.key }
}

fn entry(entry: Entry) -> AuditEntry {
    AuditEntry {
        host: entry.host,
        seq: entry.seq,
        at_ms: entry.at_ms,
        actor: entry.actor,
        action: entry.action,
        subject: entry.subject,
        detail: entry.detail,
        previous: entry.previous,
        hash: entry.hash,
        key_id: entry.key_id,
        signature: entry.signature,
    }
}
