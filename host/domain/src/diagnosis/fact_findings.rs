//! What the boot machine, the VMM and the probes prove.
//!
//! * [`port`]: the VM's TAP, the bridge, the host's own room
//! * [`guest`]: what the agent sees inside
//! * [`reach`]: what comes through between the two, and out
//! * [`screen`]: the RFB server and what it shows
//!
//! A fact that is absent proves nothing, and of a VM that still boots neither does one that says that something is not there.

mod guest;
mod port;
mod reach;
mod screen;

use std::collections::BTreeSet;

use airlock_protocol::{MacAddr, Stage};

use super::console::ConsoleFacts;
use super::facts::{GuestFacts, GuestLink, HostFacts};
use super::rules::Grade;
use super::{Case, Evidence, Finding, Source, order};
use crate::boot::Failure;
use crate::cause::Cause;

pub(super) use reach::silence;

/// What the boot machine says. Causes that only say that something ended, or that time was over, have better names elsewhere.
pub(super) fn of_failure(failure: &Failure) -> Option<Finding> {
    let grade = match failure.cause {
        Cause::Inconclusive => return None,
        Cause::VmmExited | Cause::KernelPanic => Grade::Weak,
        // That it ended, and not why.
        Cause::AgentCrashed | Cause::DisplayFailed | Cause::BrowserCrashed | Cause::UnitFailed => Grade::Weak,
        _ if failure.is_of_deadline() => Grade::Weak,
        _ => Grade::Hard,
    };
    let evidence = vec![Evidence::seen(Source::Boot, failure.detail.as_str())];
    let stage = failure.stage.or_else(|| order::home(failure.cause));
    Some(Finding {
        rank: order::rank(failure.cause).min(1) + u8::from(grade == Grade::Weak) * 4,
        ..Finding::new(failure.cause, stage, grade, evidence)
    })
}

/// What the VMM's own log says.
pub(super) fn of_vmm_log(log: &ConsoleFacts) -> impl Iterator<Item = Finding> + '_ {
    log.boot.hits.iter().filter(|hit| hit.rule.cause != Cause::VmmExited).map(|hit| {
        let said = Evidence { source: Source::VmmLog, ..hit.first.clone() };
        Finding::new(hit.rule.cause, hit.rule.stage, hit.rule.grade, vec![said])
    })
}

/// What the probes of both sides prove together.
pub(super) fn of_probes(case: &Case<'_>, reached: &BTreeSet<Stage>, is_waiting: bool) -> Vec<Finding> {
    let (no_host, no_guest) = (HostFacts::default(), GuestFacts::default());
    let sight = Sight {
        host: case.host.unwrap_or(&no_host),
        guest: case.guest.unwrap_or(&no_guest),
        expected: case.expected.address.as_deref(),
        reached,
        failure: case.failure,
        is_timed: !case.timeline.is_empty(),
        is_waiting,
    };
    let mut found = Vec::new();
    port::find(&sight, &mut found);
    guest::find(&sight, &mut found);
    reach::find(&sight, &mut found);
    screen::find(&sight, &mut found);
    if sight.is_waiting {
        // What is wrong with a machine that is up may be nothing but what comes later.
        found.iter_mut().filter(|finding| finding.grade == Grade::Weak).for_each(|finding| finding.grade = Grade::Note);
    }
    found
}

/// What both sides see, and how far the VM is: what may simply not be there yet is nobody's fault.
struct Sight<'a> {
    host: &'a HostFacts,
    guest: &'a GuestFacts,
    /// The leased address, with or without prefix length.
    expected: Option<&'a str>,
    reached: &'a BTreeSet<Stage>,
    failure: Option<&'a Failure>,
    /// It has a timeline: a stage that is not in `reached` was not reached.
    is_timed: bool,
    is_waiting: bool,
}

impl Sight<'_> {
    fn has_reached(&self, stage: Stage) -> bool {
        self.reached.contains(&stage)
    }

    fn is_ready(&self) -> bool {
        self.has_reached(Stage::Ready)
    }

    /// Whether what this stage brings must be there by now.
    fn is_due(&self, stage: Stage) -> bool {
        !self.is_waiting || self.has_reached(stage)
    }

    /// The guest's interface with the leased MAC; none if it is not known which it is.
    fn own_link(&self) -> Option<&GuestLink> {
        let mac = MacAddr::from_lease(self.expected?.split('/').next()?.parse().ok()?);
        self.guest.links.iter().flatten().find(|link| link.mac == Some(mac))
    }
}

fn seen_by_host(cause: Cause, stage: Stage, grade: Grade, text: impl Into<String>) -> Finding {
    Finding::new(cause, Some(stage), grade, vec![Evidence::seen(Source::Host, text)])
}

fn seen_by_guest(cause: Cause, stage: Stage, grade: Grade, text: impl Into<String>) -> Finding {
    Finding::new(cause, Some(stage), grade, vec![Evidence::seen(Source::Guest, text)])
}

/// An end of the VMM that nobody asked for.
pub(super) fn of_exit(case: &Case<'_>) -> Option<Finding> {
    let exit = case.vmm_exit?;
    Some(Finding::new(
        Cause::VmmExited,
        None,
        Grade::Weak,
        vec![Evidence::seen(Source::Boot, format!("the VMM {exit}"))],
    ))
}
