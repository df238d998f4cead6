//! The reconciler: what is recorded and what the kernel shows, turned into what to do about the difference.
//!
//! `(records, observed, now) -> actions`, pure; the same for a start of the daemon, for the periodic pass and for a signal.
//! Observe before reading the records: then a thing that is seen and not recorded was never recorded, or its VM ended.
//!
//! | recorded | seen | action |
//! |---|---|---|
//! | held by a task, lease good | TAP gone | tell the task: its guest is cut off |
//! | | port down, off the bridge, unguarded | repair |
//! | held, lease expired | | fail, undo (never while a person may still act: `awaiting_user` before its deadline) |
//! | open, held by nobody | VMM alive, TAP there, spawn recorded | adopt |
//! | | anything else | fail, undo |
//! | open, session ended | | undo (an unwinding that was cut off, or an undo that failed before) |
//! | ended | any trace of it | undo of that trace |
//! | nothing | a TAP, directory or process | left alone and named: not proved to be ours |
//!
//! Ownership is proved by a TAP's alias, by pid and start time together, by a directory's name that is a recorded VM's, by the
//! installation's own nftables table. A pid alone, a name alone, a prefix alone prove nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use airlock_protocol::MacAddr;
use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::ids::VmId;
use crate::session::SessionState;
use crate::step::{self, Step};
use crate::vmm::ProcessId;

/// One VM as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Identity.
    pub id: VmId,
    /// Its address, leased or formerly leased.
    pub address: Ipv4Addr,
    /// Whether everything of it is recorded as gone.
    pub ended: bool,
    /// Where its session stands.
    pub session: SessionState,
    /// When its session expires, on the host's monotonic clock, in milliseconds.
    pub deadline_ms: i64,
    /// Its lease, while there is one.
    pub lease: Option<Lease>,
    /// Its VMM process, once recorded.
    pub process: Option<ProcessId>,
    /// Steps with an intent that were not undone.
    pub begun: Vec<Step>,
    /// Those of them whose outcome says that they were applied.
    pub applied: Vec<Step>,
    /// Whether a task of this daemon owns it.
    pub held: bool,
}

/// The hold of a task on its VM and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Counts the owners; whoever acts on a lease names the one it means.
    pub generation: i64,
    /// When it lapses unless renewed, on the host's monotonic clock, in milliseconds.
    pub expires_ms: i64,
}

/// What the kernel shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every TAP of the installation's namespace.
    pub taps: Vec<TapSeen>,
    /// Every guarded port.
    pub guards: Vec<GuardSeen>,
    /// Every process that runs on the host.
    pub processes: BTreeSet<ProcessId>,
    /// Processes whose working directory is in the directory of a VM (its name).
    pub in_vm_dir: Vec<(ProcessId, String)>,
    /// Names of the entries below `vms/`.
    pub dirs: Vec<String>,
}

/// A TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSeen {
    /// Interface name.
    pub name: String,
    /// Interface alias.
    pub alias: String,
    /// Up, a port of the bridge, isolated.
    pub in_service: bool,
}

/// A port's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSeen {
    /// The port.
    pub tap: String,
    /// The one sender it lets through; none if the rules are not as we write them.
    pub sender: Option<(MacAddr, Ipv4Addr)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Give a live VM without a task a task.
    Adopt {
        /// The VM.
        vm: VmId,
    },
    /// Put a live VM's port back in service.
    Repair {
        /// The VM.
        vm: VmId,
    },
    /// Tell the task of a live VM what happened to it.
    Tell {
        /// The VM.
        vm: VmId,
        /// What.
        cause: Cause,
    },
    /// End the session of a VM as failed, if the VM still has the owner of that generation. Evidence is saved; undoing follows.
    Fail {
        /// The VM.
        vm: VmId,
        /// Why.
        cause: Cause,
        /// In words.
        detail: String,
        /// Owner that is meant; none if nobody owns it.
        generation: Option<i64>,
    },
    /// Undo steps, in this order.
    Undo {
        /// The VM.
        vm: VmId,
        /// Its steps.
        steps: Vec<Step>,
    },
    /// Remove rules of a port that no VM has.
    RemoveGuard {
        /// The port.
        tap: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { vm } => write!(f, "adopt VM {vm}"),
            Self::Repair { vm } => write!(f, "put the port of VM {vm} back in service"),
            Self::Tell { vm, cause } => write!(f, "tell the task of VM {vm}: {cause}"),
            Self::Fail { vm, cause, detail, .. } => write!(f, "mark VM {vm} failed: {cause}: {detail}"),
            Self::Undo { vm, steps } => {
                let names: Vec<_> = steps.iter().map(|step| step.name()).collect();
                write!(f, "undo {} of VM {vm}", names.join(", "))
            }
            Self::RemoveGuard { tap } => write!(f, "remove the rules of port {tap}"),
        }
    }
}

