//! The audit log's rows: appended inside the transaction of what they tell, never changed. Chain and signatures: [`crate::audit`].

use airlock_domain::SessionId;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{Store, StoreError, sql};
use crate::audit::{Act, Entry, ORIGIN, PublicKey, hex, unhex};

/// Most entries in one answer.
const MOST: i64 = 1000;
/// What a receipt is called in the log.
pub(super) const DESTROYED: &str = "vm_destroyed";

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Those behind this number.
    pub after: i64,
    /// At most so many, and never more than 1000.
    pub limit: Option<i64>,
    /// Of this action only.
    pub action: Option<String>,
    /// About this subject only.
    pub subject: Option<String>,
}

impl Store {
    /// Puts an act behind the last entry. The connection is inside a transaction that writes, so that nobody else can.
    pub(super) async fn append(
        &self,
        connection: &mut SqliteConnection,
        act: &Act,
        now_ms: i64,
    ) -> Result<i64, StoreError> {
        let doing = "write the audit log";
        let last = sqlx::query("SELECT seq, hash FROM audit_entries WHERE host = $1 ORDER BY seq DESC LIMIT 1")
            .bind(&self.host)
            .fetch_optional(&mut *connection)
            .await
            .map_err(sql(doing))?;
        let (seq, previous) = match last {
            None => (0, ORIGIN),
            Some(row) => {
                let hash: Vec<u8> = row.try_get("hash").map_err(sql(doing))?;
                let hash = hash.try_into().map_err(|_| StoreError::corrupt("an audit entry's hash", "not 32 bytes"))?;
                (row.try_get::<i64, _>("seq").map_err(sql(doing))?, hash)
            }
        };
        let entry = self.audit_key.seal(&self.host, seq + 1, now_ms, act, previous);
        let bytes = |text: &str| unhex::<32>(text).unwrap_or_default().to_vec();
        sqlx::query(
            "INSERT INTO audit_entries (host, seq, at_ms, actor, action, subject, detail, previous, hash, key_id, signature) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&self.host)
        .bind(entry.seq)
        .bind(now_ms)
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(&entry.subject)
        .bind(&entry.detail)
        .bind(bytes(&entry.previous))
        .bind(bytes(&entry.hash))
        .bind(&entry.key_id)
        .bind(unhex::<64>(&entry.signature).map(|bytes| bytes.to_vec()).unwrap_or_default())
        .execute(&mut *connection)
        .await
        .map_err(sql(doing))?;
        Ok(entry.seq)
    }

    /// Writes an act that has no other trace in the store; synced, so that what was given out stays told.
    pub async fn audit(&self, act: &Act, now_ms: i64) -> Result<(), StoreError> {
        let mut tx = self.begin_synced("write the audit log").await?;
        self.append(&mut tx, act, now_ms).await?;
        tx.commit().await.map_err(sql("write the audit log"))
    }

    /// Entries of this host in their order.
    pub async fn audit_entries(&self, filter: &AuditFilter) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM audit_entries WHERE host = $1 AND seq > $2 AND ($3 IS NULL OR action = $3) \
             AND ($4 IS NULL OR subject = $4) ORDER BY seq LIMIT $5",
        )
        .bind(&self.host)
        .bind(filter.after)
        .bind(&filter.action)
        .bind(&filter.subject)
        .bind(filter.limit.unwrap_or(MOST).clamp(1, MOST))
        .fetch_all(&self.pool)
        .await
        .map_err(sql("read the audit log"))?;
        rows.iter().map(read_entry).collect()
    }

    /// Number and hash of this host's last entry.
    pub async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError> {
        let doing = "read the audit log's head";
        let row = sqlx::query("SELECT seq, hash FROM audit_entries WHERE host = $1 ORDER BY seq DESC LIMIT 1")
            .bind(&self.host)
            .fetch_optional(&self.pool)
            .await
            .map_err(sql(doing))?;
        let read = |row: SqliteRow| -> Result<(i64, String), sqlx::Error> {
            Ok((row.try_get("seq")?, hex(&row.try_get::<Vec<u8>, _>("hash")?)))
        };
        row.map(read).transpose().map_err(sql(doing))
    }

    /// What this host's entries are signed with now.
    pub fn audit_public_key(&self) -> PublicKey {
        self.audit_key.public()
    }

    /// The newest receipt of a session's machine.
    pub async fn receipt(&self, session: SessionId) -> Result<Option<Entry>, StoreError> {
        let query = "SELECT * FROM audit_entries WHERE subject = $1 AND action = $2 ORDER BY seq DESC LIMIT 1";
        let row = sqlx::query(query)
            .bind(session.to_string())
            .bind(DESTROYED)
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read a receipt"))?;
        row.as_ref().map(read_entry).transpose()
    }

    /// Moves what an earlier version logged into the chain, in its order and with its times.
    pub(super) async fn chain_older_entries(&self) -> Result<(), StoreError> {
        let doing = "chain the older audit log";
        let mut tx = self.begin(doing).await?;
        let older = sqlx::query("SELECT at_ms, actor, action, subject FROM audit WHERE host = $1 ORDER BY id")
            .bind(&self.host)
            .fetch_all(&mut *tx)
            .await
            .map_err(sql(doing))?;
        for row in &older {
            let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql(doing));
            let detail = serde_json::json!({"loggedAs": text("action")?});
            let act = Act::new(&text("actor")?, "logged_before_the_chain", text("subject")?).with(detail);
            self.append(&mut tx, &act, row.try_get("at_ms").map_err(sql(doing))?).await?;
        }
        if !older.is_empty() {
            sqlx::query("DELETE FROM audit WHERE host = $1")
                .bind(&self.host)
                .execute(&mut *tx)
                .await
                .map_err(sql(doing))?;
        }
        tx.commit().await.map_err(sql(doing))
    }
}

fn read_entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    let doing = "read an audit entry's column";
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql(doing));
    let digits = |column: &'static str| row.try_get::<Vec<u8>, _>(column).map(|bytes| hex(&bytes)).map_err(sql(doing));
    Ok(Entry {
        host: text("host")?,
        seq: row.try_get("seq").map_err(sql(doing))?,
        at_ms: row.try_get("at_ms").map_err(sql(doing))?,
        actor: text("actor")?,
        action: text("action")?,
        subject: text("subject")?,
        detail: text("detail")?,
        previous: digits("previous")?,
        hash: digits("hash")?,
        key_id: text("key_id")?,
        signature: digits("signature")?,
    })
}
