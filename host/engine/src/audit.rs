//! The audit log: numbered entries, each with the hash of the one before it, each signed by the installation's key.
//!
//! ```text
//! hash(n)      = SHA-256("airlock audit v1", host, seq, at_ms, actor, action, subject, detail, hash(n-1))
//! signature(n) = Ed25519(installation's key, "airlock audit v1 entry" + hash(n))          (RFC 8032)
//! ```
//! Texts go into the hash with their length before them, so that no two entries give the same bytes. Whoever changes, removes or
//! inserts an entry breaks the chain there; whoever makes a new chain has no signature for it; whoever cuts its end off is found
//! out by whoever remembers a later head. [`verify`] needs nothing but an export. No entry holds a secret.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use airlock_effects::secret::{KeyError, SecretKey};
use std::path::Path;

/// Hash before the first entry.
pub const ORIGIN: [u8; 32] = [0; 32];

/// What is written into the log, before it has a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who: `token:ID`, `session:ID`, `viewer`, `daemon`.
    pub actor: String,
    /// What was done, a past participle behind its object, e.g. `credential_read`.
    pub action: &'static str,
    /// To what: `USER/PROVIDER`, or an id.
    pub subject: String,
    /// The rest, as a JSON object.
    pub detail: serde_json::Value,
}

impl Act {
    /// An act without more to say.
    pub fn new(actor: &str, action: &'static str, subject: impl Into<String>) -> Self {
        Self { actor: actor.to_owned(), action, subject: subject.into(), detail: serde_json::json!({}) }
    }

    /// With more to say.
    #[must_use]
    pub fn with(self, detail: serde_json::Value) -> Self {
        Self { detail, ..self }
    }
}

/// One entry. Bytes are in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The host that wrote it; each has a chain of its own.
    pub host: String,
    /// Its number, from 1.
    pub seq: i64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// The rest: the text of a JSON object, byte for byte as it was hashed.
    pub detail: String,
    /// Hash of the entry before it.
    pub previous: String,
    /// Its own.
    pub hash: String,
    /// Id of the key that signed it.
    pub key_id: String,
    /// Its signature.
    pub signature: String,
}

/// A public key, to check signatures with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicKey {
    /// Its id, the first bytes of its hash.
    pub id: String,
    /// The key, in hexadecimal digits.
    pub key: String,
}

impl PublicKey {
    /// The key of 64 hexadecimal digits, with its id.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = unhex::<32>(text)?;
        VerifyingKey::from_bytes(&bytes).ok()?;
        Some(Self { id: key_id(&bytes), key: text.to_ascii_lowercase() })
    }
}

/// The installation's signing key.
pub struct AuditKey {
    // Signing keys are made of it for each entry and wiped; only the seed stays, in its own page.
    seed: SecretKey,
    public: VerifyingKey,
    id: String,
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl AuditKey {
    /// The key at `path`, made with mode 0600 when there is none.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let seed = match SecretKey::read_file(path) {
            Err(error) if error.is_absent() => {
                let seed = SecretKey::random(&path.display().to_string())?;
                seed.write_new(path)?;
                seed
            }
            read => read?,
        };
        let public = SigningKey::from_bytes(seed.expose()).verifying_key();
        let id = key_id(public.as_bytes());
        Ok(Self { seed, public, id })
    }

    /// What others check its signatures with.
    pub fn public(&self) -> PublicKey {
        PublicKey { id: self.id.clone(), key: hex(self.public.as_bytes()) }
    }

    /// Gives an act its place behind the entry with the hash `previous`.
    pub fn seal(&self, host: &str, seq: i64, at_ms: i64, act: &Act, previous: [u8; 32]) -> Entry {
        let mut entry = Entry {
            host: host.to_owned(),
            seq,
            at_ms,
            actor: act.actor.clone(),
            action: act.action.to_owned(),
            subject: act.subject.clone(),
            detail: act.detail.to_string(),
            previous: hex(&previous),
            hash: String::new(),
            key_id: self.id.clone(),
            signature: String::new(),
        };
        let hash = hash_of(&entry, &previous);
        entry.hash = hex(&hash);
        entry.signature = hex(&SigningKey::from_bytes(self.seed.expose()).sign(&signed_bytes(&hash)).to_bytes());
        entry
    }
}

