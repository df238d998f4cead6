//! The cells: which fault strikes where, and what must come of it.

use std::fmt;

use airlock_domain::step::Step;
use serde::{Deserialize, Serialize};

use crate::support::faulty::{Fault, Strike};

/// What a daemon is asked to do with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Start it; if that fails, undo it.
    Start,
    /// End its VMM and leave the rest.
    Stop,
    /// Undo it.
    Destroy,
}

/// What must be there in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing, and no lease.
    Gone,
    /// The live VM, to be adopted.
    Live,
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    pub plan: Plan,
    pub strike: Strike,
}

impl Cell {
    /// Every cell.
    pub fn all() -> Vec<Self> {
        let plans = [Plan::Start, Plan::Stop, Plan::Destroy];
        let everywhere = Step::ALL.iter().flat_map(|step| Fault::AT_EVERY_STEP.map(|fault| (*step, fault)));
        let strikes: Vec<_> = everywhere.chain(Fault::AT_SPAWN.map(|fault| (Step::SpawnVmm, fault))).collect();
        let of_plan = |plan| {
            strikes.iter().map(move |(step, fault)| Self { plan, strike: Strike { step: *step, fault: *fault } })
        };
        plans.into_iter().flat_map(of_plan).collect()
    }

    /// The cell's fault, and what makes it possible: a start undoes something only if a later step fails.
    pub fn strikes(self) -> Vec<Strike> {
        let mut strikes = vec![self.strike];
        if self.plan == Plan::Start && self.strike.fault.is_of_undo() {
            let next = Step::ALL.into_iter().find(|step| *step > self.strike.step);
            strikes.push(match next {
                Some(step) => Strike { step, fault: Fault::FailBefore },
                None => Strike { step: self.strike.step, fault: Fault::FailAfter },
            });
        }
        strikes
    }

    /// A start that was not prevented goes on under the next daemon; everything else ends in nothing.
    pub fn end(self) -> End {
        let Strike { step, fault } = self.strike;
        let spawned = step > Step::SpawnVmm || (step == Step::SpawnVmm && fault == Fault::DieAfterOutcome);
        let began = fault == Fault::ApplyTwice || (spawned && fault.is_death() && !fault.is_of_undo());
        if self.plan == Plan::Start && began { End::Live } else { End::Gone }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{:?}", self.plan, self.strike.step, self.strike.fault)
    }
}
