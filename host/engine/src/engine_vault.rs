//! The vault as the API has it: credentials listed, read, deleted, refreshed; keys rotated; the audit log and receipts.
//!
//! What gives a secret out is audited before it is given out; what changes something, in the transaction that changes it.

use airlock_domain::SessionId;
use airlock_domain::credential_lease::Now;
use airlock_protocol::message::CapturedFile;
use serde_json::json;

use crate::audit::{Act, Entry, PublicKey};
use crate::capture::expiry_of;
use crate::clock::{monotonic_ms, now_ms};
use crate::engine::{Engine, check_user_id, cut, is_printable};
use crate::error::{Error, chain};
use crate::records::{Credential, CredentialRecord};
use crate::store::{AuditFilter, CredentialName, LeaseOrder, LeaseTerms, Refused, subject_of};
use crate::vault::KeyFacts;
use crate::vault::rotate::{Rewrapped, change_key, rewrap_all};

/// Longest time of a lease without renewal, in milliseconds.
const LONGEST_LEASE_MS: i64 = 60 * 60 * 1000;

/// What a credential is read for; the audit log says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// By a program, through the API.
    Read,
    /// To be written to files.
    Export,
}

/// A lease as it was granted or renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedLease {
    /// Fence, version and holder.
    pub terms: LeaseTerms,
    /// For how long, in milliseconds from now.
    pub ttl_ms: i64,
}

/// What the vault is made of.
#[derive(Debug, Clone)]
pub struct VaultStatus {
    /// Its keys with the number of credentials that each wraps, the one that seals first.
    pub keys: Vec<(KeyFacts, i64)>,
    /// Credentials under keys that are not here, by key.
    pub unopenable: Vec<(String, i64)>,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that sealed before.
    pub from: String,
    /// The key that seals now.
    pub to: String,
    /// What became of the rows.
    pub rows: Rewrapped,
}

/// The audit log, in part.
#[derive(Debug, Clone)]
pub struct AuditPage {
    /// The entries asked for.
    pub entries: Vec<Entry>,
    /// Number and hash of the last one of all.
    pub head: Option<(i64, String)>,
    /// What they are signed with.
    pub key: PublicKey,
}

impl Engine {
    /// What credentials a user has, without their contents.
    pub async fn credentials(&self, user_id: &str) -> Result<Vec<CredentialRecord>, Error> {
        check_user_id(user_id)?;
        Ok(self.ctx().store.credentials(user_id).await?)
    }

    /// Opens a credential. `actor` (a token's id) is written to the audit log first.
    pub async fn read_credential(
        &self,
        user_id: &str,
        provider: &str,
        purpose: Purpose,
        actor: &str,
    ) -> Result<Credential, Error> {
        let ctx = self.ctx();
        let sealed = ctx.store.credential(user_id, provider).await?.ok_or_else(|| no_credential(user_id, provider))?;
        let action = match purpose {
            Purpose::Read => "credential_read",
            Purpose::Export => "credential_exported",
        };
        let act = Act::new(actor, action, subject_of(user_id, provider));
        ctx.store.audit(&act.with(json!({"version": sealed.record.version})), now_ms()).await?;
        Ok(ctx.vault.open_credential(&sealed)?)
    }

    /// Deletes a credential and what the disk still has of its key.
    pub async fn delete_credential(&self, user_id: &str, provider: &str, actor: &str) -> Result<(), Error> {
        let store = &self.ctx().store;
        if !store.delete_credential(user_id, provider, actor, now_ms()).await? {
            return Err(no_credential(user_id, provider));
        }
        self.erase_traces().await;
        Ok(())
    }

    /// Grants the lease of a credential to whoever is to refresh it.
    pub async fn grant_lease(
        &self,
        name: CredentialName<'_>,
        holder: &str,
        ttl_ms: i64,
        actor: &str,
    ) -> Result<GrantedLease, Error> {
        if !is_printable(holder, 128) {
            return Err(Error::BadHolder);
        }
        self.order_lease(name, LeaseOrder::Grant { holder, ttl_ms: checked_ttl(ttl_ms)? }, ttl_ms, actor).await
    }

    /// Makes a lease last longer.
    pub async fn renew_lease(
        &self,
        name: CredentialName<'_>,
        fence: i64,
        ttl_ms: i64,
        actor: &str,
    ) -> Result<GrantedLease, Error> {
        self.order_lease(name, LeaseOrder::Renew { fence, ttl_ms: checked_ttl(ttl_ms)? }, ttl_ms, actor).await
    }

    /// Gives a lease back.
    pub async fn release_lease(&self, name: CredentialName<'_>, fence: i64, actor: &str) -> Result<(), Error> {
        self.order_lease(name, LeaseOrder::Release { fence }, 0, actor).await.map(drop)
    }

    async fn order_lease(
        &self,
        name: CredentialName<'_>,
        order: LeaseOrder<'_>,
        ttl_ms: i64,
        actor: &str,
    ) -> Result<GrantedLease, Error> {
        let ctx = self.ctx();
        let clock = Now { mono_ms: monotonic_ms(), boot_id: &ctx.boot_id };
        let ordered = ctx.store.order_lease(name, &order, actor, now_ms(), clock).await?;
        Ok(GrantedLease { terms: ordered.map_err(|refused| refusal(name, refused))?, ttl_ms })
    }

