//! Sealed credentials. The contents are opaque here; [`crate::vault`] seals and opens them.

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::sessions::to_json;
use super::{Store, StoreError, sql};
use crate::records::CredentialRecord;

/// A credential as it lies in the store.
#[derive(Debug, Clone)]
pub struct SealedCredential {
    /// What it is.
    pub record: CredentialRecord,
    /// Data key, wrapped by the master key.
    pub wrapped_key: Vec<u8>,
    /// Contents, sealed by the data key.
    pub sealed: Vec<u8>,
}

impl Store {
    /// Commits a sealed credential and completes its session, together. `false`, with nothing written, if the session is
    /// not capturing any more.
    pub async fn complete(&self, credential: &SealedCredential, now_ms: i64) -> Result<bool, StoreError> {
        let record = &credential.record;
        let mut tx = self.synced.begin_with("BEGIN IMMEDIATE").await.map_err(sql("commit a credential"))?;
        let moved = sqlx::query("UPDATE sessions SET state = $1, ended_ms = $2 WHERE id = $3 AND state = $4")
            .bind(SessionState::Completed.name())
            .bind(now_ms)
            .bind(record.session_id.to_string())
            .bind(SessionState::Capturing.name())
            .execute(&mut *tx)
            .await
            .map_err(sql("complete a session"))?;
        if moved.rows_affected() != 1 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO credentials (user_id, provider, session_id, created_ms, key_id, wrapped_key, sealed, files) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_id, provider) DO UPDATE SET session_id = excluded.session_id, \
             created_ms = excluded.created_ms, key_id = excluded.key_id, wrapped_key = excluded.wrapped_key, sealed = excluded.sealed, files = excluded.files",
        )
        .bind(&record.user_id)
        .bind(&record.provider)
        .bind(record.session_id.to_string())
        .bind(record.created_ms)
        .bind(&record.key_id)
        .bind(&credential.wrapped_key)
        .bind(&credential.sealed)
        .bind(to_json(&record.files)?)
        .execute(&mut *tx)
        .await
        .map_err(sql("write a credential"))?;
        tx.commit().await.map_err(sql("commit a credential"))?;
        Ok(true)
    }

    /// What credentials a user has.
    pub async fn credentials(&self, user_id: &str) -> Result<Vec<CredentialRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM credentials WHERE user_id = $1 ORDER BY provider")
            .bind(user_id)
            .fetch_all(&self.pool)
            .await
            .map_err(sql("list credentials"))?;
        rows.iter().map(|row| Ok(read_sealed(row)?.record)).collect()
    }

    /// One sealed credential.
    pub async fn credential(&self, user_id: &str, provider: &str) -> Result<Option<SealedCredential>, StoreError> {
        let row = sqlx::query("SELECT * FROM credentials WHERE user_id = $1 AND provider = $2")
            .bind(user_id)
            .bind(provider)
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read a credential"))?;
        row.as_ref().map(read_sealed).transpose()
    }

    /// Deletes a credential; its wrapped data key is overwritten by the database (`secure_delete`). `false` if there is none.
    pub async fn delete_credential(&self, user_id: &str, provider: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM credentials WHERE user_id = $1 AND provider = $2")
            .bind(user_id)
            .bind(provider)
            .execute(&self.writer)
            .await
            .map_err(sql("delete a credential"))?;
        Ok(done.rows_affected() == 1)
    }
}

fn read_sealed(row: &SqliteRow) -> Result<SealedCredential, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a credential's column"));
    let bytes = |column: &'static str| row.try_get::<Vec<u8>, _>(column).map_err(sql("read a credential's column"));
    let session_id: SessionId = text("session_id")?.parse()?;
    Ok(SealedCredential {
        record: CredentialRecord {
            user_id: text("user_id")?,
            provider: text("provider")?,
            session_id,
            created_ms: row.try_get("created_ms").map_err(sql("read a credential's column"))?,
            key_id: text("key_id")?,
            files: serde_json::from_str(&text("files")?).map_err(|e| StoreError::corrupt("a credential's files", e))?,
        },
        wrapped_key: bytes("wrapped_key")?,
        sealed: bytes("sealed")?,
    })
}
