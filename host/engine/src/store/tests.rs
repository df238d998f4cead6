use airlock_domain::admission::{Limits, Shortage};
use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::reconcile::Lease;
use airlock_domain::session::SessionState;
use airlock_domain::step::Step;
use airlock_domain::vmm::{DriverKind, ProcessId};
use airlock_domain::{Cause, SessionId, VmId};
use airlock_protocol::Stage;
use std::collections::BTreeSet;
use uuid::Uuid;

use super::*;
use crate::clock::Moment;
use crate::records::{CredentialRecord, Scope, SessionClock, SessionRecord, TokenRecord, VmState};

pub(super) async fn store() -> (Store, tempfile::TempDir) {
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
        memory_mib: 128,
        now: Moment { wall_ms: 10, mono_ms: 1000 },
        boot_id: "boot".into(),
        lasts_ms: 10,
    }
}

/// Five addresses, memory without end.
fn room(queue: u32) -> Room {
    Room {
        limits: Limits { queue, sessions_per_user: 0, ..Limits::default() },
        subnet: "10.0.0.1/29".parse().unwrap(),
        memory_mib: 1 << 20,
        available_mib: 1 << 20,
    }
}

pub(super) async fn begin(store: &Store) -> SessionRecord {
    match store.accept(&new_session(None), &room(0)).await.unwrap() {
        Accepted::Begun(session) => session,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn leases_are_unique_while_live_and_come_back() {
    let (store, _dir) = store().await;
    let starts = (0..7).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.accept(&new_session(None), &room(1)).await.unwrap() })
    });
    let (mut leased, mut waiting, mut refused) = (Vec::new(), Vec::new(), 0);
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Accepted::Begun(session) => leased.push(session),
            Accepted::Waiting(session, Shortage::Addresses { size: 5 }) => waiting.push(session),
            Accepted::Refused(Shortage::Queue { waiting: 1 }) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    let mut addresses: Vec<_> = leased.iter().filter_map(|s| s.address).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, room(0).subnet.guest_addresses().collect::<Vec<_>>());
    assert_eq!((waiting.len(), waiting[0].queue_position, refused), (1, Some(1), 1));

    let now = new_session(None).now;
    assert_eq!(store.admit(waiting[0].id, &room(1), now).await.unwrap(), None, "no address is free yet");
    let address = leased[0].address.unwrap();
    assert_eq!(store.lease_holder(address).await.unwrap(), Some(leased[0].vm_id));
    assert!(store.release_lease(leased[0].vm_id).await.unwrap());
    assert_eq!(store.lease_holder(address).await.unwrap(), None);
    let admitted = store.admit(waiting[0].id, &room(1), now).await.unwrap().unwrap();
    assert_eq!((admitted.state, admitted.address), (SessionState::Starting, leased[0].address));
    assert_eq!(store.lease_holder(address).await.unwrap(), Some(admitted.vm_id));
    assert_eq!(store.session(admitted.id).await.unwrap(), Some(admitted.clone()));
    assert_eq!(store.admit(admitted.id, &room(1), now).await.unwrap(), None, "admitted once");
    assert_eq!(store.begun_steps(admitted.vm_id).await.unwrap().len(), Step::ALL.len(), "every intent stands");
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_session() {
    let (store, _dir) = store().await;
    let first = store.accept(&new_session(Some("k")), &room(0)).await.unwrap();
    let second = store.accept(&new_session(Some("k")), &room(0)).await.unwrap();
    match (first, second) {
        (Accepted::Begun(first), Accepted::Known(second)) => assert_eq!(first, second),
        other => panic!("{other:?}"),
    }
    let other = |user: &str, provider: &str| {
        let (user_id, provider) = (user.to_owned(), provider.to_owned());
        NewSession { user_id, provider, ..new_session(Some("k")) }
    };
    let taken = store.accept(&other("u1", "codex"), &room(0)).await.unwrap();
    assert_eq!(taken, Accepted::Taken { provider: "demo".into() });
    assert_eq!(store.vms().await.unwrap().len(), 1);
    let another = store.accept(&other("u2", "codex"), &room(0)).await.unwrap();
    assert!(matches!(another, Accepted::Begun(_)), "keys are each user's own: {another:?}");
}

#[tokio::test]
async fn only_the_owner_of_that_generation_acts_on_a_lease() {
    let (store, _dir) = store().await;
    let vm = begin(&store).await.vm_id;
    assert!(store.renew_lease(vm, 1, 5000).await.unwrap());
    assert_eq!(store.take_lease(vm, 7, 0).await.unwrap(), None, "another generation");
    assert_eq!(store.take_lease(vm, 1, 6000).await.unwrap(), Some(2));
    assert!(!store.renew_lease(vm, 1, 9000).await.unwrap(), "the former owner lost it");
    assert_eq!(store.adopt_lease(vm, 7000).await.unwrap(), Some(3));
    let rows = store.reconcile_rows(&BTreeSet::new(), &BTreeSet::from([vm])).await.unwrap();
    assert_eq!(rows[0].lease, Some(Lease { generation: 3, expires_ms: 7000 }));
    assert!(rows[0].held && rows[0].applied.is_empty());
    assert!(store.release_lease(vm).await.unwrap());
    assert!(!store.release_lease(vm).await.unwrap());
    assert_eq!(store.adopt_lease(vm, 1).await.unwrap(), None);
}

