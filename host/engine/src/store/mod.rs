//! Everything durable, and all SQL. One SQLite database in WAL mode with one connection that writes: writers queue for it in
//! order and are woken, where connections that compete for SQLite's lock sleep and poll. Every row carries its host.
//!
//! What happens to VMs outlives a killed daemon, but not a power cut, which no VM outlives either (`synchronous=NORMAL`).
//! A credential does outlive it: its commit is synced (`synchronous=FULL`, which syncs everything written before it too).

mod access;
mod audit;
mod counts;
mod credential_leases;
mod credentials;
mod images;
mod journal;
mod leases;
mod receipts;
mod sessions;
mod vault_keys;
mod vms;

use std::path::Path;
use std::sync::Arc;

use airlock_domain::ids::IdParseError;
use airlock_effects::secret::KeyError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqlitePool, Transaction};

pub use audit::AuditFilter;
pub use credential_leases::{CredentialName, LeaseOrder, LeaseTerms, Refused};
pub use credentials::SealedCredential;
pub(crate) use credentials::subject_of;
pub use leases::LEASE_MS;
pub use sessions::{Accepted, NewSession, Room};

use crate::audit::AuditKey;
use crate::records::UnknownName;

/// The schema, step by step. A step that was released is never edited.
const SCHEMA: [&str; 3] =
    [include_str!("schema/001.sql"), include_str!("schema/002.sql"), include_str!("schema/003.sql")];

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or failed.
    #[error("{doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what this version cannot read.
    #[error("read {what} from the store")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key that signs the audit log cannot be used.
    #[error("open the key of the audit log")]
    AuditKey(#[from] KeyError),
    /// The database was written by a later version.
    #[error("the database has schema version {version}, this airlock knows {known}")]
    TooNew {
        /// The database's version.
        version: i64,
        /// The newest version that is known.
        known: i64,
    },
}

impl StoreError {
    fn corrupt(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Corrupt { what, source: source.into() }
    }

    /// Whether the disk is full (SQLITE_FULL, 13).
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sql { source: sqlx::Error::Database(error), .. } if error.code().as_deref() == Some("13"))
    }
}

fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Sql { doing, source }
}

impl From<IdParseError> for StoreError {
    fn from(error: IdParseError) -> Self {
        Self::corrupt("an id", error)
    }
}

impl From<UnknownName> for StoreError {
    fn from(error: UnknownName) -> Self {
        Self::corrupt("a name", error)
    }
}

/// The open store.
#[derive(Debug, Clone)]
pub struct Store {
    /// Connections that read.
    pool: SqlitePool,
    /// The connection that writes. Whoever has it must not wait for it again.
    writer: SqlitePool,
    /// One connection whose commits survive a power cut.
    synced: SqlitePool,
    host: String,
    /// Signs what is written into the audit log.
    audit_key: Arc<AuditKey>,
}

impl Store {
    /// Opens or makes the database and brings its schema up to date. The key of the audit log, `audit.key`, lies beside it.
    pub async fn open(path: &Path, host: &str) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .foreign_keys(true)
            .pragma("secure_delete", "on")
            .busy_timeout(std::time::Duration::from_secs(10));
        let open = |connections, synchronous| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                // It is a file: a connection does not go stale, and asking it first would cost as much as the question.
                .test_before_acquire(false)
                // A commit that failed on a full disk leaves its connection inside the transaction: let go of it.
                .after_release(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
                .connect_with(options.clone().synchronous(synchronous))
        };
        let pool = open(8, SqliteSynchronous::Normal).await.map_err(sql("open the database"))?;
        let writer = open(1, SqliteSynchronous::Normal).await.map_err(sql("open the database"))?;
        let synced = open(1, SqliteSynchronous::Full).await.map_err(sql("open the database"))?;
        let audit_key = Arc::new(AuditKey::open(&path.with_file_name("audit.key"))?);
        let store = Self { pool, writer, synced, host: host.to_owned(), audit_key };
        store.migrate().await?;
        store.chain_older_entries().await?;
        Ok(store)
    }

    /// Applies what is new in the schema, each step in a transaction of its own with the version it leads to.
    async fn migrate(&self) -> Result<(), StoreError> {
        let doing = "bring the schema up to date";
        let mut connection = self.writer.acquire().await.map_err(sql(doing))?;
        let version: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(sql(doing))?;
        let known = i64::try_from(SCHEMA.len()).unwrap_or(i64::MAX);
        if version > known {
            return Err(StoreError::TooNew { version, known });
        }
        for (to, script) in (1..).zip(SCHEMA).filter(|(to, _)| *to > version) {
            let script = format!("BEGIN IMMEDIATE; {script} PRAGMA user_version = {to}; COMMIT");
            sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut *connection).await.map_err(sql(doing))?;
        }
        Ok(())
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop).map_err(sql("ask the database"))
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.synced.close().await;
        self.writer.close().await;
        self.pool.close().await;
    }

    /// Begins a transaction whose commit survives a power cut.
    async fn begin_synced(&self, doing: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.synced.begin_with("BEGIN IMMEDIATE").await.map_err(sql(doing))
    }

    async fn begin(&self, doing: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(sql(doing))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vault_tests;
