//! Lines of a console after which a boot cannot become ready: it is ended at once, and not by its deadline.
//!
//! Only what is never tried again counts, or was tried often enough. The guest says these lines; one that lies harms itself only.

use airlock_protocol::Stage;

use super::{Failure, NeededService};
use crate::cause::Cause;

/// What nobody recovers from, whoever boots.
const FATAL: [(&str, Cause); 3] = [
    ("Kernel panic - not syncing", Cause::KernelPanic),
    ("Out of memory and no killable processes", Cause::GuestOom),
    ("System is deadlocked on memory", Cause::GuestOom),
];

/// The last words of a script that brings up the network once, and what its manager says when it does not start.
const OF_NETWORK_UNIT: [(&str, Cause, Stage); 7] = [
    ("ERROR: Empty ip parameter extracted", Cause::CmdlineIpMalformed, Stage::ConfigRead),
    ("ERROR: Missing required parameters", Cause::CmdlineIpMalformed, Stage::ConfigRead),
    (" not found after 30 seconds", Cause::LinkMissing, Stage::LinkFound),
    ("ERROR: Failed to bring up ", Cause::LinkUpFailed, Stage::LinkUp),
    ("ERROR: Failed to assign IP address", Cause::AddressSetFailed, Stage::AddressSet),
    ("up Network from Kernel Parameters", Cause::UnitFailed, Stage::LinkUp),
    ("You are in emergency mode", Cause::SystemdEmergency, Stage::HandedOver),
];

/// Init's name for the agent, which every machine needs.
const AGENT: &str = "agent";
/// Init's pauses double from 0.1 s: this many ends in a row take about a second.
const ENDS: u8 = 4;

/// Counts what may happen some times, but not often.
#[derive(Debug)]
pub(super) struct Watch {
    /// Services without which nothing becomes ready, and how often each ended.
    needed: Vec<(NeededService, u8)>,
}

impl Watch {
    /// Watches the agent and these.
    pub fn over(services: &[NeededService]) -> Self {
        let agent = NeededService { name: AGENT.to_owned(), stage: Stage::AgentUp };
        Self { needed: services.iter().cloned().chain([agent]).map(|service| (service, 0)).collect() }
    }

    /// The failure that a line is, if it is one. `missing` is the first stage that is not reached; `is_reached` tells of any.
    pub fn look(
        &mut self,
        line: &str,
        late_network: bool,
        missing: Option<Stage>,
        is_reached: impl Fn(Stage) -> bool,
    ) -> Option<Failure> {
        // A panic that says why is named by its reason.
        if let Some((_, cause)) = FATAL.iter().rfind(|(text, _)| line.contains(text)) {
            return Some(Failure::new(*cause, missing, line.trim()));
        }
        // A machine that was ready lives as long as its VMM.
        missing?;
        if let Some((service, rest)) = of_service(line) {
            let is_awaited = |needed: &NeededService| needed.name == service && !is_reached(needed.stage);
            let (NeededService { stage, .. }, ends) = self.needed.iter_mut().find(|(needed, _)| is_awaited(needed))?;
            *ends = ends.saturating_add(1);
            // What is not there will not come; what ends may be in time yet, unless nobody starts it again.
            let is_missing = rest.starts_with("not started: No such file");
            let is_over = is_missing || *ends >= ENDS || rest.contains("(not restarted)");
            return is_over.then(|| Failure::new(cause_without(*stage, is_missing), Some(*stage), line.trim()));
        }
        let (text, cause, stage) = OF_NETWORK_UNIT.iter().find(|(text, ..)| late_network && line.contains(text))?;
        // What init saw of the interface is no proof that its owner found it; who has set the address is past all of it.
        let proof = if *stage == Stage::LinkUp || *stage == Stage::AddressSet { *stage } else { Stage::AddressSet };
        if is_reached(proof) {
            return None;
        }
        // The unit's name stands in good news as well.
        let bad = *cause != Cause::UnitFailed || line.contains("Failed to start ");
        let says = bad && (*text != " not found after 30 seconds" || line.contains("ERROR: Device "));
        says.then(|| Failure::new(*cause, Some(*stage), line.trim()))
    }
}

/// What a machine fails for when the service that brings this stage is not there, or does not stay.
const fn cause_without(stage: Stage, is_missing: bool) -> Cause {
    match (stage, is_missing) {
        (Stage::BrowserUp, true) => Cause::BrowserMissing,
        (Stage::BrowserUp, false) => Cause::BrowserCrashed,
        (Stage::DisplayUp, _) => Cause::DisplayFailed,
        (_, true) => Cause::AgentNotInstalled,
        (_, false) => Cause::AgentCrashed,
    }
}

/// Name and what became of it, of a line of init's supervisor.
fn of_service(line: &str) -> Option<(&str, &str)> {
    let rest = line.split_once("airlock-init: service ")?.1;
    rest.split_once(' ').filter(|(_, rest)| rest.starts_with("exited ") || rest.starts_with("not started: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let needed = |name: &str, stage| NeededService { name: name.into(), stage };
        Watch::over(&[needed("picture", Stage::DisplayUp), needed("window", Stage::BrowserUp)])
    }

    fn look(watch: &mut Watch, line: &str, late: bool) -> Option<Cause> {
        watch.look(line, late, Some(Stage::LinkUp), |_| false).map(|failure| failure.cause)
    }

    #[test]
    fn the_network_s_unit_is_not_waited_for_when_it_gave_up() {
        for (line, cause) in [
            ("[ 25.2] network-setup.sh[139]: ERROR: Device eth7 not found after 30 seconds", Cause::LinkMissing),
            ("network-setup.sh[1]: ERROR: Failed to assign IP address", Cause::AddressSetFailed),
            ("[FAILED] Failed to start network-se…up Network from Kernel Parameters.", Cause::UnitFailed),
            ("You are in emergency mode. After logging in", Cause::SystemdEmergency),
        ] {
            assert_eq!(look(&mut watch(), line, true), Some(cause), "{line}");
            assert_eq!(look(&mut watch(), line, false), None, "init's own network: {line}");
            assert!(watch().look(line, true, None, |_| false).is_none(), "ready: {line}");
        }
        let good = "[  OK  ] Finished network-se…up Network from Kernel Parameters.";
        assert_eq!(look(&mut watch(), good, true), None);
    }

    #[test]
    fn a_service_that_ends_again_and_again_is_given_up_and_one_that_is_missing_at_once() {
        let mut watch = watch();
        let ended = "airlock-init: service agent exited code=3 signal=- (restart in 100 ms)";
        for _ in 1..ENDS {
            assert_eq!(look(&mut watch, ended, false), None);
        }
        assert_eq!(look(&mut watch, ended, false), Some(Cause::AgentCrashed));
        for (name, cause) in
            [("agent", Cause::AgentNotInstalled), ("picture", Cause::DisplayFailed), ("window", Cause::BrowserMissing)]
        {
            let missing = format!("airlock-init: service {name} not started: No such file or directory (os error 2)");
            assert_eq!(look(&mut self::watch(), &missing, false), Some(cause), "{name}");
            let ended = format!("airlock-init: service {name} exited code=1 signal=- (not restarted)");
            assert!(look(&mut self::watch(), &ended, false).is_some(), "{name}");
        }
        let other = "airlock-init: service wm exited code=1 signal=- (restart in 100 ms)";
        for _ in 0..9 {
            assert_eq!(look(&mut watch, other, false), None);
        }
        assert!(watch.look(ended, false, Some(Stage::Reachable), |_| true).is_none(), "it was up already");
    }
}
