//! What is there, counted.

use std::collections::BTreeMap;

use sqlx::Row;

use super::{Store, StoreError, sql};

/// Rows by what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// VMs that have not ended, by state.
    pub vms: BTreeMap<String, usize>,
    /// Sessions that have not ended, by state.
    pub sessions: BTreeMap<String, usize>,
    /// Sessions that failed, by cause.
    pub failures: BTreeMap<String, usize>,
    /// Leased addresses.
    pub leased: usize,
}

impl Store {
    /// Counts the rows of this host.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let vms = "SELECT state AS name, COUNT(*) AS n FROM vms WHERE host = $1 AND ended_ms IS NULL GROUP BY state";
        let sessions =
            "SELECT state AS name, COUNT(*) AS n FROM sessions WHERE host = $1 AND ended_ms IS NULL GROUP BY state";
        let failures = "SELECT json_extract(failure, '$.cause') AS name, COUNT(*) AS n FROM sessions \
             WHERE host = $1 AND failure IS NOT NULL GROUP BY 1";
        let leased = "SELECT 'leased' AS name, COUNT(*) AS n FROM leases WHERE host = $1";
        Ok(Counts {
            vms: self.count(vms).await?,
            sessions: self.count(sessions).await?,
            failures: self.count(failures).await?,
            leased: self.count(leased).await?.into_values().sum(),
        })
    }

    async fn count(&self, query: &'static str) -> Result<BTreeMap<String, usize>, StoreError> {
        let doing = "count what is recorded";
        let rows = sqlx::query(query).bind(&self.host).fetch_all(&self.pool).await.map_err(sql(doing))?;
        let read = |row: &sqlx::sqlite::SqliteRow| -> Result<(String, usize), StoreError> {
            let count: i64 = row.try_get("n").map_err(sql(doing))?;
            Ok((row.try_get("name").map_err(sql(doing))?, usize::try_from(count).unwrap_or_default()))
        };
        rows.iter().map(read).collect()
    }
}
