//! Sessions, and the one transaction that accepts a start: session, VM, lease and the journal's intents together, or a place in
//! the queue, or a refusal.

use std::net::Ipv4Addr;

use airlock_domain::admission::{Admission, Limits, Load, Shortage, admit};
use airlock_domain::boot::Failure;
use airlock_domain::network::Subnet;
use airlock_domain::session::SessionState;
use airlock_domain::step;
use airlock_domain::vmm::DriverKind;
use airlock_domain::{SessionId, VmId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use super::leases::LEASE_MS;
use super::{Store, StoreError, sql};
use crate::clock::Moment;
use crate::records::{SessionClock, SessionRecord, VmState};

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
    /// Memory of the VM, in MiB.
    pub memory_mib: u32,
    /// Now.
    pub now: Moment,
    /// This boot of the host.
    pub boot_id: String,
    /// How long the session may last, in milliseconds.
    pub lasts_ms: i64,
}

/// What a VM may take its place in.
#[derive(Debug, Clone)]
pub struct Room {
    /// What the operator allows.
    pub limits: Limits,
    /// The pool of addresses.
    pub subnet: Subnet,
    /// Memory of the host, in MiB.
    pub memory_mib: u64,
    /// Memory that could be given away now, in MiB.
    pub available_mib: u64,
}

/// What became of a start.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// The same user, provider and idempotency key were accepted before.
    Known(SessionRecord),
    /// Its VM may be started.
    Begun(SessionRecord),
    /// It waits.
    Waiting(SessionRecord, Shortage),
    /// Nothing was written: there is no room.
    Refused(Shortage),
    /// Nothing was written: the user's key stands for a start of another provider.
    Taken {
        /// Which.
        provider: String,
    },
}

const SELECT: &str = "SELECT s.*, CASE WHEN s.state = 'queued' THEN (SELECT COUNT(*) FROM sessions q WHERE q.host = s.host AND q.state = 'queued' \
     AND q.arrival <= s.arrival) END AS queue_position FROM sessions s";

impl Store {
    /// Accepts a start: leases the lowest free address and writes session and VM, or queues it, or refuses it.
    pub async fn accept(&self, new: &NewSession, room: &Room) -> Result<Accepted, StoreError> {
        let mut tx = self.begin("accept a start").await?;
        if let Some(key) = &new.idempotency_key {
            // The start with the same provider first, if there is one.
            let query =
                format!("{SELECT} WHERE s.user_id = $1 AND s.idempotency_key = $2 ORDER BY s.provider <> $3 LIMIT 1");
            let known = sqlx::query(sqlx::AssertSqlSafe(query))
                .bind(&new.user_id)
                .bind(key)
                .bind(&new.provider)
                .fetch_optional(&mut *tx)
                .await
                .map_err(sql("look up an idempotency key"))?;
            if let Some(row) = known {
                let known = read_session(&row)?;
                return Ok(if known.provider == new.provider {
                    Accepted::Known(known)
                } else {
                    Accepted::Taken { provider: known.provider }
                });
            }
        }
        let load = self.load(&mut tx, Some(&new.user_id), room).await?;
        let mut record = new.record();
        let accepted = match admit(new.memory_mib, &load, &room.limits) {
            Admission::Refuse(shortage) => return Ok(Accepted::Refused(shortage)),
            Admission::Wait { position, shortage } => {
                record.queue_position = Some(position);
                self.insert_session(&mut tx, &record, new).await?;
                Accepted::Waiting(record, shortage)
            }
            Admission::Admit => {
                record.state = SessionState::Starting;
                record.address = Some(self.insert_vm(&mut tx, &record, room, new.now).await?);
                self.insert_session(&mut tx, &record, new).await?;
                Accepted::Begun(record)
            }
        };
        tx.commit().await.map_err(sql("commit a start"))?;
        Ok(accepted)
    }

    /// Begins a session that waits, if there is room for it now.
    pub async fn admit(&self, id: SessionId, room: &Room, now: Moment) -> Result<Option<SessionRecord>, StoreError> {
        let mut tx = self.begin("admit a session").await?;
        let query = format!("{SELECT} WHERE s.id = $1 AND s.state = 'queued'");
        let first = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql("read the queue"))?;
        let Some(mut record) = first.as_ref().map(read_session).transpose()? else { return Ok(None) };
        let load = Load { waiting: 0, ..self.load(&mut tx, None, room).await? };
        if admit(record.memory_mib, &load, &room.limits) != Admission::Admit {
            return Ok(None);
        }
        record.state = SessionState::Starting;
        record.queue_position = None;
        let address = self.insert_vm(&mut tx, &record, room, now).await?;
        record.address = Some(address);
        sqlx::query("UPDATE sessions SET state = $1, address = $2 WHERE id = $3")
            .bind(record.state.name())
            .bind(address.to_string())
            .bind(record.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(sql("admit a session"))?;
        tx.commit().await.map_err(sql("commit an admission"))?;
        Ok(Some(record))
    }

