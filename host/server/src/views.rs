//! Records of the engine as bodies of the API.

use airlock_api::ErrorDetail;
use airlock_api::catalog::{ImageView, ProviderView};
use airlock_api::credential::CredentialView;
use airlock_api::session::{SessionView, StageView};
use airlock_api::token::TokenView;
use airlock_api::vm::VmView;
use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::provider::Provider;
use airlock_engine::Engine;
use airlock_engine::records::{CredentialRecord, SessionRecord, TokenRecord, VmRecord};
use airlock_image::GoldenImage;
use airlock_protocol::Stage;
use jiff::Timestamp;

use crate::access::Caller;

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
pub fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| "out-of-range".to_owned(), |time| time.to_string())
}

fn failure(code: &str, failure: &Failure) -> ErrorDetail {
    ErrorDetail {
        code: code.to_owned(),
        message: failure.detail.clone(),
        cause: Some(failure.cause.code().to_owned()),
        stage: failure.stage,
        remedy: Some(failure.cause.remedy().to_owned()),
        evidence_id: failure.evidence_id.clone(),
        console_end: failure.console_end.clone(),
        request_id: None,
    }
}

/// What a session's view needs to know of this daemon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    providers: &'a [Provider],
    session_max_s: u64,
}

impl<'a> Around<'a> {
    /// As this daemon has it.
    pub fn of(engine: &'a Engine) -> Self {
        Self { providers: engine.providers(), session_max_s: engine.config().session_max_s }
    }
}

/// A session; `reached` is the last stage of its machine.
pub fn session(around: Around<'_>, record: &SessionRecord, reached: Option<Stage>) -> SessionView {
    let max_ms = i64::try_from(around.session_max_s.saturating_mul(1000)).unwrap_or(i64::MAX);
    let provider = around.providers.iter().find(|provider| provider.id == record.provider);
    let more_time = record.clock.deadline_ms < record.clock.created_ms.saturating_add(max_ms);
    let error = record.failure.as_ref().map(|why| failure("session_failed", why));
    SessionView {
        session_id: record.id.to_string(),
        user_id: record.user_id.clone(),
        provider: record.provider.clone(),
        provider_name: provider.map_or_else(|| record.provider.clone(), |provider| provider.name.clone()),
        state: record.state.name().to_owned(),
        stage: error.as_ref().and_then(|error| error.stage).or(reached),
        cause: error.as_ref().and_then(|error| error.cause.clone()),
        remedy: error.as_ref().and_then(|error| error.remedy.clone()),
        evidence_id: error.as_ref().and_then(|error| error.evidence_id.clone()),
        vm_id: record.vm_id.to_string(),
        browser_ip: record.address,
        queue_position: record.queue_position,
        created_at: time(record.created_ms),
        deadline: time(record.deadline_ms),
        latest_deadline: time(record.created_ms.saturating_add(max_ms).max(record.deadline_ms)),
        more_time: more_time && !record.state.is_terminal(),
        ended_at: record.ended_ms.map(time),
        error,
    }
}

/// A console may tell more than whoever sits in front of its screen should know: a viewer gets no lines of it.
pub fn for_caller(view: &mut SessionView, caller: &Caller) {
    if let (Some(error), Caller::Viewer) = (&mut view.error, caller) {
        error.console_end.clear();
    }
}

/// One stage.
pub fn stage(entry: &TimelineEntry) -> StageView {
    StageView {
        stage: entry.stage,
        ok: entry.ok,
        at_ms: entry.at_ms,
        errno: entry.errno.clone(),
        detail: entry.detail.clone(),
    }
}

/// A machine.
pub fn vm(record: &VmRecord) -> VmView {
    let error = record.failure.as_ref().map(|why| failure("vm_failed", why));
    VmView {
        id: record.id.to_string(),
        session_id: Some(record.session_id.to_string()),
        image: record.image.clone(),
        driver: record.driver.to_string(),
        state: record.state.to_string(),
        stage: error.as_ref().and_then(|error| error.stage).or(record.stage),
        address: record.address,
        mac: record.mac,
        tap: record.tap.clone(),
        pid: record.process.filter(|_| record.ended_ms.is_none()).map(|process| process.pid),
        created_at: time(record.created_ms),
        ended_at: record.ended_ms.map(time),
        error,
    }
}

