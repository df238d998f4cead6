//! Sessions, and the one transaction that accepts a start: session, VM, lease and the lease's journal entry together.

use std::net::Ipv4Addr;

use airlock_domain::boot::Failure;
use airlock_domain::session::SessionState;
use airlock_domain::step::Step;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{SessionId, VmId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, sql};
use crate::records::{SessionRecord, VmState};

/// A start that was checked and may be accepted.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Identity of the session.
    pub id: SessionId,
    /// Identity of its VM.
    pub vm_id: VmId,
    /// Whose sign-in.
    pub user_id: String,
    /// Provider id.
    pub provider: String,
    /// The caller's key for this start.
    pub idempotency_key: Option<String>,
    /// Golden image, `name@sha256:digest`.
    pub image: String,
    /// What will run it.
    pub driver: DriverKind,
    /// Now.
    pub now_ms: i64,
    /// When the session expires.
    pub deadline_ms: i64,
}

impl Store {
    /// Accepts a start: leases the lowest free address of `pool` and writes session and VM. The same user, provider and
    /// idempotency key give the session that was accepted before, with `false`.
    pub async fn accept(
        &self,
        new: &NewSession,
        pool: impl Iterator<Item = Ipv4Addr>,
    ) -> Result<(SessionRecord, bool), StoreError> {
        let mut tx = self.begin("accept a start").await?;
        if let Some(key) = &new.idempotency_key {
            let known =
                sqlx::query("SELECT * FROM sessions WHERE user_id = $1 AND provider = $2 AND idempotency_key = $3")
                    .bind(&new.user_id)
                    .bind(&new.provider)
                    .bind(key)
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(sql("look up an idempotency key"))?;
            if let Some(row) = known {
                return Ok((read_session(&row)?, false));
            }
        }
        let leased: Vec<String> = sqlx::query_scalar("SELECT address FROM leases WHERE host = $1")
            .bind(&self.host)
            .fetch_all(&mut *tx)
            .await
            .map_err(sql("read the leases"))?;
        let mut size = 0;
        let free = pool.inspect(|_| size += 1).find(|addr| !leased.contains(&addr.to_string()));
        let address = free.ok_or(StoreError::PoolExhausted { size })?;
        let record = SessionRecord {
            id: new.id,
            user_id: new.user_id.clone(),
            provider: new.provider.clone(),
            state: SessionState::Starting,
            vm_id: new.vm_id,
            address,
            created_ms: new.now_ms,
            deadline_ms: new.deadline_ms,
            ended_ms: None,
            failure: None,
        };
        sqlx::query("INSERT INTO leases (host, address, vm_id, since_ms) VALUES ($1, $2, $3, $4)")
            .bind(&self.host)
            .bind(address.to_string())
            .bind(new.vm_id.to_string())
            .bind(new.now_ms)
            .execute(&mut *tx)
            .await
            .map_err(sql("lease an address"))?;
        sqlx::query(
            "INSERT INTO journal (vm_id, step, intent_ms, outcome, outcome_ms) VALUES ($1, $2, $3, 'applied', $3)",
        )
        .bind(new.vm_id.to_string())
        .bind(Step::LeaseAddress.name())
        .bind(new.now_ms)
        .execute(&mut *tx)
        .await
        .map_err(sql("journal a lease"))?;
        sqlx::query(
            "INSERT INTO vms (id, host, session_id, image, driver, state, address, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(new.vm_id.to_string())
        .bind(&self.host)
        .bind(new.id.to_string())
        .bind(&new.image)
        .bind(new.driver.to_string())
        .bind(VmState::Starting.name())
        .bind(address.to_string())
        .bind(new.now_ms)
        .execute(&mut *tx)
        .await
        .map_err(sql("record a VM"))?;
        sqlx::query(
            "INSERT INTO sessions (id, host, user_id, provider, state, vm_id, address, idempotency_key, created_ms, deadline_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(new.id.to_string())
        .bind(&self.host)
        .bind(&new.user_id)
        .bind(&new.provider)
        .bind(record.state.name())
        .bind(new.vm_id.to_string())
        .bind(address.to_string())
        .bind(&new.idempotency_key)
        .bind(new.now_ms)
        .bind(new.deadline_ms)
        .execute(&mut *tx)
        .await
        .map_err(sql("record a session"))?;
        tx.commit().await.map_err(sql("commit a start"))?;
        Ok((record, true))
    }

    /// One session.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM sessions WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read a session"))?;
        row.as_ref().map(read_session).transpose()
    }

    /// Sessions of one user or of all, newest first, at most 200.
    pub async fn sessions(&self, user_id: Option<&str>) -> Result<Vec<SessionRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM sessions WHERE $1 IS NULL OR user_id = $1 ORDER BY created_ms DESC, id LIMIT 200",
        )
        .bind(user_id)
        .fetch_all(&self.pool)
        .await
        .map_err(sql("list sessions"))?;
        rows.iter().map(read_session).collect()
    }

    /// Moves a session from `from` to `to`; `false` if it was not in `from` any more (terminal states are immutable).
    pub async fn move_session(
        &self,
        id: SessionId,
        from: SessionState,
        to: SessionState,
        failure: Option<&Failure>,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE sessions SET state = $1, failure = $2, ended_ms = $3 WHERE id = $4 AND state = $5")
                .bind(to.name())
                .bind(failure.map(to_json).transpose()?)
                .bind(to.is_terminal().then_some(now_ms))
                .bind(id.to_string())
                .bind(from.name())
                .execute(&self.pool)
                .await
                .map_err(sql("move a session"))?;
        Ok(done.rows_affected() == 1)
    }
}

pub(super) fn read_session(row: &SqliteRow) -> Result<SessionRecord, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a session's column"));
    let number = |column: &'static str| row.try_get::<i64, _>(column).map_err(sql("read a session's column"));
    Ok(SessionRecord {
        id: text("id")?.parse()?,
        user_id: text("user_id")?,
        provider: text("provider")?,
        state: text("state")?.parse().map_err(|e| StoreError::corrupt("a session's state", e))?,
        vm_id: text("vm_id")?.parse()?,
        address: text("address")?.parse().map_err(|e| StoreError::corrupt("a session's address", e))?,
        created_ms: number("created_ms")?,
        deadline_ms: number("deadline_ms")?,
        ended_ms: row.try_get("ended_ms").map_err(sql("read a session's column"))?,
        failure: read_failure(row)?,
    })
}

pub(super) fn read_failure(row: &SqliteRow) -> Result<Option<Failure>, StoreError> {
    let text: Option<String> = row.try_get("failure").map_err(sql("read a failure"))?;
    text.map(|json| serde_json::from_str(&json).map_err(|e| StoreError::corrupt("a failure", e))).transpose()
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("a value to write", e))
}