    /// What is taken, as the records have it.
    async fn load(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        user_id: Option<&str>,
        room: &Room,
    ) -> Result<Load, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM vms WHERE host = $1 AND ended_ms IS NULL) AS vms, \
             (SELECT COALESCE(SUM(memory_mib), 0) FROM vms WHERE host = $1 AND ended_ms IS NULL) AS promised, \
             (SELECT COUNT(*) FROM sessions WHERE host = $1 AND ended_ms IS NULL AND user_id = $2) AS of_user, \
             (SELECT COUNT(*) FROM sessions WHERE host = $1 AND ended_ms IS NULL AND state = 'queued') AS waiting, \
             (SELECT COUNT(*) FROM leases WHERE host = $1) AS leased",
        )
        .bind(&self.host)
        .bind(user_id)
        .fetch_one(&mut **tx)
        .await
        .map_err(sql("count what lives"))?;
        let count = |column: &'static str| -> Result<u32, StoreError> {
            let count: i64 = row.try_get(column).map_err(sql("count what lives"))?;
            Ok(u32::try_from(count).unwrap_or(u32::MAX))
        };
        Ok(Load {
            vms: count("vms")?,
            sessions_of_user: count("of_user")?,
            waiting: count("waiting")?,
            memory_mib: room.memory_mib,
            available_mib: room.available_mib,
            promised_mib: count("promised")?.into(),
            addresses: u32::try_from(room.subnet.guest_addresses().count()).unwrap_or(u32::MAX),
            leased: count("leased")?,
        })
    }

    /// Lease, VM and the intents of every step of its start.
    async fn insert_vm(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        session: &SessionRecord,
        room: &Room,
        now: Moment,
    ) -> Result<Ipv4Addr, StoreError> {
        let leased: Vec<String> = sqlx::query_scalar("SELECT address FROM leases WHERE host = $1")
            .bind(&self.host)
            .fetch_all(&mut **tx)
            .await
            .map_err(sql("read the leases"))?;
        let free = room.subnet.guest_addresses().find(|addr| !leased.contains(&addr.to_string()));
        let address = free.ok_or_else(|| StoreError::corrupt("the leases", "more of them than addresses"))?;
        let vm_id = session.vm_id.to_string();
        sqlx::query("INSERT INTO leases (host, address, vm_id, since_ms, expires_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(&self.host)
            .bind(address.to_string())
            .bind(&vm_id)
            .bind(now.wall_ms)
            .bind(now.mono_ms + LEASE_MS)
            .execute(&mut **tx)
            .await
            .map_err(sql("lease an address"))?;
        sqlx::query(
            "INSERT INTO vms (id, host, session_id, image, driver, state, address, memory_mib, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&vm_id)
        .bind(&self.host)
        .bind(session.id.to_string())
        .bind(&session.image)
        .bind(session.driver.to_string())
        .bind(VmState::Starting.name())
        .bind(address.to_string())
        .bind(session.memory_mib)
        .bind(now.wall_ms)
        .execute(&mut **tx)
        .await
        .map_err(sql("record a VM"))?;
        // One intent for each step of the plan; they are applied one by one from here on.
        let places: Vec<_> = (0..step::start().len()).map(|n| format!("($1, ${}, $2)", n + 3)).collect();
        let intents = format!("INSERT INTO journal (vm_id, step, intent_ms) VALUES {}", places.join(", "));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(intents)).bind(&vm_id).bind(now.wall_ms);
        for step in step::start() {
            query = query.bind(step.name());
        }
        query.execute(&mut **tx).await.map_err(sql("journal the intents of a start"))?;
        Ok(address)
    }

    async fn insert_session(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        record: &SessionRecord,
        new: &NewSession,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO sessions (id, host, user_id, provider, state, vm_id, image, driver, memory_mib, address, idempotency_key, \
             created_ms, deadline_ms, boot_id, created_mono_ms, deadline_mono_ms, arrival) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
             COALESCE(MAX(arrival), 0) + 1 FROM sessions WHERE host = $2 AND ended_ms IS NULL",
        )
        .bind(record.id.to_string())
        .bind(&self.host)
        .bind(&record.user_id)
        .bind(&record.provider)
        .bind(record.state.name())
        .bind(record.vm_id.to_string())
        .bind(&record.image)
        .bind(record.driver.to_string())
        .bind(record.memory_mib)
        .bind(record.address.map(|address| address.to_string()))
        .bind(&new.idempotency_key)
        .bind(record.created_ms)
        .bind(record.deadline_ms)
        .bind(&record.clock.boot_id)
        .bind(record.clock.created_ms)
        .bind(record.clock.deadline_ms)
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(sql("record a session"))
    }

    /// Sessions that began in an earlier boot of the host get their deadlines on the clock of this one.
    pub async fn rebase_clocks(&self, boot_id: &str, now: Moment) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE sessions SET boot_id = $1, created_mono_ms = created_ms - $2 + $3, deadline_mono_ms = deadline_ms - $2 + $3 \
             WHERE host = $4 AND ended_ms IS NULL AND boot_id <> $1",
        )
        .bind(boot_id)
        .bind(now.wall_ms)
        .bind(now.mono_ms)
        .bind(&self.host)
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(sql("carry deadlines over to this boot"))
    }

    /// One session.
    pub async fn session(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE s.id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(sql("read a session"))?;
        row.as_ref().map(read_session).transpose()
    }

    /// Sessions of one user or of all, newest first, at most 200.
    pub async fn sessions(&self, user_id: Option<&str>) -> Result<Vec<SessionRecord>, StoreError> {
        let query = format!("{SELECT} WHERE $1 IS NULL OR s.user_id = $1 ORDER BY s.created_ms DESC, s.id LIMIT 200");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(user_id)
            .fetch_all(&self.pool)
            .await
            .map_err(sql("list sessions"))?;
        rows.iter().map(read_session).collect()
    }

    /// Sessions of this host that wait, in order.
    pub async fn queue(&self) -> Result<Vec<SessionRecord>, StoreError> {
        let query = format!("{SELECT} WHERE s.host = $1 AND s.state = 'queued' ORDER BY s.arrival");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(&self.host)
            .fetch_all(&self.pool)
            .await
            .map_err(sql("read the queue"))?;
        rows.iter().map(read_session).collect()
    }

    /// Sets when a session expires, unless it ended.
    pub async fn extend_session(&self, id: SessionId, deadline: Moment) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE sessions SET deadline_ms = $1, deadline_mono_ms = $2 WHERE id = $3 AND ended_ms IS NULL",
        )
        .bind(deadline.wall_ms)
        .bind(deadline.mono_ms)
        .bind(id.to_string())
        .execute(&self.writer)
        .await
        .map_err(sql("extend a session"))?;
        Ok(done.rows_affected() == 1)
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
                .execute(&self.writer)
                .await
                .map_err(sql("move a session"))?;
        Ok(done.rows_affected() == 1)
    }
}

