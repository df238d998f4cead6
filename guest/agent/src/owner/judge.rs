//! Whether what the interface has is what it must have. Pure: observations and times in, verdicts out.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Lease;
use super::interface::Observed;

/// How long the manager that owns the interface may leave it without its address, or with another one.
const GRACE: Duration = Duration::from_secs(2);
/// How long a link that was taken down may take to come back where nobody may touch it: before Linux 6.2 whoever renames an
/// interface must take it down for it (net/core/dev.c: dev_change_name).
const DOWN_GRACE: Duration = Duration::from_millis(750);
/// How long another address may stand in the place of ours before the boot has failed.
const MISMATCH_AFTER: Duration = Duration::from_secs(20);
/// Who takes the address more often than this within [`RESTORE_WINDOW`] is not answered any more. Tools that flush an interface
/// go on until nothing is left, ten times at most.
const RESTORE_AT_MOST: usize = 20;
const RESTORE_WINDOW: Duration = Duration::from_secs(10);

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The interface is gone.
    LinkGone,
    /// It was taken down.
    LinkDown,
    /// The leased address is gone.
    AddressGone,
    /// Addresses are there that nobody leased.
    Foreign(Vec<(Ipv4Addr, u8)>),
    /// The default route is gone or leads elsewhere.
    RouteGone,
}

impl Conflict {
    /// What was done, behind who did it.
    pub fn words(&self, dev: &str, lease: &Lease) -> String {
        match self {
            Self::LinkGone => "removed the interface".to_owned(),
            Self::LinkDown => format!("took {dev} down"),
            Self::AddressGone => format!("removed {}/{} from {dev}", lease.addr, lease.prefix),
            Self::Foreign(addresses) => format!("added {} to {dev}", shown(addresses).join(", ")),
            Self::RouteGone => format!("removed the default route through {dev}"),
        }
    }
}

/// What a look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as it must be.
    Quiet,
    /// Not yet what it must be, or not long enough what it must not be.
    Unsettled,
    /// Another address came up in the place of ours.
    Mismatch {
        /// What is there.
        has: Vec<String>,
    },
    /// It has another name and everything else that it had, but perhaps the routes, which go with a link that goes down.
    Renamed {
        /// Its former name.
        from: String,
    },
    /// Somebody changed what was there.
    Conflict(Conflict),
}

/// What was seen so far.
#[derive(Debug)]
pub struct Judge {
    lease: Lease,
    grace: Duration,
    /// The lease was there once.
    held: bool,
    /// The default route was there once.
    routed: bool,
    /// The name it had when it was last as it must be.
    name: String,
    wrong_since: Option<Instant>,
    /// What was said already and lasts.
    said: Option<Verdict>,
    restored: Vec<Instant>,
}

impl Judge {
    /// `prompt`: nobody in the image may touch the interface, not for a moment.
    pub fn new(lease: Lease, prompt: bool) -> Self {
        let grace = if prompt { Duration::ZERO } else { GRACE };
        Self {
            lease,
            grace,
            held: false,
            routed: false,
            name: String::new(),
            wrong_since: None,
            said: None,
            restored: Vec::new(),
        }
    }

    /// Judges what is there. What was said is said again only when it changed.
    pub fn look(&mut self, observed: &Observed, now: Instant) -> Verdict {
        let wrong = self.wrong(observed);
        let harmless = matches!(wrong, None | Some(Verdict::Conflict(Conflict::RouteGone)));
        if let Some(from) = self.renamed(observed).filter(|_| harmless) {
            self.wrong_since = None;
            self.said = None;
            return Verdict::Renamed { from };
        }
        let Some(wrong) = wrong else {
            self.wrong_since = None;
            self.said = None;
            return if self.held { Verdict::Quiet } else { Verdict::Unsettled };
        };
        let since = *self.wrong_since.get_or_insert(now);
        let patience = match wrong {
            Verdict::Mismatch { .. } => MISMATCH_AFTER,
            Verdict::Conflict(Conflict::LinkDown) => self.grace.max(DOWN_GRACE),
            _ => self.grace,
        };
        if now.duration_since(since) < patience || self.said.as_ref() == Some(&wrong) {
            return Verdict::Unsettled;
        }
        self.said = Some(wrong.clone());
        wrong
    }

    /// Whether time alone may change the verdict.
    pub fn is_unsettled(&self) -> bool {
        self.wrong_since.is_some() && self.said.is_none()
    }

    /// Whether what was taken is put back once more.
    pub fn may_restore(&mut self, now: Instant) -> bool {
        self.restored.retain(|at| now.duration_since(*at) < RESTORE_WINDOW);
        self.restored.push(now);
        // Whether it helped is seen by the next look.
        self.said = None;
        self.wrong_since = None;
        self.restored.len() <= RESTORE_AT_MOST
    }

    /// The former name, once, of an interface that is up under another one. Names before the lease was there do not count.
    fn renamed(&mut self, observed: &Observed) -> Option<String> {
        if !observed.is_up || self.name == observed.name {
            return None;
        }
        let from = std::mem::replace(&mut self.name, observed.name.clone());
        (self.held && !from.is_empty()).then_some(from)
    }

    fn wrong(&mut self, observed: &Observed) -> Option<Verdict> {
        let (has, foreign) = (observed.has(&self.lease), observed.foreign(&self.lease));
        let has_route = self.lease.gateway.is_none_or(|gateway| observed.default_route == Some(gateway));
        self.held |= has;
        self.routed |= has && has_route;
        if !self.held {
            return (!foreign.is_empty()).then(|| Verdict::Mismatch { has: shown(&foreign) });
        }
        let conflict = if observed.index == 0 {
            Conflict::LinkGone
        } else if !foreign.is_empty() {
            Conflict::Foreign(foreign)
        } else if !has {
            Conflict::AddressGone
        } else if !observed.is_up {
            Conflict::LinkDown
        } else if self.routed && !has_route {
            Conflict::RouteGone
        } else {
            return None;
        };
        Some(Verdict::Conflict(conflict))
    }
}

fn shown(addresses: &[(Ipv4Addr, u8)]) -> Vec<String> {
    addresses.iter().map(|(addr, prefix)| format!("{addr}/{prefix}")).collect()
}
