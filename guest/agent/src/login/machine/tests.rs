//! The order of things, flow by flow.

use super::*;
use airlock_protocol::login::{OutcomeRule, StatusCommand};

fn spec(status: bool) -> LoginSpec {
    LoginSpec {
        status_command: status.then(|| StatusCommand { args: vec!["tool".into()], exit_code: 0, pattern: None }),
        ..serde_json::from_value(serde_json::json!({"login_id": "l", "command": ["tool"], "env": {}, "user": "user",
            "url_timeout_s": 10, "url_prefixes": ["https://"], "credentials": []}))
        .unwrap()
    }
}

fn url() -> Sensitive {
    Sensitive::new("https://idp/authorize")
}

fn complete() -> Verdict {
    Verdict::Complete(vec![CapturedFile {
        path: ".t/c".into(),
        mode: 0o600,
        modified_ms: 1,
        expires_ms: None,
        content: Sensitive::new("{}"),
    }])
}

fn confirmed(ok: bool) -> Input {
    Input::Confirmed { ok, code: Some(i32::from(!ok)), signal: None }
}

fn exited(code: i32) -> Input {
    Input::Exited { code: Some(code), signal: None, last_words: "bye".into() }
}

fn causes(outputs: &[Output]) -> Vec<Outcome> {
    let cause = |output| {
        if let &Output::Emit(LoginEvent::Outcome { outcome, .. }) = output { Some(outcome) } else { None }
    };
    outputs.iter().filter_map(cause).collect()
}

#[test]
fn the_shim_wins_over_the_screen() {
    let mut m = Machine::new(&spec(false), 0);
    assert_eq!(m.take(Input::Screen(url()), 100), vec![]);
    let seen = m.take(Input::Shim(url()), 200);
    assert_eq!(seen[0], Output::Emit(LoginEvent::UrlSeen { url: url(), source: UrlSource::Shim }));
    assert_eq!(seen[1], Output::Open(url()));
    assert_eq!(m.take(Input::Tick, 99_999), vec![]);
    assert_eq!(m.take(Input::Screen(url()), 300), vec![]);
    assert_eq!(m.deadline(), None);
}

#[test]
fn the_screen_counts_when_no_shim_follows_and_only_when_it_stopped_growing() {
    let mut m = Machine::new(&spec(false), 0);
    m.take(Input::Screen(Sensitive::new("https://idp/auth")), 100);
    m.take(Input::Screen(url()), 1000);
    assert_eq!(m.deadline(), Some(3000));
    assert_eq!(m.take(Input::Tick, 2100), vec![]);
    let seen = m.take(Input::Tick, 3000);
    assert_eq!(seen[0], Output::Emit(LoginEvent::UrlSeen { url: url(), source: UrlSource::Screen }));
}

#[test]
fn no_url_in_time_fails_once_and_ends_the_tool() {
    let mut m = Machine::new(&spec(false), 5);
    assert_eq!(m.deadline(), Some(10_005));
    assert_eq!(m.take(Input::Tick, 10_004), vec![]);
    let late = m.take(Input::Tick, 10_005);
    assert_eq!(causes(&late), vec![Outcome::TimedOut]);
    assert!(late.contains(&Output::Kill));
    assert_eq!(m.take(Input::Tick, 20_000), vec![]);
    assert_eq!(causes(&m.take(exited(1), 20_001)), vec![]);
    assert!(m.is_over());
}

#[test]
fn captures_after_the_status_command_said_yes() {
    let mut m = Machine::new(&spec(true), 0);
    assert_eq!(m.take(Input::Files(complete()), 1), vec![Output::Confirm]);
    assert_eq!(m.take(Input::Files(complete()), 2), vec![]);
    let captured = m.take(confirmed(true), 3);
    assert!(matches!(&captured[1..], [Output::Emit(LoginEvent::Captured { confirmed: Some(true), .. })]));
    assert_eq!(m.take(exited(0), 4).len(), 1);
    assert!(m.is_over());
}

#[test]
fn a_status_command_that_says_no_is_asked_again_after_the_tool_ended() {
    let mut m = Machine::new(&spec(true), 0);
    m.take(Input::Files(complete()), 1);
    assert_eq!(m.take(confirmed(false), 2).len(), 1);
    let outputs = m.take(exited(0), 3);
    assert_eq!(outputs.last(), Some(&Output::Confirm));
    assert!(!m.is_over());
    let rejected = m.take(confirmed(false), 4);
    assert_eq!((rejected.len(), causes(&rejected)), (2, vec![Outcome::CredentialRejected]), "and nothing is sent");
    assert!(m.is_over());
}

