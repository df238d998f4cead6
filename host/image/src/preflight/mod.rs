//! The preflight: everything that can be known of an image without booting it.
//!
//! ```text
//! candidate's files ─ seen.rs, root_seen.rs (thin, read only) ─> Facts ─ examine (pure) ─> Problems, worst first
//!                                                                          |- kernel.rs    format, options, command line
//!                                                                          |- initramfs.rs modules, our programs
//!                                                                          `- root.rs      init, services, users, ports, display
//! ```
//!
//! Every problem has the code of the fault catalogue where that has one, names the option or file, and says what to do. All of
//! them are found at once; the worst is the one that stops a boot first.

mod elf_seen;
mod initramfs;
mod kernel;
mod newc;
mod root;
mod root_seen;
mod seen;

use std::collections::BTreeMap;
use std::fmt;

use airlock_protocol::Stage;

use crate::error::ImageError;
use crate::manifest::Manifest;
use crate::registry::GoldenImage;
use crate::reporter::Reporter;

pub use kernel::KernelFormat;
pub use root_seen::{Binary, Interpreter, ProgramSeen, RootSeen};
pub use seen::{InitramfsSeen, ModuleSeen, OurProgram, SuperblockSeen, collect};

/// What is known of a candidate.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Form of the kernel file.
    pub kernel: KernelFormat,
    /// Every option of the kernel's configuration that is set; none if the configuration is not known.
    pub config: Option<BTreeMap<String, String>>,
    /// What the initramfs holds; or why it cannot be read.
    pub initramfs: Result<InitramfsSeen, String>,
    /// What the root filesystem's first blocks say.
    pub superblock: SuperblockSeen,
    /// What the root filesystem holds; none if nobody looked into it.
    pub root: Option<RootSeen>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Code of the fault catalogue, or of our own where that has none.
    pub code: &'static str,
    /// The stage that a boot would not reach.
    pub stage: Stage,
    /// Whether the image is refused for it; a warning otherwise.
    pub refuses: bool,
    /// What is wrong, with the option or file.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    fn new(code: &'static str, stage: Stage, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, stage, refuses: true, what: what.into(), remedy: remedy.into() }
    }

    fn warning(self) -> Self {
        Self { refuses: false, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.code, self.what, self.remedy)
    }
}

/// Finds everything that is wrong, worst first: refusals before warnings, what stops a boot earlier before what stops it later.
pub fn examine(facts: &Facts) -> Vec<Problem> {
    let mut problems = kernel::problems(facts);
    problems.extend(initramfs::problems(facts));
    problems.extend(root::problems(facts));
    problems.sort_by_key(|problem| (!problem.refuses, problem.stage));
    problems
}

/// Refuses a candidate that cannot boot, with every problem in the log. `config` is empty if the kernel's is not known.
pub(crate) fn check(
    candidate: &GoldenImage,
    config: &str,
    root: Option<RootSeen>,
    reporter: &mut Reporter<'_>,
) -> Result<(), ImageError> {
    let config = Some(config).filter(|config| !config.is_empty());
    let problems = examine(&collect(candidate, config, root)?);
    for problem in &problems {
        reporter.line(&format!("{} {problem}", if problem.refuses { "refused:" } else { "warning:" }));
    }
    let refusals: Vec<Problem> = problems.into_iter().filter(|problem| problem.refuses).collect();
    if refusals.is_empty() {
        return Ok(());
    }
    Err(ImageError::Preflight { image: candidate.name.clone(), problems: refusals })
}
