//! The vault's cryptography: envelope encryption of captured credentials.
//!
//! Each record has a data key of its own (32 random bytes). The contents are sealed with XChaCha20-Poly1305 under the data
//! key, the data key under a master key; both with user, provider and session as associated data, so a record moved to
//! another user does not open. Sealed form: 24 bytes nonce, then ciphertext and tag. Keys are zeroized on drop.
//!
//! * [`keys`]: the master keys and where they are from; [`rotate`]: another one takes over while the daemon serves

mod error;
pub mod keys;
pub mod rotate;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{PoisonError, RwLock};

use airlock_domain::vault::VaultConfig;
use airlock_effects::secret::KEY_LEN;
use airlock_protocol::message::CapturedFile;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::records::{Credential, CredentialRecord};
use crate::store::SealedCredential;
pub use error::VaultError;
use keys::{KeyRing, MasterKey};

const NONCE_LEN: usize = 24;

/// The open vault.
#[derive(Debug)]
pub struct Vault {
    ring: RwLock<KeyRing>,
    /// Held by whoever seals until what it sealed is committed, so that a rotation sees every row of the former key.
    pub(crate) sealing: tokio::sync::RwLock<()>,
}

/// One of the vault's keys, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its id.
    pub id: String,
    /// Whether it seals.
    pub active: bool,
    /// Where it is from.
    pub place: String,
    /// Whether it is kept from swap.
    pub locked: bool,
}

impl Vault {
    /// Opens the master keys of the configuration; the default one is `<state_dir>/vault.key`. A file that is not there is made if
    /// `may_make` says so: not when something was sealed already.
    pub fn open(config: &VaultConfig, state_dir: &Path, may_make: bool) -> Result<Self, VaultError> {
        Ok(Self { ring: RwLock::new(KeyRing::open(config, state_dir, may_make)?), sealing: Default::default() })
    }

    /// Replaced as a whole, so a panic elsewhere leaves it whole.
    pub(crate) fn ring(&self) -> KeyRing {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn put_ring(&self, ring: KeyRing) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    /// Id of the key that seals.
    pub fn active_id(&self) -> String {
        self.ring().active.id.clone()
    }

    /// Every key, the one that seals first.
    pub fn keys(&self) -> Vec<KeyFacts> {
        let ring = self.ring();
        let facts = |key: &MasterKey, active| KeyFacts {
            id: key.id.clone(),
            active,
            place: key.place.to_string(),
            locked: key.key.is_locked(),
        };
        std::iter::once(facts(&ring.active, true)).chain(ring.older.iter().map(|key| facts(key, false))).collect()
    }

    /// Seals the files of a credential. `record.key_id` and `record.files` are filled in here.
    pub fn seal(&self, mut record: CredentialRecord, files: &[CapturedFile]) -> Result<SealedCredential, VaultError> {
        let ring = self.ring();
        record.key_id.clone_from(&ring.active.id);
        record.files = files.iter().map(|file| file.path.clone()).collect();
        let plain = Zeroizing::new(serde_json::to_vec(files).map_err(VaultError::Encode)?);
        let data_key = random::<KEY_LEN>()?;
        let context = associated_data(&record);
        Ok(SealedCredential {
            wrapped_key: seal(ring.active.key.expose(), data_key.as_slice(), &context)?,
            sealed: seal(&data_key, &plain, &context)?,
            record,
        })
    }

    /// Opens a sealed credential.
    pub fn open_credential(&self, sealed: &SealedCredential) -> Result<Credential, VaultError> {
        let (data_key, context) = (self.data_key(sealed)?, associated_data(&sealed.record));
        let plain = open(&data_key, &sealed.sealed, &context)?;
        let files = serde_json::from_slice(&plain).map_err(|_| VaultError::Tampered)?;
        Ok(Credential { record: sealed.record.clone(), files })
    }

    /// The data key of a credential, wrapped by the key that seals now.
    pub fn rewrap(&self, sealed: &SealedCredential) -> Result<Vec<u8>, VaultError> {
        let (data_key, context) = (self.data_key(sealed)?, associated_data(&sealed.record));
        seal(self.ring().active.key.expose(), data_key.as_slice(), &context)
    }

    fn data_key(&self, sealed: &SealedCredential) -> Result<Zeroizing<[u8; KEY_LEN]>, VaultError> {
        let (ring, wanted) = (self.ring(), &sealed.record.key_id);
        let master = ring.get(wanted);
        let master = master.ok_or_else(|| VaultError::OtherKey { wanted: wanted.clone(), actual: ring.ids() })?;
        let data_key = open(master.key.expose(), &sealed.wrapped_key, &associated_data(&sealed.record))?;
        Ok(Zeroizing::new(data_key.as_slice().try_into().map_err(|_| VaultError::Tampered)?))
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