#[test]
fn an_answer_that_was_asked_for_before_the_tool_ended_is_not_the_last_word() {
    let asked_before = |verdict| {
        let mut m = Machine::new(&spec(true), 0);
        m.take(Input::Files(complete()), 1);
        m.take(Input::Files(verdict), 2);
        assert_eq!(m.take(exited(0), 3).len(), 1);
        let outputs = m.take(confirmed(false), 4);
        (m, outputs)
    };
    let (mut m, outputs) = asked_before(complete());
    assert_eq!(outputs.last(), Some(&Output::Confirm));
    let captured = m.take(confirmed(true), 5);
    assert!(matches!(&captured[1..], [Output::Emit(LoginEvent::Captured { confirmed: Some(true), .. })]));
    let (m, outputs) = asked_before(Verdict::Missing { path: "f".into() });
    assert_eq!(causes(&outputs), vec![Outcome::CliExited], "the file went away again");
    assert!(m.is_over());
}

#[test]
fn the_end_without_a_credential_says_why() {
    let stale = Verdict::Stale { path: "f".into() };
    let malformed = Verdict::Malformed { path: "f".into(), why: "no /access_token".into() };
    let missing = Verdict::Missing { path: "f".into() };
    for (verdict, code, cause) in [
        (stale.clone(), 0, Outcome::CredentialStale),
        (malformed.clone(), 0, Outcome::CredentialMalformed),
        (missing.clone(), 0, Outcome::CliExited),
        (stale, 1, Outcome::CliExited),
        (malformed, 1, Outcome::CliExited),
        (missing, 1, Outcome::CliExited),
    ] {
        let mut m = Machine::new(&spec(false), 0);
        m.take(Input::Files(verdict), 1);
        assert_eq!(causes(&m.take(exited(code), 2)), vec![cause]);
        assert!(m.is_over());
    }
}

#[test]
fn a_cancelled_login_fails_nothing() {
    let mut m = Machine::new(&spec(false), 0);
    assert_eq!(m.take(Input::Cancel, 1), vec![Output::Kill]);
    let killed = Input::Exited { code: None, signal: Some(15), last_words: String::new() };
    assert_eq!(causes(&m.take(killed, 2)), vec![]);
    assert!(m.is_over());
}

fn prompt(pattern: &str, reply: Reply) -> Prompt {
    Prompt { pattern: pattern.into(), reply, enter: true, secret: false }
}

