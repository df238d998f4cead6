//! Status lines of service managers: systemd's, with or without colours, cut to 80 columns with an ellipsis in the middle, on the
//! console or through the journal; busybox init's.

use super::Evidence;
use super::lines::Record;

/// The unit of the reference script, as its two names.
const UNIT: &str = "network-setup.service";
const DESCRIPTION: &str = "Setup Network from Kernel Parameters";
const BOTH: &str = "network-setup.service - Setup Network from Kernel Parameters";
/// What is left of a shortened name must be this long to be believed.
const SHORTEST: usize = 12;
/// Units and commands that are kept.
const MAX: usize = 32;

/// A unit that failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failed {
    /// Its name as far as the line has it.
    pub name: String,
    pub said: Evidence,
}

/// What the status lines say.
#[derive(Debug, Clone, Default)]
pub(super) struct Units {
    /// The reference script's unit began, finished, failed.
    pub script_starting: Option<Evidence>,
    pub script_finished: Option<Evidence>,
    pub script_failed: Option<Evidence>,
    /// Somebody waits for it for long.
    pub script_job: Option<Evidence>,
    pub failed: Vec<Failed>,
    /// A program that could not be executed.
    pub not_executed: Vec<Failed>,
    /// Services that are started again and again: name, how often.
    pub restarts: Vec<(String, u64, Evidence)>,
    /// Units that were not started because of others; a device that did not come.
    pub dependencies: Vec<Evidence>,
}

impl Units {
    /// Whether the reference script's unit is mentioned.
    pub fn knows_script(&self) -> bool {
        [&self.script_starting, &self.script_finished, &self.script_failed, &self.script_job]
            .iter()
            .any(|said| said.is_some())
    }

    pub fn take(&mut self, record: &Record<'_>, alive: &mut Option<u64>) {
        let text = String::from_utf8_lossy(record.text);
        let said = || Evidence::of_record(record);
        if let Some((command, _)) = text.split_once(" exited. Scheduling for restart.") {
            return self.count(command, None, said());
        }
        let of_manager = record.program == Some(b"systemd");
        if record.program.is_some() && !of_manager {
            return;
        }
        if let Some((unit, rest)) = text.split_once(".service: ").filter(|_| of_manager) {
            if let Some((_, count)) = rest.split_once("restart counter is at ") {
                return self.count(unit, count.trim_end_matches('.').parse().ok(), said());
            }
            if rest.contains("status=203/EXEC") && self.not_executed.len() < MAX {
                self.not_executed.push(Failed { name: format!("{unit}.service"), said: said() });
            }
            return;
        }
        let (status, sentence) = split_status(&text);
        let is_status = status.is_some() || of_manager;
        if let Some(name) = sentence.strip_prefix("A start job is running for ") {
            // ` (12s / 1min 30s)`: shown once it takes long.
            if is_script(name.rsplit_once(" (").map_or(name, |(name, _)| name)) {
                self.script_job = Some(said());
            }
        } else if let Some(name) = sentence.strip_prefix("Starting ") {
            if is_script(name) {
                self.script_starting = Some(said());
            }
        } else if let Some(name) = sentence.strip_prefix("Finished ").or_else(|| sentence.strip_prefix("Started ")) {
            if is_status {
                *alive = Some(record.line);
            }
            if is_status && is_script(name) {
                self.script_finished = Some(said());
            }
        } else if let Some(name) = sentence.strip_prefix("Failed to start ").filter(|_| is_status) {
            if is_script(name) {
                self.script_failed = Some(said());
            } else if self.failed.len() < MAX {
                self.failed.push(Failed { name: name.trim_end_matches('.').to_owned(), said: said() });
            }
        } else if is_status && self.dependencies.len() < MAX && is_dependency(sentence) {
            self.dependencies.push(said());
        }
    }