/// Something that may be a leftover, but is not proved to be ours. It is never touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Foreign {
    /// A TAP whose alias is no recorded VM's.
    Tap {
        /// Its name.
        name: String,
        /// Its alias.
        alias: String,
    },
    /// An entry below `vms/` that is no recorded VM's.
    Directory {
        /// Its name.
        name: String,
    },
    /// A process in the directory of a VM that is not its recorded VMM.
    Process {
        /// Its pid.
        pid: i32,
        /// The directory's name.
        dir: String,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap { name, alias } => write!(f, "TAP {name} with alias {alias:?}"),
            Self::Directory { name } => write!(f, "directory vms/{name}"),
            Self::Process { pid, dir } => write!(f, "process {pid} in vms/{dir}"),
        }
    }
}

/// What may be left of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A TAP.
    Tap,
    /// A port's rules.
    Guard,
    /// A VM's directory.
    Directory,
    /// A VMM.
    Process,
    /// A leased address.
    Lease,
}

impl Resource {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Tap, Self::Guard, Self::Directory, Self::Process, Self::Lease];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Guard => "guard",
            Self::Directory => "directory",
            Self::Process => "process",
            Self::Lease => "lease",
        }
    }

    /// What a step makes, if it makes something of its own.
    pub const fn of(step: Step) -> Option<Self> {
        match step {
            Step::LeaseAddress => Some(Self::Lease),
            Step::CreateTap => Some(Self::Tap),
            Step::GuardTap => Some(Self::Guard),
            Step::PrepareDisk => Some(Self::Directory),
            Step::SpawnVmm => Some(Self::Process),
            Step::WriteVmConfig | Step::AwaitReady => None,
        }
    }
}

/// The difference between what is recorded and what is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// What to do, in this order.
    pub actions: Vec<Action>,
    /// What was left alone.
    pub foreign: Vec<Foreign>,
    /// What is there and nobody owns, by kind; kinds without any are absent.
    pub leaked: BTreeMap<Resource, usize>,
}

/// See the head of this file. `rows` holds every open VM, and the ended ones of which anything was seen; `now_ms` is the host's
/// monotonic clock.
pub fn reconcile(rows: &[VmRow], seen: &Observed, now_ms: i64) -> Reconciliation {
    let mut result = Reconciliation::default();
    for row in rows {
        let (actions, owned) = decide(row, seen, now_ms);
        result.actions.extend(actions);
        if !owned {
            for kind in traces(row, seen).into_iter().filter_map(Resource::of) {
                *result.leaked.entry(kind).or_default() += 1;
            }
        }
    }
    for guard in &seen.guards {
        let known = rows.iter().any(|row| row.id.tap_name() == guard.tap);
        let carried = seen.taps.iter().any(|tap| tap.name == guard.tap);
        if !known && !carried {
            result.actions.push(Action::RemoveGuard { tap: guard.tap.clone() });
            *result.leaked.entry(Resource::Guard).or_default() += 1;
        }
    }
    result.foreign = foreign(rows, seen);
    result
}

/// The actions for one VM, and whether somebody owns it afterwards.
fn decide(row: &VmRow, seen: &Observed, now_ms: i64) -> (Vec<Action>, bool) {
    let vm = row.id;
    if row.ended {
        let steps = traces(row, seen);
        return (if steps.is_empty() { Vec::new() } else { vec![Action::Undo { vm, steps }] }, false);
    }
    if row.held {
        let lapsed = row.lease.filter(|lease| lapsed(row, *lease, now_ms));
        return match lapsed {
            None => (drift(row, seen), true),
            Some(lease) => {
                let detail = "the task that owns the VM stopped renewing its lease".to_owned();
                let generation = Some(lease.generation);
                let fail = Action::Fail { vm, cause: Cause::DaemonInterrupted, detail, generation };
                (with_undo(fail, row, seen), false)
            }
        };
    }
    if row.session.is_terminal() {
        return (vec![undo(row, seen)], false);
    }
    let alive = row.process.is_some_and(|process| seen.processes.contains(&process));
    let (cause, detail) = match (alive, tap_of(row, seen)) {
        (true, Some(_)) if row.applied.contains(&Step::SpawnVmm) => {
            let mut actions = drift(row, seen);
            actions.push(Action::Adopt { vm });
            return (actions, true);
        }
        (true, None) => (Cause::TapMissing, "its TAP was deleted while no daemon watched"),
        (false, _) if row.process.is_some() => (Cause::VmmExited, "the VMM ended while no daemon watched"),
        _ => (Cause::DaemonInterrupted, "the daemon ended in the middle of the start"),
    };
    let generation = row.lease.map(|lease| lease.generation);
    let fail = Action::Fail { vm, cause, detail: detail.to_owned(), generation };
    (with_undo(fail, row, seen), false)
}

