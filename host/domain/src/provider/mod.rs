//! Providers: how one command-line tool signs in, as a TOML file and no code.
//!
//! * [`schema`]: the fields; `check`: whether their values can be used
//! * [`Provider::login_spec`]: what the agent is told of them; `captured`: whether what it sends is what they name
//!
//! A file with anything wrong in it is refused as a whole, naming file and field, before anything is started.

pub mod schema;

mod captured;
mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_protocol::login::{Callback, Flow, LoginSpec, OutcomeRule, PlacedFile, Prompt, Reply, StatusCommand};

pub use self::captured::NotItsFiles;
pub use self::schema::{CredentialSpec, Login, Provider};
use crate::ids::SessionId;

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
    /// A value cannot be used.
    #[error("provider {file}: {field} is {value:?}: expected {expected}")]
    Value {
        /// File name.
        file: String,
        /// Field.
        field: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
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

/// What a login is told about where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The guests' gateway.
    pub gateway: Ipv4Addr,
    /// Port of the demo identity provider.
    pub demo_port: u16,
}

impl Provider {
    /// Parses and validates one file. `file` names it in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProviderError> {
        let provider: Self =
            toml::from_str(text).map_err(|source| ProviderError::Toml { file: file.to_owned(), source })?;
        check::provider(&provider).map_err(|(field, value, expected)| ProviderError::Value {
            file: file.to_owned(),
            field,
            value,
            expected,
        })?;
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

    /// The flow that a login takes when nobody chose one; none for a provider that only starts a machine.
    pub fn preferred_flow(&self) -> Option<Flow> {
        self.login.as_ref()?.flows.first().copied()
    }

    /// Whether a login may take this flow.
    pub fn offers(&self, flow: Flow) -> bool {
        self.login.as_ref().is_some_and(|login| login.flows.contains(&flow))
    }

    /// What the agent is told for one attempt, or `None` for a provider that only starts a machine or does not offer `flow`.
    pub fn login_spec(&self, session: SessionId, attempt: u32, flow: Flow, place: Place) -> Option<LoginSpec> {
        let login = self.login.as_ref().filter(|login| login.flows.contains(&flow))?;
        let part = login.flow.get(&flow).cloned().unwrap_or_default();
        let fill = |text: &String| place.fill(text);
        let filled = |texts: &[String]| texts.iter().map(fill).collect::<Vec<_>>();
        let or = |part: Vec<String>, own: &Vec<String>| if part.is_empty() { own.clone() } else { part };
        let prompts = login.prompts.iter().filter(|prompt| check::applies(&prompt.flows, flow)).map(|prompt| Prompt {
            pattern: prompt.pattern.clone(),
            reply: prompt.answer.as_ref().map_or(Reply::Code, |text| Reply::Text { text: fill(text) }),
            enter: prompt.enter,
            secret: prompt.secret || prompt.ask.is_some(),
        });
        Some(LoginSpec {
            login_id: session.to_string(),
            attempt,
            flow,
            command: or(part.command, &login.command),
            env: login.env.iter().chain(&part.env).map(|(key, value)| (key.clone(), fill(value))).collect(),
            unset_env: login.unset_env.iter().chain(&part.unset_env).cloned().collect(),
            user: login.user.clone(),
            terminal: check::terminal(part.terminal.unwrap_or(login.terminal), login.columns),
            url_timeout_s: login.url_timeout_s,
            url_prefixes: filled(&or(part.url_prefixes, &login.url_prefixes)),
            url_pattern: part.url_pattern.or_else(|| login.url_pattern.clone()),
            user_code_pattern: login.user_code_pattern.clone().filter(|_| flow == Flow::DeviceCode),
            prompts: prompts.collect(),
            outcomes: login
                .outcomes
                .iter()
                .map(|rule| OutcomeRule {
                    pattern: rule.pattern.clone(),
                    outcome: rule.outcome,
                    r#final: rule.is_final,
                })
                .collect(),
            callback: login.callback.as_ref().map(|callback| Callback {
                port: callback.port,
                port_env: callback.port_env.clone(),
                path: callback.path.clone(),
            }),
            files: login
                .files
                .iter()
                .map(|file| PlacedFile {
                    path: file.path.clone(),
                    mode: check::mode(&file.mode).unwrap_or(0o600),
                    content: fill(&file.content),
                })
                .collect(),
            credentials: login.credentials.iter().map(CredentialSpec::wire).collect(),
            status_command: login.status_command.as_ref().filter(|status| status.offline).map(|status| StatusCommand {
                args: status.args.clone(),
                exit_code: status.exit_code,
                pattern: status.output.clone(),
            }),
        })
    }
}

impl Place {
    fn fill(self, text: &str) -> String {
        text.replace("{gateway}", &self.gateway.to_string()).replace("{demo_port}", &self.demo_port.to_string())
    }
}
