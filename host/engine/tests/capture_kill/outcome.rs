//! What must hold in the end, whoever died.

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use airlock_engine::audit::{verify, verify_entry};
use airlock_engine::records::VmState;
use airlock_engine::store::{AuditFilter, Store};
use airlock_engine::vault::Vault;
use airlock_protocol::Sensitive;
use airlock_protocol::message::CapturedFile;
use anyhow::{Context, Result, ensure};

/// What the tool in the guest (the provider `demo`'s) wrote for this session.
pub fn files_of(session: SessionId) -> Vec<CapturedFile> {
    let content = Sensitive::new(format!("{{\"access_token\":\"canary-{session}\"}}"));
    vec![CapturedFile {
        path: ".airlock-demo/credentials.json".into(),
        mode: 0o600,
        modified_ms: 1,
        expires_ms: None,
        content,
    }]
}

/// The session and its VM ended. `guest_died` says whether the VMM was killed, `acknowledged` whether the guest was told that its
/// credential is safe.
pub async fn judge(
    store: &Store,
    vault: &Vault,
    id: SessionId,
    user: &str,
    guest_died: bool,
    acknowledged: bool,
) -> Result<()> {
    let session = store.session(id).await?.context("the session is recorded")?;
    let vm = store.vm(session.vm_id).await?.context("the VM is recorded")?;
    ensure!(vm.state == VmState::Destroyed, "the VM is {}", vm.state);
    let stored = store.credential(user, &session.provider).await?.filter(|stored| stored.record.session_id == id);
    let completed = session.state == SessionState::Completed;
    ensure!(completed == stored.is_some(), "the session is {}, the vault has it: {}", session.state, stored.is_some());
    ensure!(
        completed || guest_died,
        "the session is {} although its guest lived: {:?}",
        session.state,
        session.failure
    );
    ensure!(!acknowledged || completed, "the guest was told that a credential is safe which is not");
    if let Some(stored) = stored {
        let opened = vault.open_credential(&stored)?;
        ensure!(opened.files == files_of(id), "the vault has something else");
    }
    let log = store.audit_entries(&AuditFilter::default()).await?;
    let actor = format!("session:{id}");
    let told = log.iter().filter(|entry| entry.actor == actor && entry.action == "credential_stored").count();
    ensure!(told == usize::from(completed), "the log tells it {told} times");
    let receipt = store.receipt(id).await?.context("there is no receipt")?;
    verify_entry(&receipt, &[store.audit_public_key()])?;
    let detail: serde_json::Value = serde_json::from_str(&receipt.detail)?;
    ensure!(
        detail["credentialSealed"] == completed && detail["left"] == serde_json::json!([]),
        "the receipt says {detail}"
    );
    Ok(())
}

/// The whole log of a level.
pub async fn judge_log(store: &Store) -> Result<usize> {
    let (mut log, mut after) = (Vec::new(), 0);
    loop {
        let page = store.audit_entries(&AuditFilter { after, ..AuditFilter::default() }).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        log.extend(page);
    }
    verify(&log, &[store.audit_public_key()])?;
    Ok(log.len())
}
