//! Which providers a daemon knows: the files that the product ships, then the operator's own of `providers_dir`.
//!
//! An operator's file with the id of a shipped one takes its place. Anything wrong in any file refuses them all, before anything is
//! opened: a sign-in must not find out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use airlock_domain::config::Config;
use airlock_domain::provider::{Provider, ProviderError};

/// The provider files that the product ships.
const SHIPPED: [(&str, &str); 7] = [
    ("claude_code.toml", include_str!("../../../providers/claude_code.toml")),
    ("codex.toml", include_str!("../../../providers/codex.toml")),
    ("copilot.toml", include_str!("../../../providers/copilot.toml")),
    ("demo.toml", include_str!("../../../providers/demo.toml")),
    ("gemini_cli.toml", include_str!("../../../providers/gemini_cli.toml")),
    ("gh.toml", include_str!("../../../providers/gh.toml")),
    ("shell.toml", include_str!("../../../providers/shell.toml")),
];

/// Why the providers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    /// A file is refused, or an image is chosen for a provider that is not there.
    #[error("check the providers")]
    Refused(#[from] ProviderError),
    /// The directory or a file in it cannot be read.
    #[error("read {path}")]
    Unreadable {
        /// Directory or file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Two files of the operator's are for the same provider.
    #[error("the provider {id} stands in two files, {first} and {second}")]
    Twice {
        /// Its id.
        id: String,
        /// One file.
        first: String,
        /// The other one.
        second: String,
    },
}

/// Every provider of a configuration, the operator's own last, with the images that it chose for them.
pub fn read(config: &Config) -> Result<Vec<Provider>, ProvidersError> {
    let shipped = SHIPPED.iter().map(|(file, text)| Provider::parse(file, text));
    let mut providers = shipped.collect::<Result<Vec<_>, _>>()?;
    let own = config.providers_dir.as_deref().map_or_else(|| Ok(Vec::new()), read_dir)?;
    providers.retain(|provider| !own.iter().any(|(_, mine)| mine.id == provider.id));
    providers.extend(own.into_iter().map(|(_, provider)| provider));
    Provider::choose_images(&mut providers, &config.provider_images)?;
    Ok(providers)
}

/// Every `*.toml` of a directory with its name, in the order of their names.
fn read_dir(dir: &Path) -> Result<Vec<(String, Provider)>, ProvidersError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ProvidersError::Unreadable { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
        paths.push(entry.map_err(unreadable(dir))?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut own: Vec<(String, Provider)> = Vec::new();
    for path in paths {
        let (file, text) = (path.display().to_string(), fs::read_to_string(&path).map_err(unreadable(&path))?);
        let provider = Provider::parse(&file, &text)?;
        if let Some((first, _)) = own.iter().find(|(_, other)| other.id == provider.id) {
            return Err(ProvidersError::Twice { id: provider.id, first: first.clone(), second: file });
        }
        own.push((file, provider));
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const MINE: &str = "id = \"mine\"\nname = \"Mine\"\nimage = \"base\"\n";

    fn with(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let config = Config { providers_dir: Some(dir.path().to_owned()), ..Config::default() };
        (dir, config)
    }

    #[test]
    fn the_operator_s_files_come_beside_and_in_place_of_the_shipped_ones() {
        let shell = MINE.replace("\"mine\"", "\"shell\"");
        let (_dir, mut config) = with(&[("a.toml", MINE), ("b.toml", &shell), ("notes.txt", "no provider")]);
        config.provider_images.insert("mine".into(), "browser".into());
        let providers = read(&config).unwrap();
        let one = |id: &str| providers.iter().filter(|provider| provider.id == id).collect::<Vec<_>>();
        assert_eq!((providers.len(), one("demo").len()), (SHIPPED.len() + 1, 1));
        assert_eq!((one("mine")[0].image.as_str(), one("shell")[0].name.as_str()), ("browser", "Mine"));
    }

    #[test]
    fn what_is_wrong_names_its_file() {
        let (dir, mut config) = with(&[("a.toml", MINE), ("b.toml", MINE)]);
        let twice = read(&config).unwrap_err().to_string();
        assert!(twice.contains("mine") && twice.contains("a.toml") && twice.contains("b.toml"), "{twice}");
        fs::write(dir.path().join("b.toml"), "idd = 1").unwrap();
        let refused = read(&config).unwrap_err();
        let file = refused.source().unwrap();
        assert!(file.to_string().contains("b.toml"), "{file}");
        assert!(file.source().unwrap().to_string().contains("idd"));
        config.providers_dir = Some(dir.path().join("none"));
        let missing = read(&config).unwrap_err();
        assert!(missing.to_string().ends_with("/none"));
        assert_eq!(missing.source().unwrap().downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
