//! The patterns: what a line says, as data. Each rule carries its code of the catalogue and a real example, which is its test.
//!
//! A rule's first text is searched in the whole log by one automaton; the others must follow it in the same record.

mod guest;
mod kernel;
mod network;
mod vmm;

use airlock_protocol::Stage;

use crate::cause::Cause;

/// One pattern.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What it proves.
    pub cause: Cause,
    /// The stage that is not reached because of it; none: the one that the log stopped before.
    pub stage: Option<Stage>,
    /// Who must have said it, and where in the record it must stand.
    pub from: From,
    /// Texts, in order.
    pub all: &'static [&'static str],
    /// What it is worth.
    pub grade: Grade,
    /// A real line.
    pub example: &'static str,
}

/// Who must have said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The kernel, and the record begins with it.
    Kernel,
    /// The kernel, anywhere in the record (drivers put their device before it).
    Driver,
    /// Anybody, and the record begins with it.
    Start,
    /// Anybody, anywhere.
    Any,
    /// The VMM.
    Vmm,
}

/// What a finding is worth. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// A fault, whatever follows.
    Hard,
    /// A fault unless its stage is reached later.
    Soft,
    /// A fault of a boot that is good as far as the log says, or a generic word for one that has a better name.
    Weak,
    /// Worth knowing; no fault of a boot that is good.
    Note,
}

/// Every rule.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [vmm::RULES, kernel::RULES, network::RULES, guest::RULES].into_iter().flatten()
}

const fn rule(
    cause: Cause,
    stage: Option<Stage>,
    from: From,
    grade: Grade,
    all: &'static [&'static str],
    example: &'static str,
) -> Rule {
    Rule { cause, stage, from, all, grade, example }
}
