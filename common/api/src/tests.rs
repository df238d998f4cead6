use crate::error::{ErrorBody, ErrorDetail};
use crate::session::{SessionView, StageView, StartRequest, StartResponse};
use crate::token::TokenRequest;
use airlock_protocol::Stage;
use serde_json::json;

#[test]
fn a_request_refuses_what_it_does_not_know() {
    let good = json!({"userId": "u", "provider": "demo"});
    assert_eq!(
        serde_json::from_value::<StartRequest>(good).unwrap(),
        StartRequest { user_id: "u".into(), provider: "demo".into() }
    );
    for bad in [
        json!({"userId": "u", "provider": "demo", "image": "x"}),
        json!({"user_id": "u", "provider": "demo"}),
        json!({"userId": "u"}),
        json!({"userId": 1, "provider": "demo"}),
    ] {
        assert!(serde_json::from_value::<StartRequest>(bad.clone()).is_err(), "{bad}");
    }
    assert!(serde_json::from_value::<TokenRequest>(json!({"name": "n", "scopes": [], "admin": true})).is_err());
}

#[test]
fn a_build_is_tested_and_waits_unless_somebody_says_otherwise() {
    use crate::build::BuildRequest;
    let read = |value| serde_json::from_value::<BuildRequest>(value);
    let wanted = BuildRequest { recipe: "base".into(), refresh: false, boot_test: true, wait: true };
    assert_eq!(read(json!({"recipe": "base"})).unwrap(), wanted);
    assert!(!read(json!({"recipe": "base", "bootTest": false})).unwrap().boot_test);
    assert!(read(json!({"recipe": "base", "boottest": false})).is_err());
}

#[test]
fn the_start_answer_has_the_documented_names() {
    let answer = StartResponse {
        success: true,
        session_id: "s".into(),
        provider: "demo".into(),
        novnc_url: "http://h/x".into(),
        browser_ip: Some([192, 168, 100, 8].into()),
        queue_position: None,
    };
    assert_eq!(
        serde_json::to_value(&answer).unwrap(),
        json!({"success": true, "sessionId": "s", "provider": "demo", "novncURL": "http://h/x", "browserIP": "192.168.100.8"})
    );
}

#[test]
fn a_session_view_keeps_its_nulls_and_leaves_out_what_did_not_happen() {
    let view = SessionView {
        session_id: "s".into(),
        user_id: "u".into(),
        provider: "demo".into(),
        provider_name: "Demo".into(),
        state: "booting".into(),
        stage: Some(Stage::TapUp),
        cause: None,
        remedy: None,
        evidence_id: None,
        vm_id: "v".into(),
        browser_ip: Some([10, 0, 0, 2].into()),
        queue_position: None,
        created_at: "2026-01-01T00:00:00Z".into(),
        deadline: "2026-01-01T00:15:00Z".into(),
        latest_deadline: "2026-01-01T01:00:00Z".into(),
        more_time: true,
        ended_at: None,
        error: None,
    };
    assert!(!view.is_over());
    assert_eq!(
        serde_json::to_value(&view).unwrap(),
        json!({"sessionId": "s", "userId": "u", "provider": "demo", "providerName": "Demo", "state": "booting", "stage": "tap_up", "cause": null,
               "remedy": null, "evidenceId": null, "vmId": "v", "browserIP": "10.0.0.2",
               "createdAt": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:15:00Z",
               "latestDeadline": "2026-01-01T01:00:00Z", "moreTime": true})
    );
}

#[test]
fn an_error_body_round_trips() {
    let body = ErrorBody {
        error: ErrorDetail {
            code: "boot_failed".into(),
            message: "m".into(),
            cause: Some("link_missing".into()),
            stage: Some(Stage::LinkFound),
            remedy: Some("r".into()),
            evidence_id: Some("e".into()),
            console_end: vec!["last words".into()],
            request_id: Some("q".into()),
        },
    };
    let value = serde_json::to_value(&body).unwrap();
    assert_eq!(
        value,
        json!({"error": {"code": "boot_failed", "message": "m", "cause": "link_missing", "stage": "link_found",
                         "remedy": "r", "evidenceId": "e", "consoleEnd": ["last words"], "requestId": "q"}})
    );
    assert_eq!(serde_json::from_value::<ErrorBody>(value).unwrap(), body);
}

#[test]
fn a_stage_that_was_reached_is_short() {
    let stage = StageView { stage: Stage::Planned, ok: true, at_ms: 0.0, errno: None, detail: None };
    assert_eq!(serde_json::to_value(stage).unwrap(), json!({"stage": "planned", "ok": true, "atMs": 0.0}));
}
