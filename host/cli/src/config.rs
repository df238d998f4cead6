//! The configuration: the file of `--config`, then the flags, then validated as a whole.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use airlock_domain::config::Config;
use airlock_effects::files;

use crate::args::Global;
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome, USAGE};
use crate::output;

/// Reads file and flags. Nothing is opened.
pub fn load(global: &Global, listen: Option<SocketAddr>) -> Outcome<Config> {
    let mut config = match &global.config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("read the configuration {}", path.display());
                Failure::new(NOT_FOUND, "config_unreadable", message, "name a TOML file that exists").because(&error)
            })?;
            Config::parse(&text).map_err(|error| invalid(&error))?
        }
    };
    if let Some(dir) = &global.state_dir {
        config.state_dir = std::path::absolute(dir).map_err(|error| {
            let message = format!("make {} absolute", dir.display());
            Failure::new(USAGE, "config_invalid", message, "give --state-dir as an absolute path").because(&error)
        })?;
    }
    config.listen = listen.unwrap_or(config.listen);
    config.validate().map_err(|error| invalid(&error))?;
    Ok(config)
}

fn invalid(error: &airlock_domain::config::ConfigError) -> Box<Failure> {
    let remedy = "correct the field; airlock serve --check-config checks a file";
    Failure::new(USAGE, "config_invalid", error.to_string(), remedy).beneath(error)
}

/// State directory of the flags, the file, or the default.
pub fn state_dir(global: &Global) -> Outcome<PathBuf> {
    Ok(load(global, None)?.state_dir)
}

/// A password that was chosen for this start and must be told to the operator.
pub struct DemoPassword {
    user: String,
    password: String,
    file: PathBuf,
}

/// Gives the demo account a password if the configuration has none.
pub fn choose_demo_password(config: &mut Config) -> Outcome<Option<DemoPassword>> {
    if !config.demo_idp.enabled || config.demo_idp.password.is_some() {
        return Ok(None);
    }
    let file = config.state_dir.join("demo.password");
    // A restarted daemon keeps it: sign-ins that outlived the other one go on with the account they know.
    let kept = std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let password = kept.map_or_else(random_password, Ok)?;
    config.demo_idp.password = Some(password.clone());
    Ok(Some(DemoPassword { user: config.demo_idp.user.clone(), password, file }))
}

impl DemoPassword {
    /// Writes it to `<state-dir>/demo.password` (0600) and tells it on the terminal if there is one; never in a log. Called when
    /// the state directory is ours: a daemon that is refused must not overwrite what another one told.
    pub fn tell(&self) -> Outcome<()> {
        let Self { user, password, file } = self;
        files::write_atomic(file, format!("{password}\n").as_bytes(), files::PRIVATE_FILE).map_err(|error| {
            let remedy = "make the state directory writable, or set demo_idp.password";
            let code = error.cause().unwrap_or("demo_password_failed");
            Failure::new(FAILED, code, error.to_string(), remedy).beneath(&error)
        })?;
        if std::io::stdout().is_terminal() {
            output::line(format!("demo account   user {user}   password {password}"));
        } else {
            output::line(format!("demo account   user {user}   password in {}", file.display()));
        }
        Ok(())
    }
}

/// 16 characters that are easy to type: no capitals, no look-alikes; 78 bits.
pub fn random_password() -> Outcome<String> {
    const LETTERS: &[u8; 30] = b"abcdefghjkmnpqrstuvwxyz2345678";
    let mut password = String::new();
    while password.len() < 16 {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| Failure::new(FAILED, "no_randomness", "choose a password", "").because(&error))?;
        // 240 is the largest multiple of 30 in a byte: every letter is as likely as the others.
        let letters = bytes.iter().filter(|byte| **byte < 240).map(|byte| char::from(LETTERS[usize::from(*byte) % 30]));
        password.extend(letters.take(16 - password.len()));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(state_dir: Option<&str>, config: Option<PathBuf>) -> Global {
        Global { server: String::new(), state_dir: state_dir.map(PathBuf::from), config, json: false }
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("airlock.toml");
        std::fs::write(&path, "state_dir = \"/from/file\"\nlisten = \"127.0.0.1:1\"\nboot_deadline_s = 30\n").unwrap();
        let config = load(&global(Some("/from/flag"), Some(path.clone())), Some(([127, 0, 0, 1], 2).into())).unwrap();
        assert_eq!(
            (config.state_dir.to_str(), config.listen.port(), config.boot_deadline_s),
            (Some("/from/flag"), 2, 30)
        );
        assert_eq!(load(&global(None, Some(path)), None).unwrap().state_dir.to_str(), Some("/from/file"));
    }

    #[test]
    fn a_wrong_file_is_a_usage_error_that_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("airlock.toml");
        std::fs::write(&path, "stat_dir = \"/x\"").unwrap();
        let failure = load(&global(None, Some(path)), None).unwrap_err();
        assert_eq!((failure.exit, failure.detail.code.as_str()), (USAGE, "config_invalid"));
        assert!(failure.chain.concat().contains("stat_dir"));
        let missing = load(&global(None, Some("/no/such/file".into())), None).unwrap_err();
        assert_eq!((missing.exit, missing.chain.len()), (NOT_FOUND, 1));
    }

    #[test]
    fn passwords_are_typeable_and_differ() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert!(one.len() == 16 && one.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert_ne!(one, two);
    }
}
