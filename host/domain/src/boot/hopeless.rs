//! Lines of a console after which a boot cannot become ready: it is ended at once, and not by its deadline.
//!
//! Only what is never tried again counts, or was tried often enough. The guest says these lines; one that lies harms itself only.

use airlock_protocol::Stage;

use super::Failure;
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

/// Services without which nothing becomes ready.
const NEEDED: [(&str, Stage, Cause); 3] = [
    ("agent", Stage::AgentUp, Cause::AgentCrashed),
    ("xvnc", Stage::DisplayUp, Cause::DisplayFailed),
    ("firefox", Stage::BrowserUp, Cause::BrowserCrashed),
];
/// Init's pauses double from 0.1 s: this many ends in a row take about a second.
const ENDS: u8 = 4;

/// Counts what may happen some times, but not often.
#[derive(Debug, Default)]
pub(super) struct Watch {
    ends: [u8; NEEDED.len()],
}

impl Watch {
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
            let at = NEEDED.iter().position(|(name, stage, _)| *name == service && !is_reached(*stage))?;
            let ((_, stage, cause), ends) = (NEEDED[at], &mut self.ends[at]);
            *ends += 1;
            // What is not there will not come; what ends may be in time yet.
            let never = rest.starts_with("not started: No such file");
            return (never || *ends >= ENDS).then(|| Failure::new(cause, Some(stage), line.trim()));
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

/// Name and what became of it, of a line of init's supervisor.
fn of_service(line: &str) -> Option<(&str, &str)> {
    let rest = line.split_once("airlock-init: service ")?.1;
    rest.split_once(' ').filter(|(_, rest)| rest.starts_with("exited ") || rest.starts_with("not started: "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(look(&mut Watch::default(), line, true), Some(cause), "{line}");
            assert_eq!(look(&mut Watch::default(), line, false), None, "init's own network: {line}");
            assert!(Watch::default().look(line, true, None, |_| false).is_none(), "ready: {line}");
        }
        let good = "[  OK  ] Finished network-se…up Network from Kernel Parameters.";
        assert_eq!(look(&mut Watch::default(), good, true), None);
    }

    #[test]
    fn a_service_that_ends_again_and_again_is_given_up_and_one_that_is_missing_at_once() {
        let mut watch = Watch::default();
        let ended = "airlock-init: service agent exited code=3 signal=- (restart in 100 ms)";
        for _ in 1..ENDS {
            assert_eq!(look(&mut watch, ended, false), None);
        }
        assert_eq!(look(&mut watch, ended, false), Some(Cause::AgentCrashed));
        let missing = "airlock-init: service firefox not started: No such file or directory (os error 2)";
        assert_eq!(look(&mut Watch::default(), missing, false), Some(Cause::BrowserCrashed));
        let other = "airlock-init: service wm exited code=1 signal=- (restart in 100 ms)";
        for _ in 0..9 {
            assert_eq!(look(&mut watch, other, false), None);
        }
        assert!(watch.look(ended, false, Some(Stage::Reachable), |_| true).is_none(), "it was up already");
    }
}
