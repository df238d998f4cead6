//! Sealed credentials. The contents are opaque here; [`crate::vault`] seals and opens them.
//!
//! Every write carries its audit entry in its transaction. Versions are never given twice: the counter outlives the credential.

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::sessions::to_json;
use super::{Store, StoreError, sql};
use crate::audit::Act;
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

/// What the audit log calls a credential.
pub(crate) fn subject_of(user_id: &str, provider: &str) -> String {
    format!("{user_id}/{provider}")
}

impl Store {
    /// Commits a sealed credential and completes its session, together. `false`, with nothing written, if the session is
    /// not capturing any more.
    pub async fn complete(&self, credential: &SealedCredential, now_ms: i64) -> Result<bool, StoreError> {
        let record = &credential.record;
        let mut tx = self.begin_synced("commit a credential").await?;
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
        let version: i64 = sqlx::query_scalar(
            "INSERT INTO credential_leases (user_id, provider, version, fence, holder, until_ms, boot_id) VALUES ($1, $2, 1, 0, NULL, 0, '') \
             ON CONFLICT (user_id, provider) DO UPDATE SET version = credential_leases.version + 1 RETURNING version",
        )
        .bind(&record.user_id)
        .bind(&record.provider)
        .fetch_one(&mut *tx)
        .await
        .map_err(sql("number a credential"))?;
        put(&mut tx, credential, version).await?;
        let actor = format!("session:{}", record.session_id);
        let act = Act::new(&actor, "credential_stored", subject_of(&record.user_id, &record.provider));
        let act = act.with(json!({"version": version, "keyId": record.key_id, "files": record.files}));
        self.append(&mut tx, &act, now_ms).await?;
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

    /// Deletes a credential: its wrapped data key is overwritten, nobody holds its lease any more. `false` if there is none. What the
    /// write-ahead log still has of it goes with [`Store::erase_traces`].
    pub async fn delete_credential(
        &self,
        user_id: &str,
        provider: &str,
        actor: &str,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let doing = "delete a credential";
        let mut tx = self.begin_synced(doing).await?;
        let both = "UPDATE credentials SET wrapped_key = zeroblob(length(wrapped_key)), sealed = zeroblob(length(sealed)) \
             WHERE user_id = $1 AND provider = $2";
        sqlx::query(both).bind(user_id).bind(provider).execute(&mut *tx).await.map_err(sql(doing))?;
        let done = sqlx::query("DELETE FROM credentials WHERE user_id = $1 AND provider = $2")
            .bind(user_id)
            .bind(provider)
            .execute(&mut *tx)
            .await
            .map_err(sql(doing))?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        let revoke = "UPDATE credential_leases SET holder = NULL WHERE user_id = $1 AND provider = $2";
        sqlx::query(revoke).bind(user_id).bind(provider).execute(&mut *tx).await.map_err(sql(doing))?;
        self.append(&mut tx, &Act::new(actor, "credential_deleted", subject_of(user_id, provider)), now_ms).await?;
        tx.commit().await.map_err(sql(doing))?;
        Ok(true)
    }

    /// Carries everything over into the database file, where freed places are overwritten (`secure_delete`), and empties the
    /// write-ahead log. `false` if somebody still read an older state of it.
    pub async fn erase_traces(&self) -> Result<bool, StoreError> {
        let doing = "empty the write-ahead log";
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&self.writer).await.map_err(sql(doing))?;
        Ok(row.try_get::<i64, _>(0).map_err(sql(doing))? == 0)
    }
}

/// Writes a credential under its user and provider, whatever was there.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    credential: &SealedCredential,
    version: i64,
) -> Result<(), StoreError> {
    let record = &credential.record;
    sqlx::query(
        "INSERT INTO credentials (user_id, provider, session_id, created_ms, written_ms, expires_ms, version, key_id, wrapped_key, sealed, files) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (user_id, provider) DO UPDATE SET \
         session_id = excluded.session_id, created_ms = excluded.created_ms, written_ms = excluded.written_ms, \
         expires_ms = excluded.expires_ms, version = excluded.version, key_id = excluded.key_id, \
         wrapped_key = excluded.wrapped_key, sealed = excluded.sealed, files = excluded.files",
    )
    .bind(&record.user_id)
    .bind(&record.provider)
    .bind(record.session_id.to_string())
    .bind(record.created_ms)
    .bind(record.written_ms)
    .bind(record.expires_ms)
    .bind(version)
    .bind(&record.key_id)
    .bind(&credential.wrapped_key)
    .bind(&credential.sealed)
    .bind(to_json(&record.files)?)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("write a credential"))
}

pub(super) fn read_sealed(row: &SqliteRow) -> Result<SealedCredential, StoreError> {
    let doing = "read a credential's column";
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql(doing));
    let bytes = |column: &'static str| row.try_get::<Vec<u8>, _>(column).map_err(sql(doing));
    let number = |column: &'static str| row.try_get::<i64, _>(column).map_err(sql(doing));
    let session_id: SessionId = text("session_id")?.parse()?;
    Ok(SealedCredential {
        record: CredentialRecord {
            user_id: text("user_id")?,
            provider: text("provider")?,
            session_id,
            created_ms: number("created_ms")?,
            written_ms: number("written_ms")?,
            expires_ms: row.try_get("expires_ms").map_err(sql(doing))?,
            version: number("version")?,
            key_id: text("key_id")?,
            files: serde_json::from_str(&text("files")?).map_err(|e| StoreError::corrupt("a credential's files", e))?,
        },
        wrapped_key: bytes("wrapped_key")?,
        sealed: bytes("sealed")?,
    })
}