    fn count(&mut self, name: &str, count: Option<u64>, said: Evidence) {
        if let Some((_, known, last)) = self.restarts.iter_mut().find(|(known, ..)| known == name) {
            (*known, *last) = (count.unwrap_or(*known + 1), said);
        } else if self.restarts.len() < MAX {
            self.restarts.push((name.to_owned(), count.unwrap_or(1), said));
        }
    }
}

fn is_dependency(sentence: &str) -> bool {
    ["Dependency failed for ", "Timed out waiting for device ", "Failed to mount "]
        .iter()
        .any(|words| sentence.starts_with(words))
}

/// `[  OK  ] sentence`.
fn split_status(text: &str) -> (Option<&str>, &str) {
    let inner = text.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match inner {
        Some((status, sentence)) if status.len() <= 9 => (Some(status.trim()), sentence.trim_start()),
        _ => (None, text.trim_start()),
    }
}

/// Whether a name is that of the reference script's unit, however it was shortened.
fn is_script(name: &str) -> bool {
    let name = name.trim().trim_end_matches('.');
    let forms = [UNIT, DESCRIPTION, BOTH];
    match name.split_once('\u{2026}').or_else(|| name.split_once("...")) {
        Some((head, tail)) => {
            head.len() + tail.len() >= SHORTEST
                && forms.iter().any(|form| form.starts_with(head) && form.ends_with(tail.trim_start_matches('.')))
        }
        // A line that was cut.
        None => forms.iter().any(|form| *form == name || (name.len() >= SHORTEST && form.starts_with(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::lines::parts;

    fn units(log: &str) -> Units {
        let (mut units, mut alive) = (Units::default(), None);
        for (number, line) in (1u64..).zip(log.lines()) {
            parts(number, line.as_bytes(), |part, _| units.take(&part.record(), &mut alive));
        }
        units
    }

    #[test]
    fn the_script_s_unit_is_known_in_every_form() {
        for line in [
            "[  OK  ] Finished Setup Network from Kernel Parameters.",
            "[  OK  ] Finished network-setup.ser\u{2026}up Network from Kernel Parameters.",
            "[  OK  ] Finished network-setup.service - Setup Network from Kernel Parameters.",
            "[   12.1] x\n[   12.100000] systemd[1]: Finished Setup Network from Kernel Parameters.",
            "Nov 23 16:00:00 host systemd[1]: Finished network-setup.service - Setup Network from Kernel Parameters.",
            "[  OK  ] Started Setup Network from Kernel Parameters.",
        ] {
            assert!(units(line).script_finished.is_some(), "{line}");
        }
        for line in [
            "[  OK  ] Finished Network Configuration.",
            "[  OK  ] Finished \u{2026}.",
            "shop.sh[99]: Finished Setup Network from Kernel Parameters.",
            "Finished Setup Network from Kernel Parameters.",
        ] {
            assert!(units(line).script_finished.is_none(), "{line}");
        }
        assert!(units("[FAILED] Failed to start network-setup.\u{2026}m Kernel Parameters.").script_failed.is_some());
        assert!(
            units("[    **] A start job is running for Setup Ne\u{2026}rnel Parameters (12s / no limit)")
                .script_job
                .is_some()
        );
    }

    #[test]
    fn what_fails_and_what_restarts_is_kept() {
        let seen = units(
            "[FAILED] Failed to start OpenBSD Secure Shell server.\n\
             systemd[1]: agent.service: Main process exited, code=exited, status=203/EXEC\n\
             systemd[1]: agent.service: Scheduled restart job, restart counter is at 5.\n\
             process '/usr/bin/agent' (pid 88) exited. Scheduling for restart.\n\
             [DEPEND] Dependency failed for Remote File Systems.",
        );
        assert_eq!(seen.failed[0].name, "OpenBSD Secure Shell server");
        assert_eq!(seen.not_executed[0].name, "agent.service");
        assert_eq!((seen.restarts[0].0.as_str(), seen.restarts[0].1), ("agent", 5));
        assert_eq!(seen.restarts.len(), 2);
        assert_eq!(seen.dependencies.len(), 1);
    }
}
