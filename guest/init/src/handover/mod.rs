//! Handing PID 1 to the image's own init. Pure: facts of the root in, who takes over and what is written out.
//!
//! ```text
//! /run/airlock/bin/airlock-init supervise   runs the agent and the image's services in every mode:
//!   child   any init   as a process that PID 1 forked before it became the image's init
//!   unit    systemd    the same, and a unit in /run/systemd/system that waits to take over when that process ends
//!   pid1    no init    as PID 1 itself
//! ```
//!
//! The child answers seconds before systemd would have started a unit; the unit is what systemd keeps alive.
//! Nothing in the image is edited: what is written goes to the overlay and to /run, and is gone with the machine.
//! A fact that cannot be found out counts as absent; the child mode needs none.

pub mod addressing;
pub mod facts;
pub mod hands_off;
pub mod identity_files;
pub mod unit;

use airlock_protocol::boot_config::NetworkKeys;
use airlock_protocol::guest_config::{Addressing, NetworkOwner};
use airlock_protocol::{BootConfig, MacAddr};

use crate::identity::Identity;
pub use facts::{FoundInit, RootFacts};

/// Who becomes PID 1, and how the agent lives beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// What is executed, e.g. `/sbin/init`; none if the root has no init.
    pub init: Option<String>,
    /// What it is: `systemd`, `sysvinit`, `busybox`, `openrc`, `runit`, `program`, `none`.
    pub kind: &'static str,
    /// Where the supervisor runs.
    pub mode: Mode,
}

/// Where the supervisor of agent and services runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a child of PID 1, with a unit of systemd behind it.
    Unit,
    /// As a child of PID 1.
    Child,
    /// As PID 1.
    Pid1,
}

impl Mode {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Child => "child",
            Self::Pid1 => "pid1",
        }
    }
}

/// The first init of the root decides.
pub fn successor(facts: &RootFacts) -> Successor {
    let Some(FoundInit { path, real }) = facts.inits.first() else {
        return Successor { init: None, kind: "none", mode: Mode::Pid1 };
    };
    let kind = match real.rsplit('/').next().unwrap_or_default() {
        "systemd" => "systemd",
        "busybox" => "busybox",
        "openrc-init" => "openrc",
        "runit-init" | "runit" => "runit",
        // Both read it; what is neither of the above and has it is the classic one.
        _ if facts.present("/etc/inittab") => "sysvinit",
        _ => "program",
    };
    let mode = if kind == "systemd" { Mode::Unit } else { Mode::Child };
    Successor { init: Some(path.clone()), kind, mode }
}

/// Our interface as the image's network managers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name now.
    pub dev: String,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// A file or link that is put into the overlay or into /run. What is there already is replaced; a link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Absolute path in the new root.
    pub path: String,
    /// What is put there.
    pub content: Content,
}

/// Content of a [`Placed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file, readable by all.
    Text(String),
    /// A symbolic link to this.
    Link(String),
}

impl Placed {
    /// A file.
    pub fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), content: Content::Text(text.into()) }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { path: path.into(), content: Content::Link(target.into()) }
    }
}

/// Everything that is written before the image's init runs.
pub fn placements(
    facts: &RootFacts,
    successor: &Successor,
    (owner, addressing): (NetworkOwner, Addressing),
    (boot, keys): (&BootConfig, &NetworkKeys),
    interface: Option<&Interface>,
) -> Vec<Placed> {
    let identity = Identity::of(boot, keys);
    let mut placed = identity_files::files(facts, &identity);
    if successor.mode == Mode::Unit {
        placed.extend(unit::files());
    }
    if let Some(interface) = interface {
        placed.extend(hands_off::files(facts, owner, interface));
        placed.extend(addressing::files(facts, (owner, addressing), (boot, keys), interface));
    }
    placed
}

#[cfg(test)]
mod tests;