fn rule(outcome: Outcome, is_final: bool) -> OutcomeRule {
    OutcomeRule { pattern: "x".into(), outcome, r#final: is_final }
}

fn code(text: &str) -> Sensitive {
    Sensitive::new(text)
}

fn typed(text: &str) -> Vec<Output> {
    vec![Output::Type { text: code(text), enter: true }]
}

#[test]
fn a_user_code_is_told_with_its_page_whichever_comes_first() {
    let device = || LoginSpec { flow: Flow::DeviceCode, user_code_pattern: Some("[A-Z]+".into()), ..spec(false) };
    let told = Output::Emit(LoginEvent::UserCode { code: code("AB-CD"), url: url() });
    let mut m = Machine::new(&device(), 0);
    assert_eq!(m.take(Input::UserCode(code("AB-CD")), 1), vec![]);
    assert_eq!(m.take(Input::Shim(url()), 2).last(), Some(&told));
    assert_eq!((m.take(Input::UserCode(code("AB-CD")), 3), m.deadline()), (vec![], None));

    let mut m = Machine::new(&device(), 0);
    m.take(Input::Shim(url()), 1);
    assert_eq!(m.deadline(), Some(10_000), "the page alone is not enough");
    assert_eq!(m.take(Input::UserCode(code("AB-CD")), 2), vec![told]);

    let mut m = Machine::new(&device(), 0);
    m.take(Input::Shim(url()), 1);
    let late = m.take(Input::Tick, 10_000);
    assert_eq!((causes(&late), late.last()), (vec![Outcome::TimedOut], Some(&Output::Kill)));
    let mut other = Machine::new(&spec(false), 0);
    other.take(Input::Shim(url()), 1);
    assert_eq!(other.take(Input::UserCode(code("AB-CD")), 2), vec![], "another flow has none");
}

#[test]
fn a_code_is_asked_for_typed_refused_and_asked_for_again() {
    let mut spec = LoginSpec { flow: Flow::PasteCode, ..spec(false) };
    spec.prompts = vec![prompt("Paste", Reply::Code)];
    spec.outcomes = vec![rule(Outcome::InvalidCode, false)];
    let refused = || Output::Emit(LoginEvent::CodeRefused { detail: "Invalid code".into() });
    let wrong = || Input::Said { rule: 0, words: "Invalid code".into() };
    let mut m = Machine::new(&spec, 0);
    m.take(Input::Shim(url()), 1);
    assert_eq!(m.take(Input::Asked(0), 2), vec![Output::Emit(LoginEvent::CodeWanted)]);
    assert_eq!(m.take(Input::Asked(0), 3), vec![], "a prompt that is painted again asks nothing new");
    assert_eq!(m.take(Input::Code(code("bad")), 4), typed("bad"));
    assert_eq!(m.take(wrong(), 5), vec![refused()]);
    assert_eq!(m.take(Input::Asked(0), 6), vec![]);
    assert_eq!(m.take(Input::Code(code("bad2")), 7), typed("bad2"));
    assert_eq!(m.take(Input::Asked(0), 8), vec![Output::Emit(LoginEvent::CodeWanted)]);
    // The next code may be quicker than the question that follows the refusal.
    m.take(Input::Code(code("bad3")), 8);
    assert_eq!(m.take(wrong(), 8), vec![refused()]);
    assert_eq!(m.take(Input::Code(code("bad4")), 8), typed("bad4"));
    assert_eq!(m.take(Input::Asked(0), 8), vec![]);
    // The tool gives up: what it said last is why.
    m.take(wrong(), 9);
    assert_eq!(causes(&m.take(exited(1), 10)), vec![Outcome::InvalidCode]);
}

#[test]
fn a_code_that_came_before_the_prompt_is_kept_for_it() {
    let mut spec = spec(false);
    spec.prompts = vec![prompt("Paste", Reply::Code)];
    let mut m = Machine::new(&spec, 0);
    assert_eq!(m.take(Input::Code(code("early")), 1), vec![]);
    assert_eq!(m.take(Input::Asked(0), 2), typed("early"));
    assert_eq!(m.take(Input::Asked(0), 3), vec![Output::Emit(LoginEvent::CodeWanted)]);
}

#[test]
fn a_fixed_answer_is_typed_once() {
    let mut spec = spec(false);
    spec.prompts = vec![prompt("Sure?", Reply::Text { text: "y".into() })];
    let mut m = Machine::new(&spec, 0);
    assert_eq!(m.take(Input::Asked(0), 1), typed("y"));
    assert_eq!(m.take(Input::Asked(0), 2), vec![]);
    assert_eq!(m.take(Input::Asked(7), 3), vec![]);
}

#[test]
fn what_the_tool_says_names_the_outcome() {
    let mut spec = spec(false);
    spec.outcomes = vec![rule(Outcome::DeviceFlowNotEnabled, true), rule(Outcome::Denied, false)];
    let mut m = Machine::new(&spec, 0);
    let over = m.take(Input::Said { rule: 0, words: "not enabled".into() }, 1);
    assert_eq!((causes(&over), over.last()), (vec![Outcome::DeviceFlowNotEnabled], Some(&Output::Kill)));
    assert_eq!(m.take(Input::Said { rule: 1, words: "denied".into() }, 2), vec![], "one outcome per attempt");
    assert_eq!(causes(&m.take(exited(1), 3)), vec![]);

    for end in [0, 1] {
        let mut m = Machine::new(&spec, 0);
        assert_eq!(m.take(Input::Said { rule: 1, words: "denied".into() }, 1), vec![]);
        assert_eq!(causes(&m.take(exited(end), 2)), vec![Outcome::Denied]);
    }
    // It went on, and well.
    let mut m = Machine::new(&spec, 0);
    m.take(Input::Said { rule: 1, words: "denied".into() }, 1);
    assert!(matches!(m.take(Input::Files(complete()), 2)[..], [Output::Emit(LoginEvent::Captured { .. })]));
}

#[test]
fn a_program_that_is_not_there_is_no_tool_that_ended() {
    let mut m = Machine::new(&spec(false), 0);
    assert_eq!(causes(&m.take(exited(127), 1)), vec![Outcome::ToolMissing]);
}

#[test]
fn a_listener_is_told_once() {
    let mut m = Machine::new(&spec(false), 0);
    assert_eq!(m.take(Input::Listening(1455), 1), vec![Output::Emit(LoginEvent::CallbackListening { port: 1455 })]);
    assert_eq!(m.take(Input::Listening(1455), 2), vec![]);
}