impl NewSession {
    /// The session as it is before it has a machine.
    fn record(&self) -> SessionRecord {
        SessionRecord {
            id: self.id,
            user_id: self.user_id.clone(),
            provider: self.provider.clone(),
            state: SessionState::Queued,
            vm_id: self.vm_id,
            image: self.image.clone(),
            driver: self.driver,
            memory_mib: self.memory_mib,
            address: None,
            queue_position: None,
            created_ms: self.now.wall_ms,
            deadline_ms: self.now.wall_ms + self.lasts_ms,
            clock: SessionClock {
                boot_id: self.boot_id.clone(),
                created_ms: self.now.mono_ms,
                deadline_ms: self.now.mono_ms + self.lasts_ms,
            },
            ended_ms: None,
            failure: None,
            login: None,
        }
    }
}

fn read_session(row: &SqliteRow) -> Result<SessionRecord, StoreError> {
    let text = |column: &'static str| row.try_get::<String, _>(column).map_err(sql("read a session's column"));
    let number = |column: &'static str| row.try_get::<i64, _>(column).map_err(sql("read a session's column"));
    let maybe = |column: &'static str| row.try_get::<Option<i64>, _>(column).map_err(sql("read a session's column"));
    let address: Option<String> = row.try_get("address").map_err(sql("read a session's column"))?;
    let address = address.map(|text| text.parse().map_err(|e| StoreError::corrupt("a session's address", e)));
    Ok(SessionRecord {
        id: text("id")?.parse()?,
        user_id: text("user_id")?,
        provider: text("provider")?,
        state: text("state")?.parse().map_err(|e| StoreError::corrupt("a session's state", e))?,
        vm_id: text("vm_id")?.parse()?,
        image: text("image")?,
        driver: read_driver(row)?,
        memory_mib: u32::try_from(number("memory_mib")?).map_err(|e| StoreError::corrupt("a session's memory", e))?,
        address: address.transpose()?,
        queue_position: maybe("queue_position")?.and_then(|place| u32::try_from(place).ok()),
        created_ms: number("created_ms")?,
        deadline_ms: number("deadline_ms")?,
        clock: SessionClock {
            boot_id: text("boot_id")?,
            created_ms: number("created_mono_ms")?,
            deadline_ms: number("deadline_mono_ms")?,
        },
        ended_ms: maybe("ended_ms")?,
        failure: read_failure(row)?,
        login: None,
    })
}

pub(super) fn read_driver(row: &SqliteRow) -> Result<DriverKind, StoreError> {
    let name: String = row.try_get("driver").map_err(sql("read a driver"))?;
    serde_json::from_value(name.into()).map_err(|e| StoreError::corrupt("a driver", e))
}

pub(super) fn read_failure(row: &SqliteRow) -> Result<Option<Failure>, StoreError> {
    let text: Option<String> = row.try_get("failure").map_err(sql("read a failure"))?;
    text.map(|json| serde_json::from_str(&json).map_err(|e| StoreError::corrupt("a failure", e))).transpose()
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("a value to write", e))
}
