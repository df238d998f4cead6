//! Where the vault's master keys come from, `[vault]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One place of a master key: 32 bytes, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeySource {
    /// `file:/PATH`: a file that only the daemon's user may read.
    File(PathBuf),
    /// `credential:NAME`: a systemd credential, `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5), LoadCredential).
    Credential(String),
    /// `fd:VARIABLE`: the environment variable holds the number of a descriptor that the daemon inherited; read once.
    Descriptor(String),
}

/// The vault's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// The key that seals; `file:<state_dir>/vault.key` if absent, which is made at the first start.
    pub key: Option<KeySource>,
    /// Earlier keys, which only open.
    pub older: Vec<KeySource>,
}

/// A text that names no place of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not file:/PATH, credential:NAME or fd:VARIABLE")]
pub struct BadKeySource {
    /// The text.
    pub text: String,
}

impl FromStr for KeySource {
    type Err = BadKeySource;

    fn from_str(text: &str) -> Result<Self, BadKeySource> {
        let bad = || BadKeySource { text: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let is_word = |more: &[u8]| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        match kind {
            "file" if rest.starts_with('/') && !rest.ends_with('/') => Ok(Self::File(rest.into())),
            // A name is one path component, and not one of the two that are none.
            "credential" if is_word(b"._-") && !matches!(rest, "." | "..") => Ok(Self::Credential(rest.to_owned())),
            "fd" if is_word(b"_") => Ok(Self::Descriptor(rest.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Descriptor(variable) => write!(f, "fd:{variable}"),
        }
    }
}

impl TryFrom<String> for KeySource {
    type Error = BadKeySource;

    fn try_from(text: String) -> Result<Self, BadKeySource> {
        text.parse()
    }
}

impl From<KeySource> for String {
    fn from(source: KeySource) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_keys_are_named_in_one_way() {
        for (text, source) in [
            ("file:/etc/airlock/vault.key", KeySource::File("/etc/airlock/vault.key".into())),
            ("credential:vault.key", KeySource::Credential("vault.key".into())),
            ("fd:AIRLOCK_VAULT_KEY_FD", KeySource::Descriptor("AIRLOCK_VAULT_KEY_FD".into())),
        ] {
            assert_eq!((text.parse(), source.to_string().as_str()), (Ok(source.clone()), text));
        }
        for bad in [
            "",
            "vault.key",
            "file:vault.key",
            "file:/x/",
            "credential:../x",
            "credential:..",
            "credential:",
            "fd:A B",
            "env:KEY",
        ] {
            assert!(bad.parse::<KeySource>().is_err(), "{bad}");
        }
    }
}
