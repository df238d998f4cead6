//! The vault's rows: one transaction per act, versions and fences, the chain, what deletion leaves on the disk.

use std::path::Path;

use airlock_domain::SessionId;
use airlock_domain::credential_lease::{LeaseRefusal, Now};
use airlock_domain::session::SessionState;
use airlock_domain::vault::VaultConfig;
use airlock_protocol::Sensitive;
use airlock_protocol::message::CapturedFile;

use super::tests::{begin, store};
use super::*;
use crate::audit::{Act, verify, verify_entry};
use crate::capture;
use crate::records::SessionRecord;
use crate::vault::Vault;
use crate::vault::rotate::{change_key, rewrap_all};

const BOOT: Now<'static> = Now { mono_ms: 0, boot_id: "boot" };
const NAME: CredentialName<'static> = CredentialName { user_id: "u1", provider: "demo" };

fn at(mono_ms: i64) -> Now<'static> {
    Now { mono_ms, ..BOOT }
}

fn files(text: &str) -> Vec<CapturedFile> {
    let content = Sensitive::new(text);
    vec![CapturedFile { path: ".x/c.json".into(), mode: 0o600, modified_ms: 5, expires_ms: Some(7), content }]
}

fn vault_at(dir: &Path) -> Vault {
    Vault::open(&VaultConfig::default(), dir, true).unwrap()
}

async fn capturing(store: &Store) -> SessionRecord {
    let session = begin(store).await;
    assert!(store.move_session(session.id, SessionState::Starting, SessionState::Capturing, None, 1).await.unwrap());
    session
}

/// A user's credential, captured as the daemon does.
async fn captured(store: &Store, vault: &Vault, user: &str, text: &str) -> SealedCredential {
    let session = SessionRecord { user_id: user.into(), ..capturing(store).await };
    assert!(capture::commit(store, vault, &session, &files(text)).await.unwrap().is_some());
    store.credential(user, "demo").await.unwrap().unwrap()
}

async fn log(store: &Store) -> Vec<crate::audit::Entry> {
    store.audit_entries(&AuditFilter::default()).await.unwrap()
}

fn actions(log: &[crate::audit::Entry]) -> Vec<&str> {
    log.iter().map(|entry| entry.action.as_str()).collect()
}

#[tokio::test]
async fn a_credential_its_sessions_end_and_its_entry_are_one() {
    let (store, dir) = store().await;
    let vault = vault_at(dir.path());
    let session = begin(&store).await;
    assert_eq!(capture::commit(&store, &vault, &session, &files("x")).await.unwrap(), None, "it is not capturing");
    assert!(log(&store).await.is_empty() && store.credentials("u1").await.unwrap().is_empty());
    let sealed = captured(&store, &vault, "u1", "one").await;
    assert_eq!((sealed.record.version, sealed.record.expires_ms), (1, Some(7)));
    assert_eq!(store.session(sealed.record.session_id).await.unwrap().unwrap().state, SessionState::Completed);
    let second = captured(&store, &vault, "u1", "two").await;
    assert_eq!(second.record.version, 2);
    let log = log(&store).await;
    assert_eq!(actions(&log), ["credential_stored", "credential_stored"]);
    assert_eq!(
        (log[0].subject.as_str(), log[0].actor.clone()),
        ("u1/demo", format!("session:{}", sealed.record.session_id))
    );
    verify(&log, &[store.audit_public_key()]).unwrap();
}

