use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::session::SessionState;
use airlock_domain::step::Step;
use airlock_domain::vmm::{DriverKind, ProcessId};
use airlock_domain::{Cause, SessionId, VmId};
use airlock_protocol::Stage;
use std::net::Ipv4Addr;
use uuid::Uuid;

use super::*;
use crate::records::{CredentialRecord, Scope, TokenRecord, VmState};

async fn store() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(&dir.path().join("airlock.db"), "h1").await.unwrap(), dir)
}

fn new_session(key: Option<&str>) -> NewSession {
    NewSession {
        id: SessionId::from_uuid(Uuid::new_v4()),
        vm_id: VmId::from_uuid(Uuid::new_v4()),
        user_id: "u1".into(),
        provider: "demo".into(),
        idempotency_key: key.map(Into::into),
        image: "base@sha256:00".into(),
        driver: DriverKind::QemuTcg,
        now_ms: 10,
        deadline_ms: 20,
    }
}

fn pool(size: u8) -> impl Iterator<Item = Ipv4Addr> {
    (2..2 + size).map(|last| Ipv4Addr::new(10, 0, 0, last))
}

#[tokio::test]
async fn leases_are_unique_while_live_and_come_back() {
    let (store, _dir) = store().await;
    let starts = (0..5).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.accept(&new_session(None), pool(4)).await })
    });
    let mut leased = Vec::new();
    let mut refused = 0;
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Ok((session, true)) => leased.push(session),
            Err(StoreError::PoolExhausted { size: 4 }) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    let mut addresses: Vec<_> = leased.iter().map(|s| s.address).collect();
    addresses.sort_unstable();
    assert_eq!((addresses, refused), (pool(4).collect(), 1));
    store.release_lease(leased[0].vm_id).await.unwrap();
    let (again, _) = store.accept(&new_session(None), pool(4)).await.unwrap();
    assert_eq!(again.address, leased[0].address);
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_session() {
    let (store, _dir) = store().await;
    let (first, made) = store.accept(&new_session(Some("k")), pool(4)).await.unwrap();
    let (second, made_again) = store.accept(&new_session(Some("k")), pool(4)).await.unwrap();
    assert_eq!((first.id, made, made_again), (second.id, true, false));
    assert_eq!(store.vms().await.unwrap().len(), 1);
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let (store, dir) = store().await;
    let (session, _) = store.accept(&new_session(None), pool(4)).await.unwrap();
    let id = session.vm_id;
    store.journal_intent(id, Step::CreateTap, 11).await.unwrap();
    store.journal_outcome(id, Step::CreateTap, "applied", 12).await.unwrap();
    store.journal_intent(id, Step::SpawnVmm, 13).await.unwrap();
    store.set_vm_process(id, ProcessId { pid: 77, start_ticks: 1234 }).await.unwrap();
    let entry =
        TimelineEntry { stage: Stage::Planned, ok: true, at_ms: 0.0, guest_us: None, errno: None, detail: None };
    store.add_stage(id, &TimelineEntry { stage: Stage::Leased, at_ms: 1.5, ..entry.clone() }).await.unwrap();
    store.add_stage(id, &entry).await.unwrap();
    let failure = Failure::new(Cause::VmmExited, Some(Stage::TapUp), "killed");
    assert!(
        store.move_session(session.id, SessionState::Starting, SessionState::Failed, Some(&failure), 30).await.unwrap()
    );
    store.close().await;

    let store = Store::open(&dir.path().join("airlock.db"), "h1").await.unwrap();
    let vm = store.vm(id).await.unwrap().unwrap();
    assert_eq!((vm.stage, vm.process), (Some(Stage::Leased), Some(ProcessId { pid: 77, start_ticks: 1234 })));
    assert_eq!(
        store.timeline(id).await.unwrap().iter().map(|e| e.stage).collect::<Vec<_>>(),
        [Stage::Planned, Stage::Leased]
    );
    assert_eq!(store.begun_steps(id).await.unwrap().len(), 3);
    store.journal_undo(id, Step::SpawnVmm, None, 40).await.unwrap();
    store.journal_undo(id, Step::CreateTap, Some("EBUSY"), 40).await.unwrap();
    assert_eq!(store.begun_steps(id).await.unwrap().len(), 2, "a failed undo stays open");
    let session = store.session(session.id).await.unwrap().unwrap();
    assert_eq!((session.failure, session.ended_ms), (Some(failure), Some(30)));
    assert_eq!(store.open_vms().await.unwrap().len(), 1);
    store.set_vm_state(id, VmState::Destroyed, None, 50).await.unwrap();
    assert_eq!(store.open_vms().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_terminal_session_is_immutable() {
    let (store, _dir) = store().await;
    let (session, _) = store.accept(&new_session(None), pool(4)).await.unwrap();
    assert!(store.move_session(session.id, SessionState::Starting, SessionState::Cancelled, None, 1).await.unwrap());
    assert!(!store.move_session(session.id, SessionState::Starting, SessionState::Booting, None, 2).await.unwrap());
    let record = CredentialRecord {
        user_id: "u1".into(),
        provider: "demo".into(),
        session_id: session.id,
        created_ms: 3,
        key_id: "k".into(),
        files: vec!["a".into()],
    };
    let sealed = SealedCredential { record, wrapped_key: vec![1], sealed: vec![2] };
    assert!(!store.complete(&sealed, 3).await.unwrap());
    assert!(store.credentials("u1").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_ticket_is_used_once_and_only_for_its_session() {
    let (store, _dir) = store().await;
    let (mine, other) = (SessionId::from_uuid(Uuid::new_v4()), SessionId::from_uuid(Uuid::new_v4()));
    store.add_viewer_secret("ticket", b"t", mine, 0, 100).await.unwrap();
    assert!(!store.use_ticket(b"t", other, 1).await.unwrap());
    assert!(!store.use_ticket(b"t", mine, 100).await.unwrap(), "expired");
    assert!(!store.check_cookie(b"t", mine, 1).await.unwrap(), "a ticket is no cookie");
    assert!(store.use_ticket(b"t", mine, 1).await.unwrap());
    assert!(!store.use_ticket(b"t", mine, 1).await.unwrap(), "used");
}

#[tokio::test]
async fn a_revoked_token_is_gone() {
    let (store, _dir) = store().await;
    let token = TokenRecord { id: "1".into(), name: "n".into(), scopes: vec![Scope::CredentialsRead], created_ms: 0 };
    store.add_token(&token, b"hash").await.unwrap();
    let found = store.token_by_hash(b"hash").await.unwrap().unwrap();
    assert!(found.allows(Scope::CredentialsRead) && !found.allows(Scope::SessionsWrite));
    assert!(store.revoke_token("1", 5).await.unwrap());
    assert_eq!(store.token_by_hash(b"hash").await.unwrap(), None);
}