/// Whether a lease lapsed, for a VM under which nobody may be typing.
fn lapsed(row: &VmRow, lease: Lease, now_ms: i64) -> bool {
    let person_may_act = row.session == SessionState::AwaitingUser && now_ms < row.deadline_ms;
    lease.expires_ms < now_ms && !person_may_act
}

/// What happened behind the back of a VM that lives.
fn drift(row: &VmRow, seen: &Observed) -> Vec<Action> {
    // Until its VMM was spawned the task itself is still making these things.
    if !row.applied.contains(&Step::SpawnVmm) || row.session.is_terminal() {
        return Vec::new();
    }
    let Some(tap) = tap_of(row, seen) else { return vec![Action::Tell { vm: row.id, cause: Cause::TapMissing }] };
    let wanted = Some((MacAddr::from_lease(row.address), row.address));
    let guarded = seen.guards.iter().any(|guard| guard.tap == tap.name && guard.sender == wanted);
    if tap.in_service && guarded { Vec::new() } else { vec![Action::Repair { vm: row.id }] }
}

fn tap_of<'a>(row: &VmRow, seen: &'a Observed) -> Option<&'a TapSeen> {
    let alias = row.id.to_string();
    seen.taps.iter().find(|tap| tap.alias == alias)
}

/// The steps of which something is left, in the order of their undoing.
fn traces(row: &VmRow, seen: &Observed) -> Vec<Step> {
    let left = |step: &Step| match step {
        Step::LeaseAddress => row.lease.is_some(),
        Step::CreateTap => tap_of(row, seen).is_some(),
        // A port of that name that is somebody else's keeps its rules.
        Step::GuardTap => {
            let name = row.id.tap_name();
            let foreign = seen.taps.iter().any(|tap| tap.name == name && tap.alias != row.id.to_string());
            !foreign && seen.guards.iter().any(|guard| guard.tap == name)
        }
        Step::PrepareDisk => seen.dirs.contains(&row.id.dir_name()),
        Step::SpawnVmm => row.process.is_some_and(|process| seen.processes.contains(&process)),
        Step::WriteVmConfig | Step::AwaitReady => false,
    };
    Step::ALL.into_iter().rev().filter(left).collect()
}

fn with_undo(fail: Action, row: &VmRow, seen: &Observed) -> Vec<Action> {
    vec![fail, undo(row, seen)]
}

/// Everything that was begun, and what is there again although it was undone. An open VM of which nothing is left still has to be
/// recorded as ended: its list is empty.
fn undo(row: &VmRow, seen: &Observed) -> Action {
    let left: Vec<Step> = row.begun.iter().copied().chain(traces(row, seen)).collect();
    Action::Undo { vm: row.id, steps: step::destroy(&left) }
}

fn foreign(rows: &[VmRow], seen: &Observed) -> Vec<Foreign> {
    let ours = |alias: &str| rows.iter().any(|row| row.id.to_string() == alias);
    let taps = seen.taps.iter().filter(|tap| !ours(&tap.alias));
    let taps = taps.map(|tap| Foreign::Tap { name: tap.name.clone(), alias: tap.alias.clone() });
    let dirs = seen.dirs.iter().filter(|name| !rows.iter().any(|row| row.id.dir_name() == **name));
    let dirs = dirs.map(|name| Foreign::Directory { name: name.clone() });
    let strangers = seen.in_vm_dir.iter().filter(|(process, _)| !rows.iter().any(|row| row.process == Some(*process)));
    let strangers = strangers.map(|(process, dir)| Foreign::Process { pid: process.pid, dir: dir.clone() });
    taps.chain(dirs).chain(strangers).collect()
}

#[cfg(test)]
mod tests;