#[tokio::test]
async fn two_that_refresh_take_turns_and_a_stale_one_writes_nothing() {
    let (store, dir) = store().await;
    let vault = vault_at(dir.path());
    let grant = |holder, now| {
        let store = store.clone();
        async move { store.order_lease(NAME, &LeaseOrder::Grant { holder, ttl_ms: 100 }, "t", 0, now).await.unwrap() }
    };
    assert_eq!(grant("a", at(0)).await, Err(Refused::NoCredential));
    let first = captured(&store, &vault, "u1", "one").await;
    let a = grant("a", at(0)).await.unwrap();
    assert_eq!((a.fence, a.version), (1, 1));
    assert!(matches!(grant("b", at(99)).await, Err(Refused::Lease(LeaseRefusal::Held { left_ms: 1, .. }))));
    // Two at once: one is granted.
    let (one, two) = tokio::join!(grant("b", at(100)), grant("c", at(100)));
    let b = [&one, &two].into_iter().flatten().next().unwrap().clone();
    assert!(one.is_err() != two.is_err() && b.fence == 2);
    let write = |text: &str, version, fence| {
        let sealed = vault.seal(first.record.clone(), &files(text)).unwrap();
        let store = store.clone();
        async move { store.write_back(&sealed, version, fence, "t").await.unwrap() }
    };
    let stale = LeaseRefusal::StaleFence { fence: 1, newest: 2, released: false };
    assert_eq!(write("from a", 1, 1).await, Err(Refused::Lease(stale)));
    assert_eq!(write("from b", 1, 2).await, Ok(2));
    assert_eq!(write("again", 1, 2).await, Err(Refused::Version { present: 2 }));
    // A sign-in meanwhile: what it captured is not overwritten by who read before it.
    captured(&store, &vault, "u1", "signed in").await;
    assert_eq!(write("too late", 2, 2).await, Err(Refused::Version { present: 3 }));
    let held = store.credential("u1", "demo").await.unwrap().unwrap();
    assert_eq!(vault.open_credential(&held).unwrap().files[0].content.expose(), "signed in");
    // Deleted and captured again: neither fence nor version comes back.
    assert!(store.delete_credential("u1", "demo", "t", 0).await.unwrap());
    assert_eq!(write("deleted", 3, 2).await, Err(Refused::NoCredential));
    assert_eq!(captured(&store, &vault, "u1", "new").await.record.version, 4);
    assert!(matches!(
        write("former", 4, 2).await,
        Err(Refused::Lease(LeaseRefusal::StaleFence { released: true, .. }))
    ));
    assert_eq!(grant("d", at(101)).await.unwrap().fence, 3);
    verify(&log(&store).await, &[store.audit_public_key()]).unwrap();
}

