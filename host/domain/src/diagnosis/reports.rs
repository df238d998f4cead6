//! Our own lines on a console. Anybody in the guest who can write to the console can write such a line, so what cannot be is not
//! believed:
//!
//! * a stage that only the host can know (`tap_up`, `reachable`, `ready`...)
//! * a second line with the number of another one: the first one stays
//! * a time before that of the line with the number before
//!
//! A line that is lost leaves a gap in the numbers. A failure whose reason may be in the gap is no verdict.

use airlock_protocol::stage::Reporter;
use airlock_protocol::{Stage, StageReport};

use super::rules::Grade;
use super::{Evidence, Finding};
use crate::boot::{cause_of_report, describe};
use crate::cause::Cause;

/// The believable lines of one boot, by number.
#[derive(Debug, Default)]
pub(super) struct Reports<'a> {
    told: Vec<(u64, &'a StageReport)>,
    /// Lines that were not believed.
    pub refused: usize,
}

impl<'a> Reports<'a> {
    pub fn of(lines: &'a [(u64, StageReport)]) -> Self {
        let mut reports = Self::default();
        let mut told: Vec<(u64, &StageReport)> = Vec::new();
        for (line, report) in lines {
            let known = told.iter().find(|(_, known)| known.seq == report.seq);
            match known {
                Some((_, known)) if *known == report => {}
                Some(_) => reports.refused += 1,
                None if report.stage.reporter() == Reporter::Host => reports.refused += 1,
                None => told.push((*line, report)),
            }
        }
        told.sort_by_key(|(_, report)| report.seq);
        for (line, report) in told {
            if reports.told.last().is_none_or(|(_, before)| before.t_us <= report.t_us) {
                reports.told.push((line, report));
            } else {
                reports.refused += 1;
            }
        }
        reports
    }

    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether the network's stages come after the hand-over.
    pub fn is_late(&self) -> bool {
        let seq = |stage: Stage| self.told.iter().find(|(_, r)| r.stage == stage).map(|(_, r)| r.seq);
        let handed = seq(Stage::HandedOver);
        [Stage::LinkUp, Stage::AddressSet]
            .into_iter()
            .filter_map(seq)
            .any(|seq| handed.is_some_and(|handed| handed < seq))
    }

    /// The line that says that a stage was reached.
    pub fn reached(&self, stage: Stage) -> Option<u64> {
        self.told.iter().find(|(_, report)| report.stage == stage && report.ok).map(|(line, _)| *line)
    }

    /// The last line of all.
    pub fn last(&self) -> Option<(u64, Stage)> {
        self.told.last().map(|(line, report)| (*line, report.stage))
    }

    /// The address that the kernel's command line leased, as init read it.
    pub fn leased(&self) -> Option<&str> {
        self.fact(Stage::ConfigRead, "ip")
    }

    fn fact(&self, stage: Stage, key: &str) -> Option<&str> {
        let report = self.told.iter().find(|(_, report)| report.stage == stage && report.ok)?.1;
        report.facts.get(key)?.as_str()
    }

    /// What they prove, and the first failure that something lost may explain.
    pub fn findings(&self) -> (Vec<Finding>, Option<(Stage, Evidence)>) {
        let (mut findings, mut doubt) = (Vec::new(), None);
        for (line, report) in &self.told {
            let conflict = report.facts.get("cause").and_then(|cause| cause.as_str()) == Some("address_owner_conflict");
            let later = self.told.iter().any(|(_, r)| r.stage == report.stage && r.ok && r.seq > report.seq);
            if (report.ok && !conflict) || (!report.ok && later) {
                continue;
            }
            let said = Evidence {
                text: format!("{} {}: {}", report.stage, word(report), describe(report)),
                ..Evidence::of_line(*line, b"")
            };
            if report.ok {
                findings.push(Finding::new(Cause::AddressOwnerConflict, Some(report.stage), Grade::Note, vec![said]));
            } else if self.may_follow_from_what_is_lost(report) {
                doubt.get_or_insert((report.stage, said));
            } else {
                findings.push(Finding::new(cause_of(report), Some(report.stage), Grade::Hard, vec![said]));
            }
        }
        (findings, doubt)
    }

    fn may_follow_from_what_is_lost(&self, failed: &StageReport) -> bool {
        let before = (1..failed.seq).filter(|seq| !self.told.iter().any(|(_, report)| report.seq == *seq)).count();
        let known = |stage: Stage| self.told.iter().any(|(_, report)| report.stage == stage);
        before > 0 && needs(failed.stage).iter().any(|stage| !known(*stage))
    }
}

