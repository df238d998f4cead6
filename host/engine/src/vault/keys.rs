//! The vault's master keys: one that seals, others that only open, each known by its id.
//!
//! ```text
//! vault.key               the key that seals
//! vault.key.next          the next one: put there by the operator, or made by a rotation
//! vault.key.<id>          former ones, as long as a credential may need them
//!
//! rotate: next is there -> the active key is kept under its id -> next takes its place     (each step whole, synced)
//! ```
//! Killed anywhere, there is a key that seals and every former one; a key that is there twice counts once. A key from another
//! place is the operator's to change: the new one as `vault.key`, the former one among `vault.older`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use airlock_domain::vault::{KeySource, VaultConfig};
use airlock_effects::files;
use airlock_effects::secret::{KeyError, SecretKey, destroy_key, replace_key};
use sha2::{Digest, Sha256};

use super::VaultError;
use crate::audit::hex;

/// One master key.
#[derive(Debug)]
pub struct MasterKey {
    pub(super) key: SecretKey,
    /// Its id: a truncated hash, which reveals nothing of 32 random bytes.
    pub id: String,
    /// Where it is from, as the configuration says it.
    pub place: KeySource,
}

impl MasterKey {
    pub(super) fn new(key: SecretKey, place: KeySource) -> Self {
        let digest = Sha256::new().chain_update(b"airlock vault key id").chain_update(key.expose()).finalize();
        Self { id: hex(&digest[..8]), key, place }
    }
}

/// Every key that there is.
#[derive(Debug, Clone)]
pub(crate) struct KeyRing {
    pub active: Arc<MasterKey>,
    pub older: Vec<Arc<MasterKey>>,
}

impl KeyRing {
    /// Reads every key of the configuration. A file that is not there is made, if `may_make` says so.
    pub fn open(config: &VaultConfig, state_dir: &Path, may_make: bool) -> Result<Self, VaultError> {
        let place = config.key.clone().unwrap_or_else(|| KeySource::File(state_dir.join("vault.key")));
        let active = match read(&place) {
            Err(VaultError::Key { source, .. }) if may_make && source.is_absent() => make(&place)?,
            read => read?,
        };
        let mut ring = Self { active: Arc::new(MasterKey::new(active, place.clone())), older: Vec::new() };
        if let KeySource::File(path) = &place {
            for path in former_files(path) {
                let former = KeySource::File(path);
                ring.add(MasterKey::new(read(&former)?, former));
            }
        }
        for older in &config.older {
            ring.add(MasterKey::new(read(older)?, older.clone()));
        }
        Ok(ring)
    }

    fn add(&mut self, key: MasterKey) {
        if self.get(&key.id).is_none() {
            self.older.push(Arc::new(key));
        }
    }

    /// A key by its id.
    pub fn get(&self, id: &str) -> Option<&Arc<MasterKey>> {
        std::iter::once(&self.active).chain(&self.older).find(|key| key.id == id)
    }

    /// What ids there are.
    pub fn ids(&self) -> String {
        let ids: Vec<_> = std::iter::once(&self.active).chain(&self.older).map(|key| key.id.as_str()).collect();
        ids.join(", ")
    }

    /// The ring with another key that seals; the files are in place when it returns.
    pub fn rotated(&self) -> Result<Self, VaultError> {
        let KeySource::File(path) = &self.active.place else {
            return Err(VaultError::Fixed { place: self.active.place.to_string() });
        };
        let failed = |source| VaultError::Key { place: self.active.place.to_string(), source };
        let next_path = beside(path, "next");
        let next = match SecretKey::read_file(&next_path) {
            Err(error) if error.is_absent() => {
                let next = SecretKey::random(&next_path.display().to_string()).map_err(failed)?;
                next.write_new(&next_path).map_err(failed)?;
                next
            }
            read => read.map_err(failed)?,
        };
        let kept = beside(path, &self.active.id);
        match self.active.key.write_new(&kept) {
            Err(KeyError::Open { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            written => written.map_err(failed)?,
        }
        replace_key(&next_path, path).map_err(failed)?;
        let former = MasterKey::new(SecretKey::read_file(&kept).map_err(failed)?, KeySource::File(kept));
        let mut ring =
            Self { active: Arc::new(MasterKey::new(next, self.active.place.clone())), older: self.older.clone() };
        ring.add(former);
        Ok(ring)
    }

    /// The ring without a former key, whose file is overwritten and removed. One from another place goes when the operator takes it
    /// out of the configuration.
    pub fn without(&self, id: &str) -> Result<Self, VaultError> {
        if id == self.active.id {
            return Err(VaultError::Active { id: id.to_owned() });
        }
        let key = self.get(id).ok_or_else(|| VaultError::NoKey { id: id.chars().take(64).collect() })?;
        match &key.place {
            KeySource::File(path) => {
                destroy_key(path).map_err(|source| VaultError::Key { place: key.place.to_string(), source })?;
            }
            place => return Err(VaultError::Fixed { place: place.to_string() }),
        }
        let older = self.older.iter().filter(|key| key.id != id).cloned().collect();
        Ok(Self { active: self.active.clone(), older })
    }
}

/// `vault.key` -> `vault.key.WORD`.
fn beside(path: &Path, word: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{word}"));
    path.with_file_name(name)
}

/// The files of former keys beside a key's file, by their names.
fn former_files(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let is_id = |id: &str| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let names = files::entries(dir).unwrap_or_default();
    names.iter().filter(|name| name.strip_prefix(&prefix).is_some_and(is_id)).map(|name| dir.join(name)).collect()
}

fn make(place: &KeySource) -> Result<SecretKey, VaultError> {
    let failed = |source| VaultError::Key { place: place.to_string(), source };
    let KeySource::File(path) = place else { return Err(VaultError::Fixed { place: place.to_string() }) };
    let key = SecretKey::random(&path.display().to_string()).map_err(failed)?;
    key.write_new(path).map_err(failed)?;
    Ok(key)
}

fn read(place: &KeySource) -> Result<SecretKey, VaultError> {
    let failed = |source| VaultError::Key { place: place.to_string(), source };
    let variable_of = |variable: &str| {
        std::env::var_os(variable)
            .ok_or_else(|| VaultError::NoPlace { place: place.to_string(), variable: variable.to_owned() })
    };
    match place {
        KeySource::File(path) => SecretKey::read_file(path).map_err(failed),
        KeySource::Credential(name) => {
            let dir = PathBuf::from(variable_of("CREDENTIALS_DIRECTORY")?);
            SecretKey::read_credential(&dir.join(name)).map_err(failed)
        }
        KeySource::Descriptor(variable) => {
            let number = variable_of(variable)?.to_str().and_then(|text| text.parse::<i32>().ok());
            let number = number
                .ok_or_else(|| VaultError::NoDescriptor { place: place.to_string(), variable: variable.clone() })?;
            SecretKey::read_inherited(number, &place.to_string()).map_err(failed)
        }
    }
}