#[tokio::test]
async fn the_reconciler_sees_open_vms_and_the_ended_ones_that_are_seen() {
    let (store, _dir) = store().await;
    let (open, gone) = (begin(&store).await, begin(&store).await);
    store.journal_outcome(open.vm_id, Step::CreateTap, None, 1).await.unwrap();
    store.journal_outcome(open.vm_id, Step::GuardTap, Some("EPERM"), 1).await.unwrap();
    store.journal_undo(open.vm_id, Step::AwaitReady, None, 1).await.unwrap();
    store.release_lease(gone.vm_id).await.unwrap();
    store.set_vm_state(gone.vm_id, VmState::Destroyed, None, 2).await.unwrap();
    let rows = store.reconcile_rows(&BTreeSet::new(), &BTreeSet::new()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, &rows[0].applied), (open.vm_id, &vec![Step::CreateTap]));
    assert_eq!((rows[0].begun.len(), rows[0].deadline_ms), (Step::ALL.len() - 1, 1010));
    let seen = BTreeSet::from([gone.vm_id, open.vm_id, VmId::from_uuid(Uuid::new_v4())]);
    let rows = store.reconcile_rows(&seen, &BTreeSet::new()).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.id, row.ended)).collect::<Vec<_>>(),
        [(open.vm_id, false), (gone.vm_id, true)]
    );
}

#[tokio::test]
async fn a_database_of_the_first_version_is_carried_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("airlock.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(SCHEMA[0]).execute(&old).await.unwrap();
    let id = SessionId::from_uuid(Uuid::new_v4());
    sqlx::query(
        "INSERT INTO sessions (id, host, user_id, provider, state, vm_id, address, created_ms, deadline_ms, ended_ms) \
         VALUES ($1, 'h1', 'u', 'demo', 'completed', $2, '10.0.0.2', 1, 2, 3)",
    )
    .bind(id.to_string())
    .bind(Uuid::new_v4().to_string())
    .execute(&old)
    .await
    .unwrap();
    old.close().await;
    for _ in 0..2 {
        let store = Store::open(&path, "h1").await.unwrap();
        let session = store.session(id).await.unwrap().unwrap();
        assert_eq!((session.state, session.ended_ms, session.queue_position), (SessionState::Completed, Some(3), None));
        store.close().await;
    }
    let newer = Store::open(&path, "h1").await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&newer.pool).await.unwrap();
    newer.close().await;
    assert!(matches!(Store::open(&path, "h1").await, Err(StoreError::TooNew { version: 99, .. })));
}

#[tokio::test]
async fn deadlines_are_carried_over_to_another_boot() {
    let (store, _dir) = store().await;
    let session = begin(&store).await;
    store.rebase_clocks("boot", Moment { wall_ms: 500, mono_ms: 9 }).await.unwrap();
    assert_eq!(store.session(session.id).await.unwrap().unwrap().clock, session.clock, "the same boot");
    store.rebase_clocks("next", Moment { wall_ms: 15, mono_ms: 100 }).await.unwrap();
    let clock = store.session(session.id).await.unwrap().unwrap().clock;
    assert_eq!(clock, SessionClock { boot_id: "next".into(), created_ms: 95, deadline_ms: 105 });
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let (store, dir) = store().await;
    let session = begin(&store).await;
    let id = session.vm_id;
    store.journal_outcome(id, Step::CreateTap, None, 12).await.unwrap();
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
    assert_eq!(store.begun_steps(id).await.unwrap().len(), Step::ALL.len());
    store.journal_undo(id, Step::SpawnVmm, None, 40).await.unwrap();
    store.journal_undo(id, Step::CreateTap, Some("EBUSY"), 40).await.unwrap();
    assert_eq!(store.begun_steps(id).await.unwrap().len(), Step::ALL.len() - 1, "a failed undo stays open");
    let session = store.session(session.id).await.unwrap().unwrap();
    assert_eq!((session.failure, session.ended_ms), (Some(failure), Some(30)));
    assert_eq!(store.open_vms().await.unwrap().len(), 1);
    store.set_vm_state(id, VmState::Destroyed, None, 50).await.unwrap();
    assert_eq!(store.open_vms().await.unwrap().len(), 0);
}

#[tokio::test]
async fn no_open_vm_is_left_out_however_many_live() {
    let (store, _dir) = store().await;
    let room = Room { subnet: "10.0.0.1/23".parse().unwrap(), ..room(0) };
    for _ in 0..201 {
        assert!(matches!(store.accept(&new_session(None), &room).await.unwrap(), Accepted::Begun(_)));
    }
    assert_eq!(store.open_vms().await.unwrap().len(), 201);
}

#[tokio::test]
async fn a_terminal_session_is_immutable() {
    let (store, _dir) = store().await;
    let session = begin(&store).await;
    assert!(store.move_session(session.id, SessionState::Starting, SessionState::Cancelled, None, 1).await.unwrap());
    assert!(!store.move_session(session.id, SessionState::Starting, SessionState::Booting, None, 2).await.unwrap());
    let record = CredentialRecord {
        user_id: "u1".into(),
        provider: "demo".into(),
        session_id: session.id,
        created_ms: 3,
        written_ms: 3,
        expires_ms: None,
        version: 0,
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
    store.add_token(&token, b"hash", "daemon").await.unwrap();
    let found = store.token_by_hash(b"hash").await.unwrap().unwrap();
    assert!(found.allows(Scope::CredentialsRead) && !found.allows(Scope::SessionsWrite));
    assert!(store.revoke_token("1", "daemon", 5).await.unwrap());
    assert_eq!(store.token_by_hash(b"hash").await.unwrap(), None);
}
