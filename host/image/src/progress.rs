//! What a build tells whoever waits for it. The library prints nothing itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A part of a build, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStage {
    /// Waiting for another build in the same state directory.
    Lock,
    /// Kernel package and modules.
    Kernel,
    /// Layers or archives of a foreign root: fetched, verified, unpacked.
    Source,
    /// Debian packages into a directory.
    Packages,
    /// Users, files and commands of the recipe.
    Customize,
    /// The directory into a filesystem image.
    RootImage,
    /// Init, agent and modules into the initramfs.
    Initramfs,
    /// Manifest and digest; everything that can be known without a boot.
    Preflight,
    /// A boot in a real VM to the readiness contract.
    BootTest,
    /// Rename.
    Publish,
}

impl BuildStage {
    /// Every stage, in order.
    pub const ALL: &'static [Self] = &[
        Self::Lock,
        Self::Kernel,
        Self::Source,
        Self::Packages,
        Self::Customize,
        Self::RootImage,
        Self::Initramfs,
        Self::Preflight,
        Self::BootTest,
        Self::Publish,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Kernel => "kernel",
            Self::Source => "source",
            Self::Packages => "packages",
            Self::Customize => "customize",
            Self::RootImage => "root_image",
            Self::Initramfs => "initramfs",
            Self::Preflight => "preflight",
            Self::BootTest => "boot_test",
            Self::Publish => "publish",
        }
    }
}

impl std::fmt::Display for BuildStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that happened during a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A stage began.
    Started {
        /// Which.
        stage: BuildStage,
    },
    /// A line of a tool, or of ours.
    Log {
        /// The stage it belongs to.
        stage: BuildStage,
        /// Without line end.
        line: String,
    },
    /// A stage ended well. A failure is the build's result, not an event.
    Finished {
        /// Which.
        stage: BuildStage,
        /// How long it took.
        elapsed: Duration,
        /// Its outcome was taken from the cache.
        reused: bool,
    },
}
