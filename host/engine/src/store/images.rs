//! Which images something recorded still needs.

use std::collections::BTreeSet;

use super::{Store, StoreError, sql};

impl Store {
    /// Images of sessions and VMs that have not ended, on any host, as `name@sha256:digest`.
    pub async fn images_in_use(&self) -> Result<BTreeSet<String>, StoreError> {
        let query =
            "SELECT image FROM vms WHERE ended_ms IS NULL UNION SELECT image FROM sessions WHERE ended_ms IS NULL";
        let found: Vec<String> =
            sqlx::query_scalar(query).fetch_all(&self.pool).await.map_err(sql("list images in use"))?;
        Ok(found.into_iter().collect())
    }
}
