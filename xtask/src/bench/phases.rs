//! Where our time goes, from the stages of several boots.

use airlock_api::session::StageView;
use airlock_protocol::Stage;

/// Name of a phase and the stage that ends it; it starts where the one before it ended.
const PHASES: &[(&str, Stage)] = &[
    ("host", Stage::VmmStarted),
    ("firmware", Stage::KernelStarted),
    ("kernel", Stage::InitStarted),
    ("modules", Stage::ModulesLoaded),
    ("init", Stage::HandedOver),
    ("agent", Stage::AgentUp),
    ("reach", Stage::Reachable),
];

/// Median milliseconds per phase over several boots, in order. A phase whose end no boot reported is left out.
pub fn phases(boots: &[&[StageView]]) -> Vec<(&'static str, f64)> {
    let mut out = Vec::new();
    let mut from = Stage::Planned;
    for (name, to) in PHASES {
        if let Some(median) = between(boots, from, *to) {
            out.push((*name, median));
            from = *to;
        }
    }
    out
}

/// Median milliseconds from one stage to another, of the boots that reached both.
pub fn between(boots: &[&[StageView]], from: Stage, to: Stage) -> Option<f64> {
    let mut lasted: Vec<f64> = boots.iter().filter_map(|stages| Some(at(stages, to)? - at(stages, from)?)).collect();
    lasted.sort_by(f64::total_cmp);
    lasted.len().checked_sub(1).and_then(|last| lasted.get(last / 2)).copied()
}

fn at(stages: &[StageView], wanted: Stage) -> Option<f64> {
    stages.iter().find(|stage| stage.stage == wanted).map(|stage| stage.at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(times: &[(Stage, f64)]) -> Vec<StageView> {
        times
            .iter()
            .map(|(stage, at_ms)| StageView { stage: *stage, ok: true, at_ms: *at_ms, errno: None, detail: None })
            .collect()
    }

    #[test]
    fn phases_add_up_to_the_whole() {
        let one = stages(&[
            (Stage::Planned, 0.0),
            (Stage::VmmStarted, 10.0),
            (Stage::KernelStarted, 510.0),
            (Stage::InitStarted, 2000.0),
            (Stage::ModulesLoaded, 2200.0),
            (Stage::HandedOver, 2700.0),
            (Stage::AgentUp, 2900.0),
            (Stage::Reachable, 3000.0),
        ]);
        let found = phases(&[&one]);
        assert_eq!(found.iter().map(|(_, ms)| ms).sum::<f64>(), 3000.0);
        assert_eq!(found[2], ("kernel", 1490.0));
        assert_eq!(between(&[&one], Stage::InitStarted, Stage::AgentUp), Some(900.0));
        assert_eq!(between(&[&one], Stage::InitStarted, Stage::RouteSet), None);
    }

    #[test]
    fn a_phase_that_was_not_seen_joins_the_next() {
        let one = stages(&[(Stage::Planned, 0.0), (Stage::VmmStarted, 10.0), (Stage::InitStarted, 900.0)]);
        assert_eq!(phases(&[&one]), [("host", 10.0), ("kernel", 890.0)]);
        assert_eq!(phases(&[]), []);
    }
}