/// Why a log or a receipt is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is missing, or two entries have it.
    #[error("entry {seq} of {host} is not where it should be: entry {wanted} was expected")]
    OutOfPlace {
        /// Whose log.
        host: String,
        /// The number found.
        seq: i64,
        /// The number expected.
        wanted: i64,
    },
    /// The entry before it is another one.
    #[error("entry {seq} of {host} does not follow the entry before it: one of them was changed")]
    Unchained {
        /// Whose log.
        host: String,
        /// The entry.
        seq: i64,
    },
    /// Its content does not have its hash.
    #[error("entry {seq} of {host} was changed: its content does not have its hash")]
    Changed {
        /// Whose log.
        host: String,
        /// The entry.
        seq: i64,
    },
    /// Its key is not known.
    #[error("entry {seq} of {host} was signed by key {key_id}, which is not among the trusted ones")]
    UnknownKey {
        /// Whose log.
        host: String,
        /// The entry.
        seq: i64,
        /// The key's id.
        key_id: String,
    },
    /// Its signature is another one's.
    #[error("entry {seq} of {host} has a signature that is not its key's")]
    Unsigned {
        /// Whose log.
        host: String,
        /// The entry.
        seq: i64,
    },
    /// The end is not the one that was remembered.
    #[error("the log does not hold entry {seq} with the hash {hash}: its end was cut off or replaced")]
    CutOff {
        /// The remembered number.
        seq: i64,
        /// The remembered hash.
        hash: String,
    },
}

impl Broken {
    /// The first broken entry.
    pub fn seq(&self) -> i64 {
        match self {
            Self::OutOfPlace { seq, .. }
            | Self::Unchained { seq, .. }
            | Self::Changed { seq, .. }
            | Self::UnknownKey { seq, .. }
            | Self::Unsigned { seq, .. }
            | Self::CutOff { seq, .. } => *seq,
        }
    }
}

/// Checks one entry by itself: content, hash and signature.
pub fn verify_entry(entry: &Entry, keys: &[PublicKey]) -> Result<(), Broken> {
    let (host, seq) = (entry.host.clone(), entry.seq);
    let changed = || Broken::Changed { host: host.clone(), seq };
    let previous = unhex::<32>(&entry.previous).ok_or_else(changed)?;
    let hash = hash_of(entry, &previous);
    if hex(&hash) != entry.hash {
        return Err(changed());
    }
    let key = keys.iter().find(|key| key.id == entry.key_id).and_then(|key| unhex::<32>(&key.key));
    // The id is the key's own hash: a trusted id with another key beside it is no trusted key.
    let key = key.filter(|key| key_id(key) == entry.key_id).and_then(|key| VerifyingKey::from_bytes(&key).ok());
    let key = key.ok_or_else(|| Broken::UnknownKey { host: host.clone(), seq, key_id: entry.key_id.clone() })?;
    let signature = unhex::<64>(&entry.signature).map(|bytes| Signature::from_bytes(&bytes));
    let verified = signature.is_some_and(|signature| key.verify_strict(&signed_bytes(&hash), &signature).is_ok());
    if verified { Ok(()) } else { Err(Broken::Unsigned { host, seq }) }
}

/// Checks entries in their order, step by step; for logs that do not fit into memory.
#[derive(Debug, Default)]
pub struct Verifier {
    /// By host: the last number and its hash.
    heads: std::collections::BTreeMap<String, (i64, String)>,
}

impl Verifier {
    /// The next entry. Entries of several hosts may be mixed.
    pub fn push(&mut self, entry: &Entry, keys: &[PublicKey]) -> Result<(), Broken> {
        let (last, previous) = self.heads.get(&entry.host).cloned().unwrap_or_else(|| (0, hex(&ORIGIN)));
        let (host, seq) = (entry.host.clone(), entry.seq);
        if seq != last + 1 {
            return Err(Broken::OutOfPlace { host, seq, wanted: last + 1 });
        }
        if entry.previous != previous {
            return Err(Broken::Unchained { host, seq });
        }
        verify_entry(entry, keys)?;
        self.heads.insert(host, (seq, entry.hash.clone()));
        Ok(())
    }

