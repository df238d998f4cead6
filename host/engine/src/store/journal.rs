//! The journal of steps: intent before apply, outcome after it. A step without outcome may have happened. The intents of a whole
//! start are written in the transaction that accepts it.

use airlock_domain::VmId;
use airlock_domain::step::Step;

use super::{Store, StoreError, sql};

/// How the outcome of a step that was applied reads.
pub(super) const APPLIED: &str = "applied";

impl Store {
    /// Journals how a step went: applied, or the error.
    pub async fn journal_outcome(
        &self,
        id: VmId,
        step: Step,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE journal SET outcome = $1, outcome_ms = $2 WHERE vm_id = $3 AND step = $4")
            .bind(error.unwrap_or(APPLIED))
            .bind(now_ms)
            .bind(id.to_string())
            .bind(step.name())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(sql("journal an outcome"))
    }

    /// Journals how an undo went.
    pub async fn journal_undo(&self, id: VmId, step: Step, error: Option<&str>, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE journal SET undone_ms = $1, undo_error = $2 WHERE vm_id = $3 AND step = $4")
            .bind(error.is_none().then_some(now_ms))
            .bind(error)
            .bind(id.to_string())
            .bind(step.name())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(sql("journal an undo"))
    }

    /// Steps with an intent that were not undone yet.
    pub async fn begun_steps(&self, id: VmId) -> Result<Vec<Step>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar("SELECT step FROM journal WHERE vm_id = $1 AND undone_ms IS NULL")
            .bind(id.to_string())
            .fetch_all(&self.pool)
            .await
            .map_err(sql("read the journal"))?;
        Ok(names.iter().filter_map(|name| Step::by_name(name)).collect())
    }
}
