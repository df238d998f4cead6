//! The end of a VM: that nothing of it is left, and the receipt that says what was removed, in one transaction. A killed daemon has
//! written both or neither; the next one undoes again, which is nothing, and writes them.

use airlock_domain::VmId;
use airlock_domain::step::{Step, Undo};
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use super::audit::DESTROYED;
use super::journal::APPLIED;
use super::{Store, StoreError, sql};
use crate::audit::Act;
use crate::records::VmState;

/// How long a viewer's page may still show how its session ended, in milliseconds.
const AFTERWARDS_MS: i64 = 10 * 60 * 1000;

impl Store {
    /// Records that nothing of a VM is left: unused viewer links are revoked with it, and the receipt is written.
    pub async fn destroyed(&self, id: VmId, now_ms: i64) -> Result<(), StoreError> {
        let doing = "record a VM's end";
        let mut tx = self.begin(doing).await?;
        let ended = sqlx::query("UPDATE vms SET state = $1, ended_ms = $2 WHERE id = $3 RETURNING session_id")
            .bind(VmState::Destroyed.name())
            .bind(now_ms)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql(doing))?;
        let Some(row) = ended else { return Ok(()) };
        let session: String = row.try_get("session_id").map_err(sql(doing))?;
        let tickets = revoke_links(&mut tx, &session, now_ms).await?;
        let mut detail = outcomes(&mut tx, id).await?;
        detail["removed"]["viewerTickets"] = json!(tickets);
        self.append(&mut tx, &Act::new("daemon", DESTROYED, session).with(detail), now_ms).await?;
        tx.commit().await.map_err(sql(doing))
    }
}

/// Unused viewer links go, except those that show why a sign-in failed or expired: there is no machine behind them any more. The
/// cookie of a page that is open lasts long enough to show the end. Returns how many links went.
async fn revoke_links(connection: &mut SqliteConnection, session: &str, now_ms: i64) -> Result<u64, StoreError> {
    let doing = "revoke a session's viewer links";
    let gone = sqlx::query(
        "DELETE FROM viewer_secrets WHERE session_id = $1 AND kind = 'ticket' \
         AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = $1 AND s.state IN ('failed', 'expired'))",
    )
    .bind(session)
    .execute(&mut *connection)
    .await
    .map_err(sql(doing))?;
    sqlx::query("UPDATE viewer_secrets SET expires_ms = $1 WHERE session_id = $2 AND expires_ms > $1")
        .bind(now_ms + AFTERWARDS_MS)
        .bind(session)
        .execute(connection)
        .await
        .map_err(sql(doing))?;
    Ok(gone.rows_affected())
}

/// What the journal says of each thing that was made, in the words of a receipt.
async fn outcomes(connection: &mut SqliteConnection, id: VmId) -> Result<Value, StoreError> {
    let doing = "read what was undone";
    let vm = sqlx::query(
        "SELECT v.address, v.pid, v.start_ticks, v.image, v.driver, s.user_id, s.provider, s.state, \
         (SELECT COUNT(*) FROM credentials c WHERE c.session_id = s.id) AS sealed, \
         (SELECT COUNT(*) FROM leases l WHERE l.vm_id = v.id) AS leased \
         FROM vms v JOIN sessions s ON s.id = v.session_id WHERE v.id = $1",
    )
    .bind(id.to_string())
    .fetch_one(&mut *connection)
    .await
    .map_err(sql(doing))?;
    let steps = sqlx::query("SELECT step, outcome, undone_ms FROM journal WHERE vm_id = $1")
        .bind(id.to_string())
        .fetch_all(connection)
        .await
        .map_err(sql(doing))?;
    let text = |column: &'static str| vm.try_get::<String, _>(column).map_err(sql(doing));
    let number = |column: &'static str| vm.try_get::<Option<i64>, _>(column).map_err(sql(doing));
    let (address, pid) = (text("address")?, number("pid")?);
    let (mut removed, mut left) = (json!({}), Vec::new());
    for row in &steps {
        let Some(step) = Step::by_name(&row.try_get::<String, _>("step").map_err(sql(doing))?) else { continue };
        let (thing, name) = match step.undo() {
            Undo::ReleaseAddress => ("lease", json!(address)),
            Undo::DeleteTap => ("tap", json!(id.tap_name())),
            Undo::RemoveGuard => ("guard", json!(id.tap_name())),
            Undo::RemoveDir => ("directory", json!(id.dir_name())),
            Undo::StopVmm => ("process", json!(pid)),
            Undo::Nothing(_) => continue,
        };
        let undone: Option<i64> = row.try_get("undone_ms").map_err(sql(doing))?;
        let outcome: Option<String> = row.try_get("outcome").map_err(sql(doing))?;
        match undone {
            // A step that was not applied may have made its thing all the same, so its undo ran and found it or not.
            Some(undone_ms) => {
                removed[thing] =
                    json!({"name": name, "made": outcome.as_deref() == Some(APPLIED), "undoneMs": undone_ms});
            }
            None => left.push(thing),
        }
    }
    if number("leased")? != Some(0) && !left.contains(&"lease") {
        left.push("lease");
    }
    Ok(json!({
        "vm": id.to_string(), "image": text("image")?, "driver": text("driver")?,
        "user": text("user_id")?, "provider": text("provider")?, "session": text("state")?,
        "credentialSealed": number("sealed")? == Some(1), "removed": removed, "left": left,
    }))
}
