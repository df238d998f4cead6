//! Who may refresh a credential, and what it writes back. What is allowed is decided in `airlock_domain::credential_lease`.

use airlock_domain::credential_lease::{CredentialLease, Holder, LeaseRefusal, Now};
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::credentials::{SealedCredential, put, subject_of};
use super::{Store, StoreError, sql};
use crate::audit::Act;

/// A credential by its user and provider.
#[derive(Debug, Clone, Copy)]
pub struct CredentialName<'n> {
    /// Whose.
    pub user_id: &'n str,
    /// Of which provider.
    pub provider: &'n str,
}

/// A lease as it is after what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The holder's fence.
    pub fence: i64,
    /// The credential's version, to be replaced by whoever writes back.
    pub version: i64,
    /// Who holds it.
    pub holder: String,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such credential.
    NoCredential,
    /// Somebody else may.
    Lease(LeaseRefusal),
    /// Another version is there.
    Version {
        /// The present one.
        present: i64,
    },
}

/// What is asked of a lease.
#[derive(Debug, Clone)]
pub enum LeaseOrder<'n> {
    /// To have it.
    Grant {
        /// For whom.
        holder: &'n str,
        /// For how long, in milliseconds.
        ttl_ms: i64,
    },
    /// To have it longer.
    Renew {
        /// The holder's fence.
        fence: i64,
        /// For how long from now, in milliseconds.
        ttl_ms: i64,
    },
    /// To give it back.
    Release {
        /// The holder's fence.
        fence: i64,
    },
}

impl Store {
    /// Grants, renews or releases the lease of a credential.
    pub async fn order_lease(
        &self,
        name: CredentialName<'_>,
        order: &LeaseOrder<'_>,
        actor: &str,
        now_ms: i64,
        clock: Now<'_>,
    ) -> Result<Result<LeaseTerms, Refused>, StoreError> {
        let doing = "write a credential's lease";
        let mut tx = self.begin(doing).await?;
        let Some((version, lease)) = read(&mut tx, name).await? else { return Ok(Err(Refused::NoCredential)) };
        let decided = match *order {
            LeaseOrder::Grant { holder, ttl_ms } => lease.grant(holder, ttl_ms, clock),
            LeaseOrder::Renew { fence, ttl_ms } => lease.renew(fence, ttl_ms, clock),
            LeaseOrder::Release { fence } => lease.release(fence),
        };
        let next = match decided {
            Ok(next) => next,
            Err(refusal) => return Ok(Err(Refused::Lease(refusal))),
        };
        let held = next.holder.as_ref();
        sqlx::query("UPDATE credential_leases SET fence = $1, holder = $2, until_ms = $3, boot_id = $4 WHERE user_id = $5 AND provider = $6")
            .bind(next.fence)
            .bind(held.map(|held| &held.name))
            .bind(held.map_or(0, |held| held.until_ms))
            .bind(held.map_or("", |held| held.boot_id.as_str()))
            .bind(name.user_id)
            .bind(name.provider)
            .execute(&mut *tx)
            .await
            .map_err(sql(doing))?;
        // A renewal changes nobody's right; the others are told.
        let action = match order {
            LeaseOrder::Grant { .. } => Some("credential_lease_granted"),
            LeaseOrder::Release { .. } => Some("credential_lease_released"),
            LeaseOrder::Renew { .. } => None,
        };
        let holder = held.or(lease.holder.as_ref()).map(|held| held.name.clone()).unwrap_or_default();
        if let Some(action) = action {
            let act = Act::new(actor, action, subject_of(name.user_id, name.provider));
            self.append(&mut tx, &act.with(json!({"fence": next.fence, "holder": holder})), now_ms).await?;
        }
        tx.commit().await.map_err(sql(doing))?;
        Ok(Ok(LeaseTerms { fence: next.fence, version, holder }))
    }

    /// Replaces a credential's contents by what the holder of `fence` made of version `expected`; says the new version.
    pub async fn write_back(
        &self,
        credential: &SealedCredential,
        expected: i64,
        fence: i64,
        actor: &str,
    ) -> Result<Result<i64, Refused>, StoreError> {
        let (doing, record) = ("write a credential back", &credential.record);
        let name = CredentialName { user_id: &record.user_id, provider: &record.provider };
        let mut tx = self.begin_synced(doing).await?;
        let Some((present, lease)) = read(&mut tx, name).await? else { return Ok(Err(Refused::NoCredential)) };
        if let Err(refusal) = lease.check_fence(fence) {
            return Ok(Err(Refused::Lease(refusal)));
        }
        if present != expected {
            return Ok(Err(Refused::Version { present }));
        }
        let version: i64 = sqlx::query_scalar(
            "UPDATE credential_leases SET version = version + 1 WHERE user_id = $1 AND provider = $2 RETURNING version",
        )
        .bind(name.user_id)
        .bind(name.provider)
        .fetch_one(&mut *tx)
        .await
        .map_err(sql(doing))?;
        put(&mut tx, credential, version).await?;
        let act = Act::new(actor, "credential_written_back", subject_of(name.user_id, name.provider));
        let act = act.with(json!({"replaced": expected, "version": version, "fence": fence, "keyId": record.key_id}));
        self.append(&mut tx, &act, record.written_ms).await?;
        tx.commit().await.map_err(sql(doing))?;
        Ok(Ok(version))
    }
}

/// The version of a credential that is there, and its lease.
async fn read(
    connection: &mut SqliteConnection,
    name: CredentialName<'_>,
) -> Result<Option<(i64, CredentialLease)>, StoreError> {
    let doing = "read a credential's lease";
    let row = sqlx::query(
        "SELECT c.version, l.fence, l.holder, l.until_ms, l.boot_id FROM credentials c \
         JOIN credential_leases l ON l.user_id = c.user_id AND l.provider = c.provider WHERE c.user_id = $1 AND c.provider = $2",
    )
    .bind(name.user_id)
    .bind(name.provider)
    .fetch_optional(connection)
    .await
    .map_err(sql(doing))?;
    let read = |row: SqliteRow| -> Result<(i64, CredentialLease), sqlx::Error> {
        let holder = match row.try_get::<Option<String>, _>("holder")? {
            None => None,
            Some(name) => Some(Holder { name, until_ms: row.try_get("until_ms")?, boot_id: row.try_get("boot_id")? }),
        };
        Ok((row.try_get("version")?, CredentialLease { fence: row.try_get("fence")?, holder }))
    };
    row.map(read).transpose().map_err(sql(doing))
}
