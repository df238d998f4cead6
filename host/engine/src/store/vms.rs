//! VMs: record, journal of steps, timeline, lease.

use airlock_domain::VmId;
use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::vmm::ProcessId;
use airlock_protocol::MacAddr;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::sessions::{read_driver, read_failure, to_json};
use super::{Store, StoreError, sql};
use crate::records::{VmRecord, VmState};

const SELECT: &str = "SELECT v.*, (SELECT t.stage FROM timeline t WHERE t.vm_id = v.id ORDER BY json_extract(t.entry, '$.at_ms') DESC, t.rowid DESC LIMIT 1) AS stage FROM vms v";

impl Store {
    /// One VM.
    pub async fn vm(&self, id: VmId) -> Result<Option<VmRecord>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE v.id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read a VM"))?;
        row.as_ref().map(read_vm).transpose()
    }

    /// VMs of this host, live ones first, then the newest, at most 200.
    pub async fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        let query =
            format!("{SELECT} WHERE v.host = $1 ORDER BY v.ended_ms IS NOT NULL, v.created_ms DESC, v.id LIMIT 200");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(&self.host)
            .fetch_all(&self.pool)
            .await
            .map_err(sql("list VMs"))?;
        rows.iter().map(read_vm).collect()
    }

    /// VMs of this host that something may be left of, all of them.
    pub async fn open_vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE v.host = $1 AND v.ended_ms IS NULL")))
            .bind(&self.host)
            .fetch_all(&self.pool)
            .await
            .map_err(sql("list open VMs"))?;
        rows.iter().map(read_vm).collect()
    }

    /// Writes where a VM stands. `Destroyed` ends it.
    pub async fn set_vm_state(
        &self,
        id: VmId,
        state: VmState,
        failure: Option<&Failure>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE vms SET state = $1, failure = COALESCE($2, failure), ended_ms = $3 WHERE id = $4")
            .bind(state.name())
            .bind(failure.map(to_json).transpose()?)
            .bind((state == VmState::Destroyed).then_some(now_ms))
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(sql("record a VM's state"))
    }

    /// Records the VMM process.
    pub async fn set_vm_process(&self, id: VmId, process: ProcessId) -> Result<(), StoreError> {
        let ticks = i64::try_from(process.start_ticks).map_err(|e| StoreError::corrupt("a start time", e))?;
        sqlx::query("UPDATE vms SET pid = $1, start_ticks = $2 WHERE id = $3")
            .bind(process.pid)
            .bind(ticks)
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(sql("record a VM's process"))
    }

    /// Adds a stage to the timeline.
    pub async fn add_stage(&self, id: VmId, entry: &TimelineEntry) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO timeline (vm_id, stage, entry) VALUES ($1, $2, $3) ON CONFLICT (vm_id, stage) DO UPDATE SET entry = excluded.entry")
            .bind(id.to_string())
            .bind(entry.stage.name())
            .bind(to_json(entry)?)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(sql("record a stage"))
    }

    /// The timeline of a VM, as it happened; of one moment in stage order.
    pub async fn timeline(&self, id: VmId) -> Result<Vec<TimelineEntry>, StoreError> {
        let entries: Vec<String> = sqlx::query_scalar("SELECT entry FROM timeline WHERE vm_id = $1")
            .bind(id.to_string())
            .fetch_all(&self.pool)
            .await
            .map_err(sql("read a timeline"))?;
        let mut timeline: Vec<TimelineEntry> = entries
            .iter()
            .map(|json| serde_json::from_str(json).map_err(|e| StoreError::corrupt("a timeline entry", e)))
            .collect::<Result<_, _>>()?;
        timeline.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms).then(a.stage.cmp(&b.stage)));
        Ok(timeline)
    }
}

fn read_vm(row: &SqliteRow) -> Result<VmRecord, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a VM's column"));
    let id: VmId = text("id")?.parse()?;
    let address = text("address")?.parse().map_err(|e| StoreError::corrupt("a VM's address", e))?;
    let pid: Option<i32> = row.try_get("pid").map_err(sql("read a VM's column"))?;
    let ticks: Option<i64> = row.try_get("start_ticks").map_err(sql("read a VM's column"))?;
    let stage: Option<String> = row.try_get("stage").map_err(sql("read a VM's column"))?;
    Ok(VmRecord {
        id,
        session_id: text("session_id")?.parse()?,
        image: text("image")?,
        driver: read_driver(row)?,
        state: text("state")?.parse::<VmState>()?,
        address,
        mac: MacAddr::from_lease(address),
        tap: id.tap_name(),
        process: pid.zip(ticks).map(|(pid, ticks)| ProcessId { pid, start_ticks: ticks.unsigned_abs() }),
        created_ms: row.try_get("created_ms").map_err(sql("read a VM's column"))?,
        ended_ms: row.try_get("ended_ms").map_err(sql("read a VM's column"))?,
        stage: stage.map(|name| name.parse().map_err(|e| StoreError::corrupt("a stage", e))).transpose()?,
        failure: read_failure(row)?,
    })
}
