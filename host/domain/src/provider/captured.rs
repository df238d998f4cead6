//! Whether what a guest sent is what its provider's file names. Pure. A guest is not trusted: what it calls its files becomes paths
//! of whoever exports the credential.

use super::Provider;

/// Longest part of a guest's path that is repeated, in characters.
const TOLD: usize = 64;

/// Why a guest's files are no credential of its provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotItsFiles {
    /// A file that the provider's file does not name, or that came before in the same capture.
    #[error("the guest sent {path:?}, which the provider's file does not name, or names once")]
    Unknown {
        /// What the guest calls it, cut.
        path: String,
    },
    /// A file without which there is no login.
    #[error("the guest did not send {path:?}")]
    Missing {
        /// As the provider's file has it.
        path: String,
    },
}

impl Provider {
    /// Whether these are its credential files: each that is not optional, none else, none twice.
    pub fn check_captured<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> Result<(), NotItsFiles> {
        let mut wanted: Vec<_> = self.login.iter().flat_map(|login| &login.credentials).collect();
        for path in paths {
            let known = wanted.iter().position(|file| file.path == path);
            let known = known.ok_or_else(|| NotItsFiles::Unknown { path: path.chars().take(TOLD).collect() })?;
            wanted.swap_remove(known);
        }
        match wanted.into_iter().find(|file| !file.optional) {
            Some(file) => Err(NotItsFiles::Missing { path: file.path.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_FILES: &str = "id = \"two\"\nname = \"Two\"\nimage = \"base\"\n[login]\ncommand = [\"two\"]\n\
        url_prefixes = [\"https://idp.test/\"]\ncallback = { path = \"/cb\" }\n[[login.credentials]]\npath = \".two/a.json\"\n\
        [[login.credentials]]\npath = \".two/b.json\"\noptional = true\n";

    #[test]
    fn only_the_files_that_the_provider_names_are_taken() {
        let provider = Provider::parse("two.toml", TWO_FILES).unwrap();
        let unknown = |path: &str| Err(NotItsFiles::Unknown { path: path.into() });
        for (sent, expected) in [
            (vec![".two/a.json"], Ok(())),
            (vec![".two/b.json", ".two/a.json"], Ok(())),
            (vec![".two/a.json", ".ssh/authorized_keys"], unknown(".ssh/authorized_keys")),
            (vec![".two/a.json", ".two/a.json"], unknown(".two/a.json")),
            (vec!["../.two/a.json"], unknown("../.two/a.json")),
            (vec![".two/b.json"], Err(NotItsFiles::Missing { path: ".two/a.json".into() })),
            (vec![], Err(NotItsFiles::Missing { path: ".two/a.json".into() })),
        ] {
            assert_eq!(provider.check_captured(sent.iter().copied()), expected, "{sent:?}");
        }
        let long = "x".repeat(1000);
        assert_eq!(provider.check_captured([long.as_str()]), unknown(&"x".repeat(TOLD)));
    }
}