    /// The last entry of each host: number and hash. What to remember to find out later that an end was cut off.
    pub fn heads(&self) -> &std::collections::BTreeMap<String, (i64, String)> {
        &self.heads
    }
}

/// Checks a whole log.
pub fn verify(entries: &[Entry], keys: &[PublicKey]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::default();
    entries.iter().try_for_each(|entry| verifier.push(entry, keys))?;
    Ok(verifier)
}

fn hash_of(entry: &Entry, previous: &[u8; 32]) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(b"airlock audit v1");
    let mut text = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    };
    text(&entry.host);
    text(&entry.seq.to_string());
    text(&entry.at_ms.to_string());
    text(&entry.actor);
    text(&entry.action);
    text(&entry.subject);
    text(&entry.detail);
    digest.update(previous);
    digest.finalize().into()
}

fn signed_bytes(hash: &[u8; 32]) -> Vec<u8> {
    [b"airlock audit v1 entry".as_slice(), hash].concat()
}

fn key_id(public: &[u8; 32]) -> String {
    hex(&Sha256::digest(public)[..8])
}

/// Hexadecimal digits of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(key: &AuditKey, len: i64) -> Vec<Entry> {
        let mut previous = ORIGIN;
        let mut entries = Vec::new();
        for seq in 1..=len {
            let act =
                Act::new("token:1", "credential_read", format!("u{seq}/demo")).with(serde_json::json!({"n": seq}));
            let entry = key.seal("h1", seq, 1000 + seq, &act, previous);
            previous = unhex(&entry.hash).unwrap();
            entries.push(entry);
        }
        entries
    }

    fn key() -> (AuditKey, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (AuditKey::open(&dir.path().join("audit.key")).unwrap(), dir)
    }

    #[test]
    fn a_log_that_nobody_touched_is_whole() {
        let (key, dir) = key();
        let again = AuditKey::open(&dir.path().join("audit.key")).unwrap();
        assert_eq!(again.public(), key.public());
        let entries = log(&key, 5);
        let verifier = verify(&entries, &[again.public()]).unwrap();
        assert_eq!(verifier.heads()["h1"], (5, entries[4].hash.clone()));
        verify_entry(&entries[3], &[key.public()]).unwrap();
    }

    #[test]
    fn the_first_broken_entry_is_named_whatever_was_done_to_it() {
        let (key, _dir) = key();
        let (whole, keys) = (log(&key, 6), [key.public()]);
        type Touch = fn(&mut Vec<Entry>);
        let touches: [(Touch, i64, &str); 10] = [
            (|log| log[2].actor = "token:2".into(), 3, "changed"),
            (|log| log[2].detail = "{}".into(), 3, "changed"),
            (|log| log[2].at_ms += 1, 3, "changed"),
            (|log| drop(log.remove(2)), 4, "not where it should be"),
            (|log| log.swap(2, 3), 4, "not where it should be"),
            (|log| log.insert(2, log[1].clone()), 2, "not where it should be"),
            (|log| log[0].previous = "00".into(), 1, "does not follow"),
            (|log| log[5].signature = log[4].signature.clone(), 6, "signature"),
            (|log| log[5].key_id = "0".into(), 6, "not among the trusted"),
            (|log| drop(log.remove(0)), 2, "not where it should be"),
        ];
        for (touch, seq, told) in touches {
            let mut entries = whole.clone();
            touch(&mut entries);
            let broken = verify(&entries, &keys).unwrap_err();
            assert_eq!(broken.seq(), seq, "{broken}");
            assert!(broken.to_string().contains(told), "{broken}");
        }
    }

    #[test]
    fn who_makes_a_new_chain_has_no_signature_for_it() {
        let ((ours, _a), (theirs, _b)) = (key(), key());
        let forged = log(&theirs, 3);
        assert!(matches!(verify(&forged, &[ours.public()]), Err(Broken::UnknownKey { seq: 1, .. })));
        // Another key under our id.
        let posing = PublicKey { id: ours.public().id, key: theirs.public().key };
        let mut renamed = forged;
        renamed.iter_mut().for_each(|entry| entry.key_id = ours.public().id);
        assert!(matches!(verify(&renamed, &[posing]), Err(Broken::UnknownKey { seq: 1, .. })));
    }
}
