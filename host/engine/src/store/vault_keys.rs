//! Which master keys rows are sealed under, and their data keys wrapped anew.

use std::collections::BTreeMap;

use sqlx::Row;

use super::credentials::{SealedCredential, read_sealed};
use super::{Store, StoreError, sql};

impl Store {
    /// How many credentials each master key wraps.
    pub async fn key_usage(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let doing = "count what each key wraps";
        let rows = sqlx::query("SELECT key_id, COUNT(*) AS n FROM credentials GROUP BY key_id")
            .fetch_all(&self.pool)
            .await
            .map_err(sql(doing))?;
        let read = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get("key_id")?, row.try_get("n")?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(sql(doing))
    }

    /// The first credential behind that one (user, provider) which another key than `active` wraps.
    pub async fn next_to_rewrap(
        &self,
        active: &str,
        behind: &(String, String),
    ) -> Result<Option<SealedCredential>, StoreError> {
        let query = "SELECT * FROM credentials WHERE key_id <> $1 AND (user_id > $2 OR (user_id = $2 AND provider > $3)) \
             ORDER BY user_id, provider LIMIT 1";
        let row = sqlx::query(query)
            .bind(active)
            .bind(&behind.0)
            .bind(&behind.1)
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("find what to wrap anew"))?;
        row.as_ref().map(read_sealed).transpose()
    }

    /// Puts a data key that was wrapped anew in the place of the former one; `false` if the row was written meanwhile.
    pub async fn rewrap(
        &self,
        former: &SealedCredential,
        key_id: &str,
        wrapped_key: &[u8],
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE credentials SET wrapped_key = $1, key_id = $2 WHERE user_id = $3 AND provider = $4 AND wrapped_key = $5",
        )
        .bind(wrapped_key)
        .bind(key_id)
        .bind(&former.record.user_id)
        .bind(&former.record.provider)
        .bind(&former.wrapped_key)
        .execute(&self.synced)
        .await
        .map_err(sql("wrap a data key anew"))?;
        Ok(done.rows_affected() == 1)
    }
}
