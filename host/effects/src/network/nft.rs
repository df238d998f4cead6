//! Runs `nft` (Debian package nftables) inside a namespace. A text is applied whole or not at all.
//!
//! The child inherits the namespace of the thread that starts it. So nothing has to happen between fork and exec, and std starts
//! it with posix_spawn, which is several times cheaper than a fork of a large daemon.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

use super::place::Place;
use crate::netns::NetnsError;
use crate::process::find_program;

/// What went wrong with nft.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no nft.
    #[error("nft is not in PATH")]
    NotInstalled,
    /// It cannot be started, or its text cannot be handed to it.
    #[error("start nft")]
    Start {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The namespace to start it in is not usable.
    #[error("enter the namespace for nft")]
    Namespace {
        /// What went wrong.
        #[source]
        source: NetnsError,
    },
    /// It did not do what it was told. It prints the kernel's reason, there is no errno to keep.
    #[error("nft says {message:?}")]
    Refused {
        /// The beginning of what it printed.
        message: String,
    },
    /// Its list is no JSON.
    #[error("read the list that nft printed")]
    Json {
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The program, found once.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    program: PathBuf,
}

impl Nft {
    pub(super) fn find() -> Result<Self, NftError> {
        find_program("nft").map(|program| Self { program }).ok_or(NftError::NotInstalled)
    }

    /// What it prints of its version, such as `nftables v1.0.6 (Lester Gooch #5)`.
    pub(super) async fn version(&self) -> Result<String, NftError> {
        let printed = self.run(&Place::Host, &["--version"], String::new()).await?;
        Ok(String::from_utf8_lossy(&printed).trim().to_owned())
    }

    /// Applies a text in one transaction.
    pub(super) async fn apply(&self, place: &Place, text: String) -> Result<(), NftError> {
        self.run(place, &["-f", "-"], text).await.map(drop)
    }

    /// What `nft -j list <what>` prints; none if there is no such thing.
    pub(super) async fn list(&self, place: &Place, what: &[&str]) -> Result<Option<Value>, NftError> {
        let args: Vec<&str> = ["-j", "list"].iter().chain(what).copied().collect();
        match self.run(place, &args, String::new()).await {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|source| NftError::Json { source }),
            Err(NftError::Refused { message }) if message.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, place: &Place, args: &[&str], text: String) -> Result<Vec<u8>, NftError> {
        let mut command = Command::new(&self.program);
        // Its messages are read: they must be English.
        command.args(args).env_clear().env("LC_ALL", "C").stdout(Stdio::piped()).stderr(Stdio::piped());
        let runtime = tokio::runtime::Handle::current();
        let spawn = move || {
            let _entered = runtime.enter();
            command.stdin(file_of(&text)?);
            tokio::process::Command::from(command).spawn()
        };
        let start = |source| NftError::Start { source };
        let spawned = place.call(spawn).await.map_err(|source| NftError::Namespace { source })?;
        let output = spawned.map_err(start)?.wait_with_output().await.map_err(start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        // The statement follows on the second line, then a line of carets.
        Err(NftError::Refused { message: printed.lines().take(2).collect::<Vec<_>>().join(" ") })
    }
}

/// A file in memory with that text. Unlike a pipe it takes any length before anybody reads.
fn file_of(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"nft", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
