//! What was fetched for one build and serves the next: Debian packages and npm's cache, below `cache/downloads`.
//!
//! A changed list of packages fetches only what is new. apt compares size and version with the signed lists before it takes a
//! package from here, dpkg its own checksums; npm compares digests. Losing the directory costs only time.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::reporter::Reporter;
use crate::state_dir::StateDir;
use crate::tool::{self, ToolRun};

/// Packages go in before mmdebstrap fetches any, by links where the file system allows it, and come out when all are there.
/// The names are apt's; nothing else is taken.
const OFFER: &str = r#"mkdir -p "$1/var/cache/apt/archives"; find "$AIRLOCK_DEBS" -maxdepth 1 -name '*.deb' -exec cp -t "$1/var/cache/apt/archives" -- {} +"#;
const KEEP: &str =
    r#"find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec cp -n -t "$AIRLOCK_DEBS" -- {} +"#;

/// Certificates that this host trusts (Debian's ca-certificates).
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The directory of what was fetched.
#[derive(Debug, Clone)]
pub(crate) struct Downloads {
    dir: PathBuf,
}

impl Downloads {
    /// That of a state directory.
    pub(crate) fn of(state: &StateDir) -> Self {
        Self { dir: state.cache().join("downloads") }
    }

    /// A run of mmdebstrap that takes packages from here and leaves those it fetched.
    pub(crate) fn offer(&self, mut run: ToolRun, reporter: &mut Reporter<'_>) -> Result<ToolRun, ImageError> {
        let debs = self.dir.join("debs");
        fs::create_dir_all(&debs).map_err(ImageError::io("create directory", &debs))?;
        let known = fs::read_dir(&debs).map_err(ImageError::io("list", &debs))?.count();
        reporter.line(&format!("{known} packages were fetched before"));
        let hooks = [
            // The first would refuse archives that are there already, the second would throw them away.
            "--skip=download/empty".to_owned(),
            "--skip=essential/unlink".to_owned(),
            format!("--setup-hook={OFFER}"),
            format!("--customize-hook={KEEP}"),
        ];
        run.args.splice(0..0, hooks);
        run.env.push(("AIRLOCK_DEBS".to_owned(), debs.to_string_lossy().into_owned()));
        Ok(run)
    }

    /// Where npm keeps what it fetched.
    pub(crate) fn npm_cache(&self) -> String {
        self.dir.join("npm").to_string_lossy().into_owned()
    }

    /// A run of npm, which may lie anywhere, with the interpreter that it needs.
    pub(crate) fn npm(&self, mut run: ToolRun) -> Result<ToolRun, ImageError> {
        let mut path: Vec<String> = Vec::new();
        for program in ["npm", "node"] {
            let file = tool::find(program)?;
            path.extend(file.parent().map(|dir| dir.to_string_lossy().into_owned()));
        }
        path.extend(["/usr/bin", "/bin"].map(str::to_owned));
        run.env.push(("PATH".to_owned(), path.join(":")));
        // Node has certificates of its own; an operator's are in the host's.
        if Path::new(CERTIFICATES).exists() {
            run.env.push(("NODE_EXTRA_CA_CERTS".to_owned(), CERTIFICATES.to_owned()));
        }
        Ok(run)
    }
}
