//! Why the vault did not do it.

use airlock_effects::secret::KeyError;

/// See the head of this file.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A master key cannot be had.
    #[error("take a master key from {place}")]
    Key {
        /// Its place in the configuration.
        place: String,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// The place has no meaning here.
    #[error("{place} names nothing: the environment has no {variable}")]
    NoPlace {
        /// Its place in the configuration.
        place: String,
        /// The environment variable that says where it is.
        variable: String,
    },
    /// The environment variable holds no number.
    #[error("{place} names no descriptor: {variable} is not a number")]
    NoDescriptor {
        /// Its place in the configuration.
        place: String,
        /// The environment variable.
        variable: String,
    },
    /// The record was sealed under a master key that is not here.
    #[error("the credential was sealed under key {wanted}, the vault has {actual}")]
    OtherKey {
        /// Key id of the record.
        wanted: String,
        /// Key ids of the vault.
        actual: String,
    },
    /// The key comes from a place that the daemon does not write.
    #[error("the vault's key comes from {place}, which the daemon does not write")]
    Fixed {
        /// Its place in the configuration.
        place: String,
    },
    /// The key is the one that seals.
    #[error("key {id} seals: it cannot be removed")]
    Active {
        /// Its id.
        id: String,
    },
    /// Credentials need it.
    #[error("key {id} still wraps {count} credentials")]
    InUse {
        /// Its id.
        id: String,
        /// How many.
        count: i64,
    },
    /// There is no such key.
    #[error("the vault has no key {id}")]
    NoKey {
        /// Its id, cut.
        id: String,
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
