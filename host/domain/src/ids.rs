//! Identities. Each is a UUID (version 4) in lower-case hyphenated form, and a type of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id (a UUID)")]
pub struct IdParseError {
    /// `session` or `VM`.
    pub kind: &'static str,
    /// The text that was given.
    pub text: String,
}

macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident, $kind:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id of a UUID made elsewhere (randomness is an effect).
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                let error = || IdParseError { kind: $kind, text: text.chars().take(64).collect() };
                let uuid = Uuid::try_parse(text).map_err(|_| error())?;
                // One spelling only: an id is compared as text in paths, rows and aliases.
                if uuid.hyphenated().to_string() == text { Ok(Self(uuid)) } else { Err(error()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id! {
    /// One microVM.
    VmId, "VM"
}
id! {
    /// One sign-in.
    SessionId, "session"
}

impl VmId {
    /// Name of the VM's directory below `vms/`.
    pub fn dir_name(self) -> String {
        format!("vm-{self}")
    }

    /// Name of the VM's TAP: `fc-` and the first ten hex digits of the id. The whole id is the TAP's alias, so a collision
    /// of the short form is seen instead of stealing another VM's TAP (`tap_name_collision`).
    pub fn tap_name(self) -> String {
        let hex = self.0.simple().to_string();
        format!("fc-{}", &hex[..10])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_the_id() {
        let id: VmId = "01234567-89ab-4def-8123-456789abcdef".parse().unwrap();
        assert_eq!(id.dir_name(), "vm-01234567-89ab-4def-8123-456789abcdef");
        assert_eq!(id.tap_name(), "fc-0123456789");
    }

    #[test]
    fn refuses_other_spellings() {
        for bad in
            ["", "x", "0123456789ab4def8123456789abcdef", "01234567-89AB-4DEF-8123-456789ABCDEF", "../../etc/passwd"]
        {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }
}
