//! What happens in a history, and how it is chosen.

use airlock_domain::step::Step;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::faulty::{Fault, Strike};

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Op {
    /// A session is accepted and its VM started, with faults.
    Create { kind: Kind, faults: Vec<Strike> },
    /// A VM's session is cancelled, with faults.
    Destroy { which: Index, faults: Vec<Strike> },
    /// A pass of the running daemon, with faults.
    Pass { faults: Vec<Strike> },
    /// The daemon dies while it does nothing.
    Crash,
    /// A new daemon takes up what is there, with faults.
    Restart { faults: Vec<Strike> },
    /// Something happens behind the daemon's back to a VM, or near it.
    Drift { which: Index, drift: Drift },
}

/// What a VM is in when its start is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It boots.
    Booting,
    /// A person may act.
    Awaiting,
    /// A person could have acted, but the session's deadline passed.
    Overdue,
    /// It never starts: the name of its TAP is taken.
    NameTaken,
}

/// A change by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    TapDeleted,
    TapDown,
    /// The TAP is deleted and somebody makes one of the same name.
    TapReplaced,
    GuardRemoved,
    GuardChanged,
    VmmStopped,
    /// The session is ended in the store.
    SessionEnded,
    /// The VM's task does not renew its lease any more.
    LeaseLapsed,
    /// A TAP with our prefix and somebody's alias.
    ForeignTap,
    /// A TAP with our prefix and the alias of a VM that was never recorded.
    UnknownTap,
    ForeignDirectory,
    /// A directory named like one of a VM that was never recorded.
    UnknownDirectory,
    /// Somebody's process in the VM's directory.
    ForeignProcess,
}

/// Those that need more than one thing to matter are tried more often.
fn any_drift() -> impl Strategy<Value = Drift> {
    let seldom = [
        Drift::TapDown,
        Drift::TapReplaced,
        Drift::GuardRemoved,
        Drift::GuardChanged,
        Drift::VmmStopped,
        Drift::SessionEnded,
        Drift::ForeignTap,
        Drift::UnknownTap,
        Drift::ForeignDirectory,
        Drift::UnknownDirectory,
        Drift::ForeignProcess,
    ];
    prop_oneof![11 => select(seldom.to_vec()), 5 => Just(Drift::LeaseLapsed), 3 => Just(Drift::TapDeleted)]
}

fn any_strike() -> impl Strategy<Value = Strike> {
    let at_any_step = (select(&Step::ALL[..]), select(&Fault::AT_EVERY_STEP[..]));
    let at_spawn = select(&Fault::AT_SPAWN[..]).prop_map(|fault| (Step::SpawnVmm, fault));
    prop_oneof![8 => at_any_step, 1 => at_spawn].prop_map(|(step, fault)| Strike { step, fault })
}

/// Mostly none: what goes wrong must find something that is there.
fn any_faults() -> impl Strategy<Value = Vec<Strike>> {
    prop_oneof![3 => Just(Vec::new()), 2 => vec(any_strike(), 1..=2)]
}

/// Any operation.
pub fn any_op() -> impl Strategy<Value = Op> {
    let kinds = prop_oneof![
        3 => Just(Kind::Booting),
        3 => Just(Kind::Awaiting),
        1 => Just(Kind::Overdue),
        1 => Just(Kind::NameTaken),
    ];
    prop_oneof![
        5 => (kinds, any_faults()).prop_map(|(kind, faults)| Op::Create { kind, faults }),
        2 => (any::<Index>(), any_faults()).prop_map(|(which, faults)| Op::Destroy { which, faults }),
        4 => any_faults().prop_map(|faults| Op::Pass { faults }),
        1 => Just(Op::Crash),
        2 => any_faults().prop_map(|faults| Op::Restart { faults }),
        6 => (any::<Index>(), any_drift()).prop_map(|(which, drift)| Op::Drift { which, drift }),
    ]
}
