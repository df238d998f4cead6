//! The vault's cryptography: envelope encryption of captured credentials.
//!
//! Each record has a data key of its own (32 random bytes). The contents are sealed with XChaCha20-Poly1305 under the data
//! key, the data key under the master key; both with user, provider and session as associated data, so a record moved to
//! another user does not open. Sealed form: 24 bytes nonce, then ciphertext and tag. Keys are zeroized on drop.

use std::io;
use std::path::{Path, PathBuf};

use airlock_protocol::message::CapturedFile;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::records::{Credential, CredentialRecord};
use crate::store::SealedCredential;

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;

/// Why the vault did not do it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be read or made.
    #[error("open the vault key {path}")]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The key file is readable by others.
    #[error("the vault key {path} has mode {mode:03o}: others may read it")]
    KeyExposed {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("the vault key {path} has {len} bytes instead of {KEY_LEN}")]
    KeyLength {
        /// Where.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The record was sealed under another master key.
    #[error("the credential was sealed under key {wanted}, the vault has {actual}")]
    OtherKey {
        /// Key id of the record.
        wanted: String,
        /// Key id of the vault.
        actual: String,
    },
    /// The record was changed, moved, or belongs to another key.
    #[error("the sealed credential does not open: it was changed or moved")]
    Tampered,
    /// The contents have no JSON form.
    #[error("encode a credential")]
    Encode(#[source] serde_json::Error),
    /// No randomness.
    #[error("draw random bytes")]
    Random(#[source] getrandom::Error),
}

/// The open vault.
pub struct Vault {
    key: Zeroizing<[u8; KEY_LEN]>,
    key_id: String,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the master key at `path`, made with mode 0600 when there is none. A key that others may read is refused.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let failed = |source| VaultError::KeyFile { path: path.to_owned(), source };
        match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let key = random::<KEY_LEN>()?;
                io::Write::write_all(&mut file, key.as_slice()).and_then(|()| file.sync_all()).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(VaultError::KeyExposed { path: path.to_owned(), mode });
        }
        let bytes = Zeroizing::new(std::fs::read(path).map_err(failed)?);
        let key: [u8; KEY_LEN] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| VaultError::KeyLength { path: path.to_owned(), len: bytes.len() })?;
        Ok(Self::with_key(Zeroizing::new(key)))
    }

    fn with_key(key: Zeroizing<[u8; KEY_LEN]>) -> Self {
        // The id only tells keys apart; a truncated hash of 32 random bytes reveals nothing of them.
        let digest = Sha256::new().chain_update(b"airlock vault key id").chain_update(key.as_slice()).finalize();
        let key_id = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { key, key_id }
    }

    /// Seals the files of a credential. `record.key_id` and `record.files` are filled in here.
    pub fn seal(&self, mut record: CredentialRecord, files: &[CapturedFile]) -> Result<SealedCredential, VaultError> {
        record.key_id.clone_from(&self.key_id);
        record.files = files.iter().map(|file| file.path.clone()).collect();
        let plain = Zeroizing::new(serde_json::to_vec(files).map_err(VaultError::Encode)?);
        let data_key = random::<KEY_LEN>()?;
        let context = associated_data(&record);
        Ok(SealedCredential {
            wrapped_key: seal(&self.key, data_key.as_slice(), &context)?,
            sealed: seal(&data_key, &plain, &context)?,
            record,
        })
    }

    /// Opens a sealed credential.
    pub fn open_credential(&self, sealed: &SealedCredential) -> Result<Credential, VaultError> {
        if sealed.record.key_id != self.key_id {
            let (wanted, actual) = (sealed.record.key_id.clone(), self.key_id.clone());
            return Err(VaultError::OtherKey { wanted, actual });
        }
        let context = associated_data(&sealed.record);
        let data_key = open(&self.key, &sealed.wrapped_key, &context)?;
        let data_key: Zeroizing<[u8; KEY_LEN]> =
            Zeroizing::new(data_key.as_slice().try_into().map_err(|_| VaultError::Tampered)?);
        let plain = open(&data_key, &sealed.sealed, &context)?;
        let files = serde_json::from_slice(&plain).map_err(|_| VaultError::Tampered)?;
        Ok(Credential { record: sealed.record.clone(), files })
    }
}

/// User, provider and session, each with its length, so that no two triples give the same bytes.
fn associated_data(record: &CredentialRecord) -> Vec<u8> {
    let session = record.session_id.to_string();
    let mut out = b"airlock credential v1".to_vec();
    for part in [record.user_id.as_str(), record.provider.as_str(), session.as_str()] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, VaultError> {
    let mut bytes = Zeroizing::new([0u8; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(VaultError::Random)?;
    Ok(bytes)
}

fn seal(key: &[u8; KEY_LEN], plain: &[u8], context: &[u8]) -> Result<Vec<u8>, VaultError> {
    let nonce = random::<NONCE_LEN>()?;
    let cipher = XChaCha20Poly1305::new(key.into());
    let sealed = cipher
        .encrypt(&XNonce::from(*nonce), Payload { msg: plain, aad: context })
        .map_err(|_| VaultError::Tampered)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(key: &[u8; KEY_LEN], sealed: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Tampered)?;
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher
        .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: context })
        .map(Zeroizing::new)
        .map_err(|_| VaultError::Tampered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::SessionId;
    use airlock_protocol::Sensitive;

    fn record(user: &str) -> CredentialRecord {
        CredentialRecord {
            user_id: user.into(),
            provider: "demo".into(),
            session_id: SessionId::from_uuid(uuid::Uuid::nil()),
            created_ms: 1,
            key_id: String::new(),
            files: vec![],
        }
    }

    fn files() -> Vec<CapturedFile> {
        let content = Sensitive::new(r#"{"access_token":"canary-in-the-vault"}"#);
        vec![CapturedFile { path: ".x/c.json".into(), mode: 0o600, modified_ms: 5, expires_ms: None, content }]
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_of_it_shows() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&dir.path().join("vault.key")).unwrap();
        let sealed = vault.seal(record("u1"), &files()).unwrap();
        assert!(!sealed.sealed.windows(6).any(|w| w == b"canary"));
        assert_eq!(sealed.record.files, [".x/c.json"]);
        let again = Vault::open(&dir.path().join("vault.key")).unwrap();
        assert_eq!(again.open_credential(&sealed).unwrap().files, files());
        assert!(!format!("{:?}", again.open_credential(&sealed).unwrap()).contains("canary"));
    }

    #[test]
    fn a_record_that_was_moved_or_changed_does_not_open() {
        let vault = Vault::with_key(random().unwrap());
        let sealed = vault.seal(record("u1"), &files()).unwrap();
        let mut moved = sealed.clone();
        moved.record.user_id = "u2".into();
        assert!(matches!(vault.open_credential(&moved), Err(VaultError::Tampered)));
        for byte in [0, 30, sealed.sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed.sealed[byte] ^= 1;
            assert!(matches!(vault.open_credential(&changed), Err(VaultError::Tampered)));
        }
        let other = Vault::with_key(random().unwrap());
        assert!(matches!(other.open_credential(&sealed), Err(VaultError::OtherKey { .. })));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.key");
        Vault::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Vault::open(&path), Err(VaultError::KeyExposed { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Vault::open(&path), Err(VaultError::KeyLength { len: 5, .. })));
        let missing = dir.path().join("no/such/dir/vault.key");
        let error = Vault::open(&missing).unwrap_err();
        let errno = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(errno.raw_os_error(), Some(2));
    }
}