    /// Replaces a credential's files by what the holder of `fence` made of version `version`. Paths and number of the files stay
    /// what they are.
    pub async fn write_back(
        &self,
        name: CredentialName<'_>,
        version: i64,
        fence: i64,
        files: Vec<CapturedFile>,
        actor: &str,
    ) -> Result<CredentialRecord, Error> {
        let ctx = self.ctx();
        let former = ctx.store.credential(name.user_id, name.provider).await?;
        let former = former.ok_or_else(|| no_credential(name.user_id, name.provider))?.record;
        if files.iter().map(|file| &file.path).ne(&former.files) {
            return Err(Error::OtherFiles { files: former.files.join(", ") });
        }
        let record = CredentialRecord { written_ms: now_ms(), expires_ms: expiry_of(&files), ..former };
        let _sealing = ctx.vault.sealing.read().await;
        let sealed = ctx.vault.seal(record, &files)?;
        let written = ctx.store.write_back(&sealed, version, fence, actor).await?;
        let version = written.map_err(|refused| refusal(name, refused))?;
        Ok(CredentialRecord { version, ..sealed.record })
    }

    /// The vault's keys and what each wraps.
    pub async fn vault_status(&self) -> Result<VaultStatus, Error> {
        let ctx = self.ctx();
        let mut usage = ctx.store.key_usage().await?;
        let keys = ctx.vault.keys().into_iter();
        let keys = keys.map(|key| (usage.remove(&key.id).unwrap_or_default(), key)).map(|(count, key)| (key, count));
        Ok(VaultStatus { keys: keys.collect(), unopenable: usage.into_iter().collect() })
    }

    /// Makes another key the one that seals, and wraps every data key anew. Everything is served meanwhile. Killed anywhere, the next
    /// daemon goes on with it.
    pub async fn rotate_vault(&self, actor: &str) -> Result<Rotation, Error> {
        let ctx = self.ctx();
        let (from, to) = change_key(&ctx.vault).await?;
        let act = Act::new(actor, "vault_key_changed", to.as_str()).with(json!({"from": from}));
        ctx.store.audit(&act, now_ms()).await?;
        let rows = self.rewrap(actor).await?;
        Ok(Rotation { from, to, rows })
    }

    /// Wraps anew what an earlier rotation, or a changed configuration, left under another key.
    pub(crate) async fn rewrap(&self, actor: &str) -> Result<Rewrapped, Error> {
        let ctx = self.ctx();
        let rows = rewrap_all(&ctx.store, &ctx.vault).await?;
        if rows != Rewrapped::default() {
            let act = Act::new(actor, "vault_rewrapped", ctx.vault.active_id());
            ctx.store.audit(&act.with(json!({"rows": rows.done, "failed": rows.failed})), now_ms()).await?;
            self.erase_traces().await;
        }
        Ok(rows)
    }

    /// Goes on, beside everything else, with a rotation that an earlier daemon did not finish, or that the configuration began.
    pub(crate) fn go_on_rotating(&self) {
        let engine = self.clone();
        tokio::spawn(async move {
            match engine.rewrap("daemon").await {
                Ok(Rewrapped { done: 0, failed: 0 }) => {}
                Ok(rows) => tracing::info!(rows = rows.done, failed = rows.failed, "the vault's rotation went on"),
                Err(error) => tracing::error!(error = chain(&error), "the vault's rotation is not finished yet"),
            }
        });
    }

    /// Removes a former key that wraps nothing any more.
    pub async fn forget_vault_key(&self, id: &str, actor: &str) -> Result<(), Error> {
        let ctx = self.ctx();
        // Nothing is being sealed under it: it does not seal. Nothing is written under it either.
        let quiet = ctx.vault.sealing.write().await;
        let count = ctx.store.key_usage().await?.get(id).copied().unwrap_or_default();
        if count > 0 && ctx.vault.active_id() != id {
            return Err(crate::vault::VaultError::InUse { id: cut(id), count }.into());
        }
        let ring = ctx.vault.ring().without(id)?;
        ctx.vault.put_ring(ring);
        drop(quiet);
        Ok(ctx.store.audit(&Act::new(actor, "vault_key_removed", cut(id)), now_ms()).await?)
    }

    /// A part of the audit log.
    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<AuditPage, Error> {
        let store = &self.ctx().store;
        let entries = store.audit_entries(filter).await?;
        Ok(AuditPage { entries, head: store.audit_head().await?, key: store.audit_public_key() })
    }

    /// The receipt of a session's machine, and the key that signed it. None as long as something of it may be left.
    pub async fn receipt(&self, id: SessionId) -> Result<(Entry, PublicKey), Error> {
        let session = self.session(id).await?;
        let store = &self.ctx().store;
        let receipt = store.receipt(id).await?.ok_or(Error::NoReceipt { id, state: session.state })?;
        Ok((receipt, store.audit_public_key()))
    }

    /// What is not erased now is erased by the next time, and at the end.
    async fn erase_traces(&self) {
        match self.ctx().store.erase_traces().await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the write-ahead log is being read: its traces go with the next time"),
            Err(error) => tracing::warn!(error = chain(&error), "traces in the write-ahead log are not erased yet"),
        }
    }
}

fn checked_ttl(ttl_ms: i64) -> Result<i64, Error> {
    if (1..=LONGEST_LEASE_MS).contains(&ttl_ms) { Ok(ttl_ms) } else { Err(Error::BadLeaseTime) }
}

fn refusal(name: CredentialName<'_>, refused: Refused) -> Error {
    match refused {
        Refused::NoCredential => no_credential(name.user_id, name.provider),
        Refused::Lease(refusal) => Error::Lease(refusal),
        Refused::Version { present } => Error::CredentialChanged { present },
    }
}

fn no_credential(user_id: &str, provider: &str) -> Error {
    Error::NoCredential { user_id: cut(user_id), provider: cut(provider) }
}
