//! Evidence bundles: what is kept of a VM outside its directory, saved before anything of it is undone.
//!
//! ```text
//! evidence/.ev-<vm id>.saving-* ──rename──> evidence/ev-<vm id>/ ──rename──> evidence/.ev-<vm id>.gone-* ──> removed
//!                                           bundle.json    what this is: cause, stage, files with sizes and digests, what is missing
//!                                           failure.json   cause, stage, detail
//!                                           diagnosis.json verdict, evidence lines, remedy, what else is wrong
//!                                           timeline.json  every stage
//!                                           console.log    of a long one its first MiB and its last 15
//!                                           host.json      what the host saw: TAP, counters, process, memory, disk
//!                                           vm.json        what the VMM was asked to start
//!                                           vmm.log        what it printed
//! ```
//!
//! A bundle is whole or not there, and the first one of a VM stays: what comes later has seen less. Every text in it went through
//! [`airlock_domain::redaction`]. Nothing here is fatal to its caller: what cannot be kept is left out and `bundle.json` says so; on a
//! full disk what is worth most is kept first. What a daemon that was killed left half done is removed by [`Bundles::retain`].

mod excerpt;
mod export;
mod read;
mod remove;
mod save;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::diagnosis::Verdict;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::{EvidenceId, SessionId, VmId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::error::ErrorKind;

pub use export::Export;
pub use read::{Bundle, Summary};

/// The description of a bundle, the last file that is written.
const RECORD: &str = "bundle.json";
const FAILURE: &str = "failure.json";
const DIAGNOSIS: &str = "diagnosis.json";
const TIMELINE: &str = "timeline.json";
const CONSOLE: &str = "console.log";
const HOST: &str = "host.json";
const VM: &str = "vm.json";
const VMM_LOG: &str = "vmm.log";

/// Why something about evidence could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Nothing of a bundle could be written.
    #[error("save evidence bundle {id}")]
    Save {
        /// Which bundle.
        id: EvidenceId,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The bundles cannot be listed.
    #[error("list evidence in {}", dir.display())]
    List {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A bundle cannot be read.
    #[error("read evidence bundle {id}")]
    Read {
        /// Which bundle.
        id: EvidenceId,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A bundle cannot be removed.
    #[error("remove evidence bundle {id}")]
    Remove {
        /// Which bundle.
        id: EvidenceId,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No such bundle.
    #[error("there is no evidence bundle {0}")]
    Missing(EvidenceId),
    /// The bundle's VM is not destroyed yet.
    #[error("evidence bundle {0} belongs to a VM that is not destroyed yet")]
    Held(EvidenceId),
}

impl EvidenceError {
    /// How it is answered.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_) => ErrorKind::NotFound,
            Self::Held(_) => ErrorKind::Refused,
            Self::Save { .. } | Self::List { .. } | Self::Read { .. } | Self::Remove { .. } => ErrorKind::Internal,
        }
    }

    /// The stable code of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "no_evidence",
            Self::Held(_) => "evidence_held",
            Self::Save { .. } | Self::List { .. } | Self::Read { .. } | Self::Remove { .. } => "evidence_failed",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing(_) => {
                "see airlock evidence ls; bundles are removed by age and size ([evidence] in the configuration)"
            }
            Self::Held(_) => "destroy the machine first: airlock vm destroy ID",
            Self::Save { .. } | Self::List { .. } | Self::Read { .. } | Self::Remove { .. } => {
                "see the cause; evidence/ of the state directory must be the daemon's, with space left"
            }
        }
    }
}

/// A VM that failed, as whoever saves its evidence knows it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which VM.
    pub vm_id: VmId,
    /// Whose it was.
    pub session_id: Option<SessionId>,
    /// Its directory: `console.log`, `vmm.log`, `vm.json`. None of them must exist.
    pub vm_dir: PathBuf,
    /// Why it failed.
    pub failure: Failure,
    /// Its boot.
    pub timeline: Vec<TimelineEntry>,
    /// What the host saw of it, as any JSON; it becomes `host.json`.
    pub host: Option<Value>,
    /// What came of its diagnosis; it becomes `diagnosis.json`.
    pub diagnosis: Option<Verdict>,
}

/// `bundle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format, 1.
    pub format: u32,
    /// The bundle's id.
    pub id: EvidenceId,
    /// Whose it is.
    pub vm_id: VmId,
    /// The session that held the VM.
    pub session_id: Option<SessionId>,
    /// Code of the fault catalogue.
    pub cause: String,
    /// First stage that failed, if the VM was not ready.
    pub stage: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub saved_ms: i64,
    /// Version of the daemon that saved it.
    pub airlock_version: String,
    /// Build id of the guest programs in that daemon.
    pub guest_build_id: String,
    /// What is in it, in the order of its worth.
    pub files: Vec<FileRecord>,
    /// What is not.
    pub left_out: Vec<LeftOut>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Lines, or texts of a JSON file, that lost a secret.
    pub redacted: u64,
    /// What was cut out of its middle or its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// A part that is missing from a file. A line in the file stands in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// How much was cut, in bytes.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

/// A file that is not in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// The bundles of a state directory. Blocking.
#[derive(Debug, Clone)]
pub struct Bundles {
    dir: PathBuf,
    limits: EvidenceLimits,
}

impl Bundles {
    /// The bundles below `state_dir`. Nothing is opened.
    pub fn new(state_dir: &Path, limits: EvidenceLimits) -> Self {
        Self { dir: state_dir.join("evidence"), limits }
    }

    /// Where a bundle lies.
    fn path(&self, id: EvidenceId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A hidden name beside the bundles for something that is not whole, `saving` or `gone`. It names this process's run, so that what
    /// another run left is known as such although pids repeat.
    fn hidden(&self, id: EvidenceId, what: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.dir.join(format!(".{id}.{what}-{}-{}", &*RUN, COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

/// This run of the process.
static RUN: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().simple().to_string());

/// The bundle's id.
pub fn id_of(vm_id: VmId) -> String {
    EvidenceId::of(vm_id).to_string()
}

/// Where a bundle lies.
pub fn dir_of(state_dir: &Path, evidence_id: &str) -> PathBuf {
    state_dir.join("evidence").join(evidence_id)
}