/// A sealed credential.
pub fn credential(record: &CredentialRecord) -> CredentialView {
    CredentialView {
        user_id: record.user_id.clone(),
        provider: record.provider.clone(),
        session_id: record.session_id.to_string(),
        created_at: time(record.created_ms),
        key_id: record.key_id.clone(),
        files: record.files.clone(),
    }
}

/// A token.
pub fn token(record: &TokenRecord) -> TokenView {
    TokenView {
        id: record.id.clone(),
        name: record.name.clone(),
        scopes: record.scopes.iter().map(ToString::to_string).collect(),
        created_at: time(record.created_ms),
    }
}

/// An image.
pub fn image(image: &GoldenImage, current: bool) -> ImageView {
    ImageView {
        name: image.name.clone(),
        digest: format!("sha256:{}", image.digest),
        kernel_release: image.manifest.kernel.release.clone(),
        size_bytes: image.manifest.files.all().iter().map(|file| file.size).sum(),
        current,
        verified: image.boot_record().is_some(),
    }
}

/// A provider.
pub fn provider(provider: &Provider) -> ProviderView {
    ProviderView { id: provider.id.clone(), name: provider.name.clone(), image: provider.image.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::cause::Cause;
    use airlock_domain::session::SessionState;
    use airlock_domain::vmm::DriverKind;
    use airlock_domain::{SessionId, VmId};
    use airlock_engine::records::SessionClock;

    fn record() -> SessionRecord {
        SessionRecord {
            id: "01234567-89ab-4def-8123-456789abcdef".parse::<SessionId>().unwrap(),
            user_id: "u".into(),
            provider: "demo".into(),
            state: SessionState::Booting,
            vm_id: "01234567-89ab-4def-8123-456789abcdee".parse::<VmId>().unwrap(),
            image: "browser@sha256:00".into(),
            driver: DriverKind::QemuTcg,
            memory_mib: 1024,
            address: Some([192, 168, 100, 2].into()),
            queue_position: None,
            created_ms: 1_764_000_000_250,
            deadline_ms: 1_764_000_900_250,
            clock: SessionClock { boot_id: String::new(), created_ms: 0, deadline_ms: 1 },
            ended_ms: None,
            failure: None,
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let view = session(Around::default(), &record(), Some(Stage::TapUp));
        assert_eq!(view.created_at, "2025-11-24T16:00:00.25Z");
        assert_eq!((view.stage, view.error), (Some(Stage::TapUp), None));
    }

    #[test]
    fn more_time_is_offered_as_long_as_there_is_some() {
        let around = Around { session_max_s: 3600, ..Around::default() };
        let mut running = record();
        running.clock = SessionClock { boot_id: String::new(), created_ms: 1_000, deadline_ms: 901_000 };
        let view = session(around, &running, None);
        assert_eq!((view.more_time, view.latest_deadline.as_str()), (true, "2025-11-24T17:00:00.25Z"));
        running.clock.deadline_ms = 3_601_000;
        assert!(!session(around, &running, None).more_time, "the deadline is the latest one");
        running.clock.deadline_ms = 901_000;
        running.state = SessionState::Cancelled;
        assert!(!session(around, &running, None).more_time, "it is over");
        assert_eq!(view.provider_name, "demo", "a provider that is not known any more has its id for a name");
    }

    #[test]
    fn a_failure_names_the_stage_that_failed_and_not_the_last_one() {
        let mut failed = record();
        failed.state = SessionState::Failed;
        failed.failure = Some(Failure {
            evidence_id: Some("ev".into()),
            ..Failure::new(Cause::LinkMissing, Some(Stage::LinkFound), "no interface has the MAC")
        });
        let view = session(Around::default(), &failed, Some(Stage::ModulesLoaded));
        assert_eq!((view.stage, view.cause.as_deref()), (Some(Stage::LinkFound), Some("link_missing")));
        assert_eq!(view.remedy.as_deref(), Some(Cause::LinkMissing.remedy()));
        let error = view.error.unwrap();
        assert_eq!((error.message.as_str(), error.evidence_id.as_deref()), ("no interface has the MAC", Some("ev")));
    }
}
