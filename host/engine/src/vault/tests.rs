use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;

use super::*;
use airlock_domain::SessionId;
use airlock_domain::vault::KeySource;
use airlock_effects::secret::KeyError;
use airlock_protocol::Sensitive;

fn record(user: &str) -> CredentialRecord {
    CredentialRecord {
        user_id: user.into(),
        provider: "demo".into(),
        session_id: SessionId::from_uuid(uuid::Uuid::nil()),
        created_ms: 1,
        written_ms: 1,
        expires_ms: None,
        version: 1,
        key_id: String::new(),
        files: vec![],
    }
}

fn files() -> Vec<CapturedFile> {
    let content = Sensitive::new(r#"{"access_token":"canary-in-the-vault"}"#);
    vec![CapturedFile { path: ".x/c.json".into(), mode: 0o600, modified_ms: 5, expires_ms: None, content }]
}

fn open_at(dir: &Path) -> Result<Vault, VaultError> {
    Vault::open(&VaultConfig::default(), dir, true)
}

fn new_vault() -> (Vault, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open_at(dir.path()).unwrap(), dir)
}

#[test]
fn what_was_sealed_opens_and_nothing_of_it_shows() {
    let (vault, dir) = new_vault();
    let sealed = vault.seal(record("u1"), &files()).unwrap();
    assert!(!sealed.sealed.windows(6).any(|w| w == b"canary"));
    assert_eq!(sealed.record.files, [".x/c.json"]);
    let again = open_at(dir.path()).unwrap();
    assert_eq!(again.open_credential(&sealed).unwrap().files, files());
    assert!(!format!("{:?}", again.open_credential(&sealed).unwrap()).contains("canary"));
    let (key, shown) = (fs::read(dir.path().join("vault.key")).unwrap(), format!("{again:?}"));
    assert!(!shown.contains(&format!("{key:?}")) && shown.contains(&again.active_id()), "{shown}");
}

#[test]
fn a_record_that_was_moved_or_changed_does_not_open() {
    let (vault, _dir) = new_vault();
    let sealed = vault.seal(record("u1"), &files()).unwrap();
    let mut moved = sealed.clone();
    moved.record.user_id = "u2".into();
    assert!(matches!(vault.open_credential(&moved), Err(VaultError::Tampered)));
    for byte in [0, 30, sealed.sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed.sealed[byte] ^= 1;
        assert!(matches!(vault.open_credential(&changed), Err(VaultError::Tampered)));
    }
    let (other, _other_dir) = new_vault();
    assert!(matches!(other.open_credential(&sealed), Err(VaultError::OtherKey { .. })));
}