fn word(report: &StageReport) -> &'static str {
    if report.ok { "noted" } else { "failed" }
}

/// The cause that a failed report names: as a fact, as the first word of its detail, or by its stage and errno.
fn cause_of(report: &StageReport) -> Cause {
    let first = report.detail.as_deref().and_then(|detail| detail.split_once(": ")).map(|(first, _)| first);
    let by_stage = cause_of_report(report);
    first.and_then(|code| code.parse().ok()).unwrap_or(by_stage)
}

/// The stages that may be the reason why a stage fails.
fn needs(stage: Stage) -> &'static [Stage] {
    use Stage as S;
    match stage {
        S::LinkFound => &[S::ModulesLoaded],
        S::LinkUp => &[S::ModulesLoaded, S::LinkFound],
        S::AddressSet => &[S::LinkFound, S::LinkUp],
        S::RouteSet => &[S::LinkFound, S::LinkUp, S::AddressSet],
        S::GatewayReachable => &[S::LinkFound, S::LinkUp, S::AddressSet, S::RouteSet],
        S::RootMounted => &[S::ConfigRead, S::ModulesLoaded],
        S::HandedOver => &[S::ConfigRead, S::RootMounted],
        S::AgentUp => &[S::RootMounted, S::HandedOver],
        S::DisplayUp => &[S::RootMounted, S::HandedOver, S::AgentUp],
        S::BrowserUp => &[S::HandedOver, S::AgentUp, S::DisplayUp],
        S::PagePainted => &[S::AgentUp, S::DisplayUp, S::BrowserUp],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Vec<(u64, StageReport)> {
        let ok = |seq: u32, stage| (u64::from(seq), StageReport::reached(seq, u64::from(seq) * 10, stage));
        let down = StageReport::failed(5, 50, Stage::LinkUp, Some("ENETDOWN".into()), "raise eth0");
        let silent =
            StageReport::failed(6, 60, Stage::GatewayReachable, Some("ETIMEDOUT".into()), "ask for the gateway");
        vec![
            ok(1, Stage::InitStarted),
            ok(2, Stage::ConfigRead),
            ok(3, Stage::ModulesLoaded),
            ok(4, Stage::LinkFound),
            (5, down),
            (6, silent),
        ]
    }

    #[test]
    fn every_failure_is_a_finding_and_a_lost_one_is_a_doubt() {
        let lines = boot();
        let (findings, doubt) = Reports::of(&lines).findings();
        let causes: Vec<Cause> = findings.iter().map(|finding| finding.cause).collect();
        assert_eq!((causes, doubt), (vec![Cause::LinkNoCarrier, Cause::GatewayUnreachable], None));
        let without: Vec<_> = lines.iter().filter(|(line, _)| *line != 5).cloned().collect();
        let (findings, doubt) = Reports::of(&without).findings();
        assert_eq!((findings.len(), doubt.unwrap().0), (0, Stage::GatewayReachable));
    }

    #[test]
    fn what_a_guest_cannot_know_and_what_contradicts_is_not_believed() {
        let mut lines = boot();
        lines.push((7, StageReport::reached(7, 70, Stage::Ready)));
        lines.push((8, StageReport::reached(5, 55, Stage::LinkUp)));
        lines.push((9, StageReport::reached(8, 1, Stage::AgentUp)));
        lines.push(lines[0].clone());
        let reports = Reports::of(&lines);
        assert_eq!((reports.refused, reports.told.len()), (3, 6));
        assert!(reports.reached(Stage::Ready).is_none() && reports.reached(Stage::LinkUp).is_none());
    }

    #[test]
    fn a_malformed_command_line_is_told_from_a_missing_one() {
        let missing = StageReport::failed(
            1,
            1,
            Stage::ConfigRead,
            Some("EINVAL".into()),
            "cmdline_ip_missing: the kernel command line has no ip=",
        );
        assert_eq!(cause_of(&missing), Cause::CmdlineIpMissing);
        let malformed =
            StageReport::failed(1, 1, Stage::ConfigRead, Some("EINVAL".into()), "cmdline_ip_malformed: parse ip=x");
        assert_eq!(cause_of(&malformed), Cause::CmdlineIpMalformed);
    }
}
