//! `GET /api/vms/{id}/diagnosis`: what is wrong with a machine, live or gone.

use airlock_api::ErrorBody;
use airlock_api::diagnosis::{DiagnosisEvidence, DiagnosisNote, DiagnosisView};
use airlock_domain::VmId;
use airlock_domain::diagnosis::{Evidence, Source, Verdict};
use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::error::ApiError;
use crate::request::Id;

/// The first broken stage of a machine, its cause, what proves it, and what to do.
#[utoipa::path(get, path = "/api/vms/{id}/diagnosis", params(("id" = String, Path)),
    responses((status = 200, body = DiagnosisView), (status = "default", body = ErrorBody)))]
pub async fn diagnosis(State(app): State<App>, Id(id): Id<VmId>) -> Result<Json<DiagnosisView>, ApiError> {
    Ok(Json(view(&app.engine().diagnosis(id).await?)))
}

fn view(verdict: &Verdict) -> DiagnosisView {
    let note = |note: &airlock_domain::diagnosis::Note| DiagnosisNote {
        cause: note.cause.code().to_owned(),
        evidence: evidence(&note.evidence),
        remedy: note.remedy.clone(),
    };
    DiagnosisView {
        verdict: verdict.verdict.code().to_owned(),
        stage: verdict.stage,
        summary: verdict.summary.clone(),
        evidence: verdict.evidence.iter().map(evidence).collect(),
        remedy: verdict.remedy.clone(),
        also: verdict.also.iter().map(|cause| cause.code().to_owned()).collect(),
        notes: verdict.notes.iter().map(note).collect(),
    }
}

fn evidence(seen: &Evidence) -> DiagnosisEvidence {
    let source = (seen.source != Source::Console).then(|| seen.source.name().to_owned());
    DiagnosisEvidence { line: seen.line, text: seen.text.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::diagnosis::{Case, classify, diagnose};

    #[test]
    fn the_api_has_the_words_of_the_command_line() {
        let log = b"[  OK  ] Finished Setup Network from Kernel Parameters.\n";
        let console = classify(log);
        for cmdline in [None, Some("quiet"), Some("ip=1.2.3.4::5:6:7:8:9")] {
            let verdict = diagnose(&Case { console: Some(&console), cmdline, ..Case::default() });
            let (of_api, of_cli) = (serde_json::to_value(view(&verdict)), serde_json::to_value(&verdict));
            assert_eq!(of_api.unwrap(), of_cli.unwrap());
        }
    }
}
