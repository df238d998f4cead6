//! Data keys wrapped anew under the key that seals now, row by row, each in a transaction of its own. Killed anywhere, every row is
//! under a key that the vault has; whoever opens the vault next goes on with what is left.

use super::Vault;
use crate::error::{Error, chain};
use crate::store::{Store, StoreError};

/// What came of a pass over all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrapped {
    /// Rows that are under the active key now.
    pub done: u64,
    /// Rows that do not open: their key is not here, or they were changed.
    pub failed: u64,
}

/// One pass. Whoever seals meanwhile seals under the active key, so nothing is left behind it.
pub async fn rewrap_all(store: &Store, vault: &Vault) -> Result<Rewrapped, StoreError> {
    let (mut count, mut behind) = (Rewrapped::default(), (String::new(), String::new()));
    let active = vault.active_id();
    while let Some(row) = store.next_to_rewrap(&active, &behind).await? {
        let name = (row.record.user_id.clone(), row.record.provider.clone());
        match vault.rewrap(&row) {
            // A row that was written meanwhile was sealed under the active key.
            Ok(wrapped) => count.done += u64::from(store.rewrap(&row, &active, &wrapped).await?),
            Err(error) => {
                count.failed += 1;
                tracing::error!(user = name.0, provider = name.1, error = chain(&error), "not wrapped anew");
            }
        }
        behind = name;
    }
    Ok(count)
}

/// Makes another key the one that seals: nothing is being sealed while it changes.
pub async fn change_key(vault: &Vault) -> Result<(String, String), Error> {
    let quiet = vault.sealing.write().await;
    let former = vault.active_id();
    let ring = vault.ring().rotated()?;
    vault.put_ring(ring);
    drop(quiet);
    Ok((former, vault.active_id()))
}
