//! Leases: the hold of one owner on a VM and its address. A row is a live lease; its key makes an address unique.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use airlock_domain::VmId;
use airlock_domain::reconcile::{Lease, VmRow};
use airlock_domain::step::Step;
use airlock_domain::vmm::ProcessId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::journal::APPLIED;
use super::{Store, StoreError, sql};

/// How long a lease lasts without being renewed, in milliseconds: several times what any single thing takes that its owner
/// waits for (a VMM may take 20 s to start and 10 s to vanish).
pub const LEASE_MS: i64 = 60_000;

const ROWS: &str = "SELECT v.id, v.address, v.ended_ms, v.pid, v.start_ticks, s.state, s.deadline_mono_ms, l.generation, l.expires_ms \
     FROM vms v JOIN sessions s ON s.id = v.session_id LEFT JOIN leases l ON l.vm_id = v.id WHERE v.host = $1";

impl Store {
    /// Renews a lease of that generation until `expires_ms` (monotonic clock); `false` if it has another owner, or none.
    pub async fn renew_lease(&self, id: VmId, generation: i64, expires_ms: i64) -> Result<bool, StoreError> {
        let renewed = sqlx::query("UPDATE leases SET expires_ms = $1 WHERE vm_id = $2 AND generation = $3")
            .bind(expires_ms)
            .bind(id.to_string())
            .bind(generation)
            .execute(&self.writer)
            .await
            .map_err(sql("renew a lease"))?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Makes the caller the owner of a VM whose lease has that generation; returns the new one. None if somebody else was faster.
    pub async fn take_lease(&self, id: VmId, generation: i64, expires_ms: i64) -> Result<Option<i64>, StoreError> {
        let taken = sqlx::query(
            "UPDATE leases SET generation = generation + 1, expires_ms = $1 WHERE vm_id = $2 AND generation = $3",
        )
        .bind(expires_ms)
        .bind(id.to_string())
        .bind(generation)
        .execute(&self.writer)
        .await
        .map_err(sql("take a lease"))?;
        Ok((taken.rows_affected() == 1).then_some(generation + 1))
    }

    /// Makes this daemon the owner of a VM that an earlier one started; returns the lease's new generation, none if the VM has no
    /// lease any more. That the earlier one is gone is known by the lock of the state directory.
    pub async fn adopt_lease(&self, id: VmId, expires_ms: i64) -> Result<Option<i64>, StoreError> {
        sqlx::query_scalar(
            "UPDATE leases SET generation = generation + 1, expires_ms = $1 WHERE vm_id = $2 RETURNING generation",
        )
        .bind(expires_ms)
        .bind(id.to_string())
        .fetch_optional(&self.writer)
        .await
        .map_err(sql("adopt a lease"))
    }

    /// Gives the address back. Only after the VMM process is proved gone.
    pub async fn release_lease(&self, id: VmId) -> Result<bool, StoreError> {
        let released = sqlx::query("DELETE FROM leases WHERE vm_id = $1")
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map_err(sql("release a lease"))?;
        Ok(released.rows_affected() == 1)
    }

    /// Whose lease an address of this host is now.
    pub async fn lease_holder(&self, address: Ipv4Addr) -> Result<Option<VmId>, StoreError> {
        let found: Option<String> = sqlx::query_scalar("SELECT vm_id FROM leases WHERE host = $1 AND address = $2")
            .bind(&self.host)
            .bind(address.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read whose an address is"))?;
        Ok(found.map(|id| id.parse()).transpose()?)
    }

    /// What the reconciler compares: every VM of this host that is open or has a lease, and those of `seen` that ended.
    /// `held` are the ones that a task of this daemon owns.
    pub async fn reconcile_rows(&self, seen: &BTreeSet<VmId>, held: &BTreeSet<VmId>) -> Result<Vec<VmRow>, StoreError> {
        let doing = "read what is recorded";
        // One snapshot for both tables.
        let mut tx = self.pool.begin().await.map_err(sql(doing))?;
        let open = format!(
            "{ROWS} AND (v.ended_ms IS NULL OR v.id IN (SELECT vm_id FROM leases WHERE host = $1)) ORDER BY v.created_ms, v.id"
        );
        let found =
            sqlx::query(sqlx::AssertSqlSafe(open)).bind(&self.host).fetch_all(&mut *tx).await.map_err(sql(doing))?;
        let mut rows: Vec<VmRow> = found.iter().map(read_row).collect::<Result<_, _>>()?;
        let steps = sqlx::query(
            "SELECT j.vm_id, j.step, j.outcome FROM journal j JOIN vms v ON v.id = j.vm_id \
             WHERE v.host = $1 AND v.ended_ms IS NULL AND j.undone_ms IS NULL",
        )
        .bind(&self.host)
        .fetch_all(&mut *tx)
        .await
        .map_err(sql(doing))?;
        let known: BTreeSet<VmId> = rows.iter().map(|row| row.id).collect();
        for id in seen.difference(&known) {
            let one = format!("{ROWS} AND v.id = $2");
            let found = sqlx::query(sqlx::AssertSqlSafe(one))
                .bind(&self.host)
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await
                .map_err(sql(doing))?;
            rows.extend(found.as_ref().map(read_row).transpose()?);
        }
        tx.commit().await.map_err(sql(doing))?;
        let mut journal: BTreeMap<VmId, Vec<(Step, bool)>> = BTreeMap::new();
        for step in &steps {
            let text = |column: &'static str| step.try_get::<Option<String>, _>(column).map_err(sql(doing));
            let id: VmId = text("vm_id")?.unwrap_or_default().parse()?;
            if let Some(known) = Step::by_name(&text("step")?.unwrap_or_default()) {
                journal.entry(id).or_default().push((known, text("outcome")?.as_deref() == Some(APPLIED)));
            }
        }
        for row in &mut rows {
            row.held = held.contains(&row.id);
            let mut steps = journal.remove(&row.id).unwrap_or_default();
            steps.sort_unstable();
            row.begun = steps.iter().map(|(step, _)| *step).collect();
            row.applied = steps.iter().filter(|(_, applied)| *applied).map(|(step, _)| *step).collect();
        }
        Ok(rows)
    }
}

fn read_row(row: &SqliteRow) -> Result<VmRow, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a VM's column"));
    let number = |column: &'static str| row.try_get::<Option<i64>, _>(column).map_err(sql("read a VM's column"));
    let pid: Option<i32> = row.try_get("pid").map_err(sql("read a VM's column"))?;
    let process =
        pid.zip(number("start_ticks")?).map(|(pid, ticks)| ProcessId { pid, start_ticks: ticks.unsigned_abs() });
    let lease = number("generation")?.zip(number("expires_ms")?);
    Ok(VmRow {
        id: text("id")?.parse()?,
        address: text("address")?.parse().map_err(|e| StoreError::corrupt("a VM's address", e))?,
        ended: number("ended_ms")?.is_some(),
        session: text("state")?.parse().map_err(|e| StoreError::corrupt("a session's state", e))?,
        deadline_ms: number("deadline_mono_ms")?.unwrap_or_default(),
        lease: lease.map(|(generation, expires_ms)| Lease { generation, expires_ms }),
        process,
        begun: Vec::new(),
        applied: Vec::new(),
        held: false,
    })
}
