//! From the files that a guest sent to a credential in the vault: sealed, then committed together with the end of its session.
//!
//! ```text
//! captured -> sealed -> [credential, completed, audit entry: one transaction, synced] -> acknowledged -> VM undone -> receipt
//! ```
//! Killed before the commit, the session is still open, the guest still has the files and sends them to the next daemon. Killed
//! behind it, the session is completed and the next daemon undoes the VM. There is nothing between.

use airlock_protocol::message::CapturedFile;

use crate::clock::now_ms;
use crate::records::{CredentialRecord, SessionRecord};
use crate::store::{Store, StoreError};
use crate::vault::{Vault, VaultError};

/// Why a capture was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be sealed; that does not change by waiting.
    #[error("seal what was captured")]
    Seal(#[from] VaultError),
    /// It cannot be written now.
    #[error("commit what was captured")]
    Commit(#[from] StoreError),
}

/// Seals and commits; says when. None, with nothing written, if the session is not capturing any more.
pub async fn commit(
    store: &Store,
    vault: &Vault,
    session: &SessionRecord,
    files: &[CapturedFile],
) -> Result<Option<i64>, CaptureError> {
    let now = now_ms();
    let record = CredentialRecord {
        user_id: session.user_id.clone(),
        provider: session.provider.clone(),
        session_id: session.id,
        created_ms: now,
        written_ms: now,
        expires_ms: expiry_of(files),
        // Numbered by the store, sealed by the vault.
        version: 0,
        key_id: String::new(),
        files: Vec::new(),
    };
    let _sealing = vault.sealing.read().await;
    let sealed = vault.seal(record, files)?;
    Ok(store.complete(&sealed, now).await?.then_some(now))
}

/// When a credential expires: with the first of its files.
pub(crate) fn expiry_of(files: &[CapturedFile]) -> Option<i64> {
    files.iter().filter_map(|file| file.expires_ms).min().and_then(|ms| i64::try_from(ms).ok())
}
