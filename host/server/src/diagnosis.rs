//! `GET /api/vms/{id}/diagnosis`: what is wrong with a machine, live or gone.

use airlock_api::ErrorBody;
use airlock_api::diagnosis::{DiagnosisEvidence, DiagnosisNote, DiagnosisView, SessionDiagnosis};
use airlock_domain::diagnosis::{Evidence, Source, Verdict};
use airlock_domain::{SessionId, VmId};
use axum::extract::State;
use axum::{Extension, Json};

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use crate::request::Id;

/// The first broken stage of a machine, its cause, what proves it, and what to do.
#[utoipa::path(get, path = "/api/vms/{id}/diagnosis", params(("id" = String, Path)),
    responses((status = 200, body = DiagnosisView), (status = "default", body = ErrorBody)))]
pub async fn diagnosis(State(app): State<App>, Id(id): Id<VmId>) -> Result<Json<DiagnosisView>, ApiError> {
    Ok(Json(view(&app.engine().diagnosis(id).await?)))
}

/// The same of a session's machine, in the words that its page shows.
#[utoipa::path(get, path = "/api/auth/session/{id}/diagnosis", params(("id" = String, Path)),
    responses((status = 200, body = SessionDiagnosis), (status = "default", body = ErrorBody)))]
pub async fn of_session(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionDiagnosis>, ApiError> {
    let session = app.engine().session(id).await?;
    let verdict = view(&app.engine().diagnosis(session.vm_id).await?);
    let evidence_id = session.failure.and_then(|failure| failure.evidence_id);
    let DiagnosisView { verdict, stage, summary, remedy, also, mut evidence, .. } = verdict;
    if matches!(caller, Caller::Viewer) {
        // A console may tell more than whoever sits in front of its screen should know.
        evidence.clear();
    }
    let session_id = id.to_string();
    Ok(Json(SessionDiagnosis { session_id, verdict, stage, summary, remedy, evidence_id, also, evidence }))
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