/// Everything that the database has on the disk.
fn on_disk(dir: &Path) -> Vec<u8> {
    let names = ["airlock.db", "airlock.db-wal", "airlock.db-shm"];
    names.iter().flat_map(|name| std::fs::read(dir.join(name)).unwrap_or_default()).collect()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn a_deleted_credentials_key_is_nowhere_on_the_disk() {
    let (store, dir) = store().await;
    let vault = vault_at(dir.path());
    let mut gone = Vec::new();
    // Long enough to fill pages of their own as well.
    for (user, len) in [("u1", 10), ("u2", 3000), ("u3", 60_000), ("u4", 100)] {
        gone.push(captured(&store, &vault, user, &"x".repeat(len)).await);
    }
    let stays = captured(&store, &vault, "stays", "y").await;
    let before = on_disk(dir.path());
    assert!(
        gone.iter().chain([&stays]).all(|sealed| holds(&before, &sealed.wrapped_key)),
        "the search finds what is there"
    );
    for sealed in &gone {
        assert!(store.delete_credential(&sealed.record.user_id, "demo", "t", 1).await.unwrap());
    }
    assert!(store.erase_traces().await.unwrap());
    let after = on_disk(dir.path());
    for sealed in &gone {
        assert!(!holds(&after, &sealed.wrapped_key), "the wrapped key of {}", sealed.record.user_id);
        assert!(!holds(&after, &sealed.sealed[24..56]), "the contents of {}", sealed.record.user_id);
    }
    assert!(holds(&after, &stays.wrapped_key));
    assert!(!store.delete_credential("u1", "demo", "t", 1).await.unwrap());
}

#[tokio::test]
async fn a_former_key_opens_nothing_that_is_left_on_the_disk_after_a_rotation() {
    let (store, dir) = store().await;
    let vault = vault_at(dir.path());
    let former = captured(&store, &vault, "u1", "x").await;
    change_key(&vault).await.unwrap();
    rewrap_all(&store, &vault).await.unwrap();
    assert!(store.erase_traces().await.unwrap());
    assert!(!holds(&on_disk(dir.path()), &former.wrapped_key));
}

/// Polls a rotation so often, then forgets it, as a kill does; whether it came to its end before.
async fn rotated_within(polls: usize, store: &Store, vault: &Vault) -> bool {
    let (mut rewrapping, mut left) = (std::pin::pin!(rewrap_all(store, vault)), polls);
    std::future::poll_fn(|context| match rewrapping.as_mut().poll(context) {
        std::task::Poll::Ready(done) => {
            done.unwrap();
            std::task::Poll::Ready(true)
        }
        std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(false),
        std::task::Poll::Pending => {
            left -= 1;
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_rotation_that_is_killed_at_any_row_goes_on_and_loses_nothing() {
    const ROWS: usize = 4;
    let (mut store, dir) = store().await;
    let path = dir.path().join("airlock.db");
    let mut vault = vault_at(dir.path());
    for n in 0..ROWS {
        captured(&store, &vault, &format!("u{n}"), &format!("secret {n}")).await;
    }
    let mut deaths = 0;
    loop {
        change_key(&vault).await.unwrap();
        let ended = rotated_within(deaths, &store, &vault).await;
        // The next daemon.
        store.close().await;
        store = Store::open(&path, "h1").await.unwrap();
        vault = vault_at(dir.path());
        for n in 0..ROWS {
            let sealed = store.credential(&format!("u{n}"), "demo").await.unwrap().unwrap();
            assert_eq!(vault.open_credential(&sealed).unwrap().files[0].content.expose(), format!("secret {n}"));
        }
        assert_eq!(rewrap_all(&store, &vault).await.unwrap().failed, 0);
        let usage = store.key_usage().await.unwrap();
        assert_eq!(usage.into_iter().collect::<Vec<_>>(), [(vault.active_id(), ROWS as i64)]);
        if ended {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > ROWS, "only {deaths} deaths");
    println!("killed at {deaths} places of a rotation, everything opens");
}

#[tokio::test]
async fn the_log_only_grows_and_whoever_gets_around_that_is_found() {
    let (store, _dir) = store().await;
    for n in 0..4 {
        store.audit(&Act::new("token:1", "credential_read", format!("u{n}/demo")), n).await.unwrap();
    }
    for statement in ["DELETE FROM audit_entries WHERE seq = 2", "UPDATE audit_entries SET actor = 'x' WHERE seq = 2"] {
        let refused = sqlx::query(statement).execute(&store.writer).await.unwrap_err().to_string();
        assert!(refused.contains("audit"), "{refused}");
    }
    let whole = log(&store).await;
    verify(&whole, &[store.audit_public_key()]).unwrap();
    sqlx::query("DROP TRIGGER audit_entries_are_final").execute(&store.writer).await.unwrap();
    sqlx::query("UPDATE audit_entries SET actor = 'token:2' WHERE seq = 3").execute(&store.writer).await.unwrap();
    assert_eq!(verify(&log(&store).await, &[store.audit_public_key()]).unwrap_err().seq(), 3);
}

#[tokio::test]
async fn an_older_log_is_taken_into_the_chain() {
    let (store, dir) = store().await;
    let older = "INSERT INTO audit (host, at_ms, actor, action, subject) VALUES ('h1', 5, 'token:1', 'credential_read', 'u/demo')";
    sqlx::query(older).execute(&store.writer).await.unwrap();
    store.close().await;
    for _ in 0..2 {
        let store = Store::open(&dir.path().join("airlock.db"), "h1").await.unwrap();
        let log = log(&store).await;
        assert_eq!((log.len(), log[0].at_ms, log[0].detail.as_str()), (1, 5, r#"{"loggedAs":"credential_read"}"#));
        verify(&log, &[store.audit_public_key()]).unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_destroyed_vm_has_a_receipt_of_what_was_removed() {
    use airlock_domain::step::Step;
    let (store, _dir) = store().await;
    let session = begin(&store).await;
    let vm = session.vm_id;
    store.add_viewer_secret("ticket", b"t", session.id, 0, 1_000_000).await.unwrap();
    store.add_viewer_secret("cookie", b"c", session.id, 0, 10_000_000).await.unwrap();
    for step in Step::ALL {
        store.journal_outcome(vm, step, None, 5).await.unwrap();
    }
    assert_eq!(store.receipt(session.id).await.unwrap(), None);
    for step in Step::ALL.into_iter().filter(|step| *step != Step::CreateTap) {
        store.journal_undo(vm, step, None, 6).await.unwrap();
    }
    store.destroyed(vm, 7).await.unwrap();
    let receipt = store.receipt(session.id).await.unwrap().unwrap();
    verify_entry(&receipt, &[store.audit_public_key()]).unwrap();
    let detail: serde_json::Value = serde_json::from_str(&receipt.detail).unwrap();
    // The lease's row is still there, and the TAP was never undone: the receipt does not say more than what was done.
    assert_eq!(detail["left"], serde_json::json!(["tap", "lease"]));
    assert_eq!(detail["removed"]["directory"]["name"], vm.dir_name());
    assert_eq!(detail["removed"]["viewerTickets"], 1);
    assert!(!store.use_ticket(b"t", session.id, 8).await.unwrap());
    assert!(store.check_cookie(b"c", session.id, 8).await.unwrap(), "the page that is open may show the end");
    assert!(!store.check_cookie(b"c", session.id, 8 + 600_000).await.unwrap());
    store.journal_undo(vm, Step::CreateTap, None, 9).await.unwrap();
    store.release_lease(vm).await.unwrap();
    store.destroyed(vm, 10).await.unwrap();
    let receipt = store.receipt(session.id).await.unwrap().unwrap();
    assert!(receipt.detail.contains("\"left\":[]"), "{}", receipt.detail);
    assert_eq!(store.receipt(SessionId::from_uuid(uuid::Uuid::nil())).await.unwrap(), None);
}
