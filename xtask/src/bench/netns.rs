//! The bench's own network namespace with one TAP in it. Nothing of the reference ever sends a frame outside of it.
//!
//! The namespace is named after this process and removed on drop; what a killed bench left behind is removed by the next.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::run;

const PREFIX: &str = "airlock-bench-";

/// A namespace that lives as long as this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates it, with loopback up.
    pub fn create() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the bench makes a network namespace and a TAP: run it as root");
        }
        remove_stale();
        let namespace = Self { name: format!("{PREFIX}{}", std::process::id()) };
        run::run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Creates a TAP that is up, owns `host`/24 and knows the guest's MAC.
    pub fn add_tap(&self, tap: &str, host: Ipv4Addr, guest: Ipv4Addr, guest_mac: &str) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"])?;
        self.ip(&["addr", "add", &format!("{host}/24"), "dev", tap])?;
        self.ip(&["link", "set", tap, "up"])?;
        // A guest that is not there yet would otherwise cost up to a second of ARP back-off, on the reference's account.
        self.ip(&["neigh", "replace", &guest.to_string(), "lladdr", guest_mac, "nud", "permanent", "dev", tap])
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        run::run(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// `program`, to be started inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Moves the calling thread inside. Meant for a thread of its own.
    pub fn enter(&self) -> Result<()> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run::run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("left behind: network namespace {}: {error:#}", self.name);
        }
    }
}

/// Removes namespaces of benches that run no more.
fn remove_stale() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix(PREFIX)
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && !Path::new("/proc").join(pid).exists()
        {
            eprintln!("removing network namespace {name} of a bench that was killed");
            let _ = run::run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
