//! Providers: how one command-line tool signs in, as a TOML file and no code.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_protocol::message::{CredentialFile, LoginSpec};
use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// One provider file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Identifier in the API: lower-case letters, digits and `_`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Golden image its VM boots from.
    pub image: String,
    /// The login; a provider without one only starts a machine.
    pub login: Option<Login>,
}

/// How the tool is run and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment. `{gateway}` in a value becomes the guests' gateway address, `{demo_port}` the demo server's port.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User in the guest.
    #[serde(default = "default_user")]
    pub user: String,
    /// Seconds until the tool must have asked for a page.
    #[serde(default = "default_url_timeout_s")]
    pub url_timeout_s: u64,
    /// A URL on the tool's screen counts when it starts with one of these.
    #[serde(default)]
    pub url_prefixes: Vec<String>,
    /// Command that confirms the login by exit status 0.
    pub status_command: Option<Vec<String>>,
    /// The files that hold the credential.
    pub credentials: Vec<CredentialSpec>,
}

/// One credential file below the user's home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSpec {
    /// Path below the home directory.
    pub path: String,
    /// JSON pointers (RFC 6901) that must hold non-empty strings.
    #[serde(default)]
    pub required: Vec<String>,
}

fn default_user() -> String {
    "user".into()
}

fn default_url_timeout_s() -> u64 {
    60
}

/// Why a provider file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Not TOML, an unknown field, or a value of the wrong kind.
    #[error("parse provider {file}")]
    Toml {
        /// File name.
        file: String,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// A value is out of its range.
    #[error("provider {file}: {field} is {value:?}: {expected}")]
    Value {
        /// File name.
        file: String,
        /// Field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// An image was chosen for a provider that does not exist.
    #[error("provider_images names {id:?}; the providers are {known}")]
    Unknown {
        /// The name that was given.
        id: String,
        /// What exists.
        known: String,
    },
}

impl Provider {
    /// Parses and validates one file. `file` names it in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProviderError> {
        let provider: Self =
            toml::from_str(text).map_err(|source| ProviderError::Toml { file: file.to_owned(), source })?;
        let refuse = |field, value: &str, expected| {
            Err(ProviderError::Value { file: file.to_owned(), field, value: value.to_owned(), expected })
        };
        let id_ok = !provider.id.is_empty()
            && provider.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !id_ok {
            return refuse("id", &provider.id, "lower-case letters, digits and _");
        }
        if let Some(login) = &provider.login {
            if login.command.is_empty() {
                return refuse("login.command", "[]", "a program and its arguments");
            }
            if login.credentials.is_empty() {
                return refuse("login.credentials", "[]", "at least one file");
            }
            for file in &login.credentials {
                let inside =
                    !file.path.starts_with('/') && file.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
                if !inside {
                    return refuse("login.credentials.path", &file.path, "a plain path below the home directory");
                }
                if let Some(bad) = file.required.iter().find(|pointer| !pointer.starts_with('/')) {
                    return refuse("login.credentials.required", bad, "a JSON pointer (RFC 6901)");
                }
            }
        }
        Ok(provider)
    }

    /// Gives providers the images that the configuration chose for them (`provider_images`).
    pub fn choose_images(providers: &mut [Self], chosen: &BTreeMap<String, String>) -> Result<(), ProviderError> {
        for (id, image) in chosen {
            let known = || providers.iter().map(|provider| provider.id.as_str()).collect::<Vec<_>>().join(", ");
            let unknown = ProviderError::Unknown { id: id.clone(), known: known() };
            providers.iter_mut().find(|provider| provider.id == *id).ok_or(unknown)?.image.clone_from(image);
        }
        Ok(())
    }

    /// What the agent is told, or `None` for a provider that only starts a machine.
    pub fn login_spec(&self, session: SessionId, gateway: Ipv4Addr, demo_port: u16) -> Option<LoginSpec> {
        let login = self.login.as_ref()?;
        let fill = |text: &String| {
            text.replace("{gateway}", &gateway.to_string()).replace("{demo_port}", &demo_port.to_string())
        };
        Some(LoginSpec {
            login_id: session.to_string(),
            command: login.command.clone(),
            env: login.env.iter().map(|(key, value)| (key.clone(), fill(value))).collect(),
            user: login.user.clone(),
            url_timeout_s: login.url_timeout_s,
            url_prefixes: login.url_prefixes.iter().map(fill).collect(),
            credentials: login
                .credentials
                .iter()
                .map(|file| CredentialFile { path: file.path.clone(), required: file.required.clone() })
                .collect(),
            status_command: login.status_command.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = include_str!("../../../providers/demo.toml");
    const SHELL: &str = include_str!("../../../providers/shell.toml");

    #[test]
    fn the_shipped_files_are_valid() {
        let demo = Provider::parse("demo.toml", DEMO).unwrap();
        let id = SessionId::from_uuid(uuid::Uuid::nil());
        let spec = demo.login_spec(id, Ipv4Addr::new(10, 1, 0, 1), 4080).unwrap();
        assert_eq!(spec.env["AIRLOCK_DEMO_ISSUER"], "http://10.1.0.1:4080");
        assert!(Provider::parse("shell.toml", SHELL).unwrap().login.is_none());
    }

    #[test]
    fn another_image_is_chosen_for_a_provider_that_exists() {
        let mut providers = [Provider::parse("shell.toml", SHELL).unwrap()];
        let chosen = |id: &str| BTreeMap::from([(id.to_owned(), "net-dhcpcd".to_owned())]);
        let unknown = Provider::choose_images(&mut providers, &chosen("shel")).unwrap_err().to_string();
        assert!(unknown.contains("shel") && unknown.contains("shell"), "{unknown}");
        assert_eq!(providers[0].image, "base");
        Provider::choose_images(&mut providers, &chosen("shell")).unwrap();
        assert_eq!(providers[0].image, "net-dhcpcd");
    }

    #[test]
    fn refusals_name_file_and_field() {
        for (text, field) in [
            ("id = \"Demo\"\nname = \"x\"\nimage = \"base\"", "id"),
            ("id = \"d\"\nname = \"x\"\nimage = \"base\"\n[login]\ncommand = []\ncredentials = []", "login.command"),
            (
                "id = \"d\"\nname = \"x\"\nimage = \"base\"\n[login]\ncommand = [\"t\"]\n[[login.credentials]]\npath = \"../x\"",
                "login.credentials.path",
            ),
        ] {
            match Provider::parse("p.toml", text) {
                Err(ProviderError::Value { field: named, file, .. }) => {
                    assert_eq!((named, file.as_str()), (field, "p.toml"))
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(Provider::parse("p.toml", "idd = 1"), Err(ProviderError::Toml { .. })));
    }
}