#[test]
fn a_key_that_others_may_read_or_that_is_none_is_refused_down_to_the_errno() {
    let (_, dir) = new_vault();
    let path = dir.path().join("vault.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = |wanted: fn(&KeyError) -> bool| matches!(open_at(dir.path()), Err(VaultError::Key { source, .. }) if wanted(&source));
    assert!(refused(|error| matches!(error, KeyError::Exposed { mode: 0o644, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"short").unwrap();
    assert!(refused(|error| matches!(error, KeyError::Length { len: 5, .. })));
    let missing = open_at(&dir.path().join("no/such/dir")).unwrap_err();
    let errno = missing.source().and_then(Error::source).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(errno.raw_os_error(), Some(2));
    // Something was sealed once: a key that is gone is not made again.
    fs::remove_file(&path).unwrap();
    let lost = Vault::open(&VaultConfig::default(), dir.path(), false).unwrap_err();
    assert!(matches!(lost, VaultError::Key { source, .. } if source.is_absent()));
    assert!(!path.exists());
}

#[test]
fn a_rotation_keeps_the_former_key_until_it_is_forgotten() {
    let (vault, dir) = new_vault();
    let (first, mut sealed) = (vault.active_id(), vault.seal(record("u1"), &files()).unwrap());
    vault.put_ring(vault.ring().rotated().unwrap());
    assert_ne!(vault.active_id(), first);
    let kept = dir.path().join(format!("vault.key.{first}"));
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = open_at(dir.path()).unwrap();
    assert_eq!((again.active_id(), again.keys().len()), (vault.active_id(), 2));
    assert_eq!(again.open_credential(&sealed).unwrap().files, files());
    sealed.wrapped_key = again.rewrap(&sealed).unwrap();
    sealed.record.key_id = again.active_id();
    assert!(matches!(again.ring().without(&again.active_id()), Err(VaultError::Active { .. })));
    assert!(matches!(again.ring().without("0"), Err(VaultError::NoKey { .. })));
    again.put_ring(again.ring().without(&first).unwrap());
    assert!(!kept.exists());
    assert_eq!(again.open_credential(&sealed).unwrap().files, files());
    assert_eq!(open_at(dir.path()).unwrap().keys().len(), 1);
}

#[test]
fn a_rotation_takes_the_key_that_the_operator_put_there() {
    let (vault, dir) = new_vault();
    let next = dir.path().join("vault.key.next");
    fs::write(&next, [9; 32]).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(vault.ring().rotated().is_err(), "others could read it");
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    vault.put_ring(vault.ring().rotated().unwrap());
    assert!(!next.exists());
    assert_eq!(fs::read(dir.path().join("vault.key")).unwrap(), [9; 32]);
}

/// Every state of the files that a rotation may be killed in.
#[test]
fn a_rotation_that_was_killed_anywhere_leaves_a_vault_that_opens_everything() {
    for killed_after in ["next", "kept", "replaced"] {
        let (vault, dir) = new_vault();
        let (at, sealed) = (|name: &str| dir.path().join(name), vault.seal(record("u1"), &files()).unwrap());
        let write = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(&at("vault.key.next"), &[5; 32]);
        if killed_after != "next" {
            write(&at(&format!("vault.key.{}", vault.active_id())), &fs::read(at("vault.key")).unwrap());
        }
        if killed_after == "replaced" {
            fs::rename(at("vault.key.next"), at("vault.key")).unwrap();
        }
        let next = open_at(dir.path()).unwrap();
        assert_eq!(next.open_credential(&sealed).unwrap().files, files(), "{killed_after}");
        assert_eq!(next.keys().len(), if killed_after == "replaced" { 2 } else { 1 }, "one key that is there twice");
        next.put_ring(next.ring().rotated().unwrap());
        assert_eq!(next.open_credential(&sealed).unwrap().files, files(), "{killed_after}");
        assert_eq!(open_at(dir.path()).unwrap().open_credential(&sealed).unwrap().files, files(), "{killed_after}");
    }
}

#[test]
fn a_key_from_another_place_is_the_operators_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let (former, path) = (KeySource::File(dir.path().join("former")), dir.path().join("new"));
    for (path, byte) in [(dir.path().join("former"), 1), (path.clone(), 2)] {
        fs::write(&path, [byte; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let before = VaultConfig { key: Some(former.clone()), older: vec![] };
    let sealed = Vault::open(&before, dir.path(), false).unwrap().seal(record("u1"), &files()).unwrap();
    let after = VaultConfig { key: Some(KeySource::File(path)), older: vec![former] };
    let vault = Vault::open(&after, dir.path(), false).unwrap();
    assert_eq!(vault.open_credential(&sealed).unwrap().files, files());
    let nowhere = VaultConfig { key: Some(KeySource::Descriptor("AIRLOCK_TEST_NO_SUCH_FD".into())), older: vec![] };
    let error = Vault::open(&nowhere, dir.path(), true).unwrap_err();
    assert!(error.to_string().contains("AIRLOCK_TEST_NO_SUCH_FD"), "{error}");
}

/// The key's place is in the environment of this program, started again: no test changes its own environment.
#[test]
fn a_key_comes_as_a_credential_of_systemd_or_through_a_descriptor() {
    const PLACE: &str = "AIRLOCK_TEST_KEY_PLACE";
    if let Ok(place) = std::env::var(PLACE) {
        let config = VaultConfig { key: Some(place.parse().unwrap()), older: vec![] };
        let vault = Vault::open(&config, Path::new("/nonexistent"), true).unwrap();
        println!("key {}", vault.active_id());
        assert!(matches!(vault.ring().rotated(), Err(VaultError::Fixed { .. })));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let credential = dir.path().join("vault.key");
    fs::write(&credential, [3; 32]).unwrap();
    // As systemd shows one that a service's user may read by an access control list.
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o440)).unwrap();
    let again = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "--nocapture",
            "vault::tests::a_key_comes_as_a_credential_of_systemd_or_through_a_descriptor",
        ]);
        let out = command.envs(variables.iter().copied()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().find_map(|line| line.split_once("key ")).map(|(_, id)| id.trim().to_owned()).unwrap()
    };
    let dir_text = dir.path().to_str().unwrap();
    let first = again(&[(PLACE, "credential:vault.key"), ("CREDENTIALS_DIRECTORY", dir_text)]);
    let (read, write) = nix::unistd::pipe().unwrap();
    fs::File::from(write).write_all(&[3; 32]).unwrap();
    let number = read.into_raw_fd().to_string();
    let second = again(&[(PLACE, "fd:VAULT_FD"), ("VAULT_FD", &number)]);
    assert_eq!(first, second, "the same key has the same id");
}
