//! Each flow of a login in this process, with a scripted tool on a real terminal or on real pipes.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use airlock_protocol::Sensitive;
use airlock_protocol::login::{
    Callback, Flow, LoginEvent, LoginSpec, Outcome, OutcomeRule, PlacedFile, Prompt, Reply, Terminal,
};
use support::Guest;

/// Writes the credential, with the code in it.
const WRITE: &str = r#"mkdir -p "$HOME/.tool"; printf '{"token":"t-%s"}' "$code" > "$HOME/.tool/c.json""#;

fn sh(guest: &Guest, flow: Flow, script: &str) -> LoginSpec {
    LoginSpec { flow, ..guest.spec(&["/bin/sh", "-c", script]) }
}

fn prompt(pattern: &str, reply: Reply) -> Prompt {
    Prompt { pattern: pattern.into(), reply, enter: true, secret: true }
}

fn rule(pattern: &str, outcome: Outcome, is_final: bool) -> OutcomeRule {
    OutcomeRule { pattern: pattern.into(), outcome, r#final: is_final }
}

/// The next two events, the exit last: a file and an end have no order among them.
fn capture_and_exit(guest: &Guest) -> (LoginEvent, LoginEvent) {
    let mut events = [guest.next(), guest.next()];
    events.sort_by_key(|event| matches!(event, LoginEvent::ToolExited { .. }));
    let [captured, exited] = events;
    (captured, exited)
}

fn content(event: &LoginEvent) -> &str {
    let LoginEvent::Captured { files, .. } = event else { panic!("{event:?}") };
    files[0].content.expose()
}

#[test]
fn a_device_code_is_told_and_the_tool_goes_on_by_itself() {
    let guest = Guest::new();
    let script = format!(
        "printf 'Open https://idp.example/device\\r\\nEnter code: \\033[94mWDJB-MJHT\\033[0m\\r\\n'; \
         test \"$(ulimit -c)\" = 0 || exit 9; read gate < \"$HOME/gate\"; code=x; {WRITE}"
    );
    let mut spec = sh(&guest, Flow::DeviceCode, &script);
    spec.user_code_pattern = Some("code: ([A-Z]{4}-[A-Z]{4})".into());
    std::fs::create_dir_all(guest.dir.join("home")).unwrap();
    nix::unistd::mkfifo(&guest.dir.join("home/gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    guest.logins.start(spec);
    guest.started();
    assert_eq!(guest.url().0, "https://idp.example/device");
    let told =
        LoginEvent::UserCode { code: Sensitive::new("WDJB-MJHT"), url: Sensitive::new("https://idp.example/device") };
    assert_eq!(guest.next(), told);
    std::fs::write(guest.dir.join("home/gate"), "granted\n").unwrap();
    let (captured, exited) = capture_and_exit(&guest);
    assert_eq!(content(&captured), r#"{"token":"t-x"}"#);
    assert_eq!(exited, LoginEvent::ToolExited { code: Some(0), signal: None });
}

#[test]
fn a_code_that_was_refused_is_asked_for_again_on_a_terminal_and_on_pipes() {
    for terminal in [Terminal::default(), Terminal::Pipes] {
        let guest = Guest::new();
        let script = format!(
            "echo 'visit https://idp.example/a'; for n in 1 2; do printf 'Paste code > '; read -r code; \
             case $code in good*) {WRITE}; exit 0;; esac; echo \"Invalid code $code.\"; done; exit 3"
        );
        let mut spec = LoginSpec { terminal, ..sh(&guest, Flow::PasteCode, &script) };
        spec.prompts = vec![prompt("Paste code > ", Reply::Code)];
        spec.outcomes = vec![rule("Invalid code", Outcome::InvalidCode, false)];
        guest.logins.start(spec);
        guest.started();
        // The screen's URL waits a moment for the shim; the prompt does not.
        assert_eq!(guest.next(), LoginEvent::CodeWanted, "{terminal:?}");
        assert_eq!(guest.url().0, "https://idp.example/a");
        guest.logins.enter_code(Sensitive::new("b4d-c0de"));
        let LoginEvent::CodeRefused { detail } = guest.next() else { panic!("{terminal:?}") };
        assert!(detail.contains("Invalid code [code]"), "{detail}");
        guest.logins.enter_code(Sensitive::new("good#1"));
        let (captured, exited) = capture_and_exit(&guest);
        assert_eq!(content(&captured), r#"{"token":"t-good#1"}"#, "{terminal:?}");
        assert_eq!(exited, LoginEvent::ToolExited { code: Some(0), signal: None });
    }
}

#[test]
fn the_last_wrong_code_is_the_outcome_and_a_retry_runs_the_tool_again() {
    let guest = Guest::new();
    let script = format!(
        "read -r go < \"$HOME/gate\"; echo https://idp.example/a; printf 'Code: '; read -r code; \
         case $code in good) {WRITE}; exit 0;; esac; echo 'That code was not accepted'; exit 1"
    );
    std::fs::create_dir_all(guest.dir.join("home")).unwrap();
    nix::unistd::mkfifo(&guest.dir.join("home/gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open_gate = || std::fs::write(guest.dir.join("home/gate"), "go\n").unwrap();
    let mut spec = sh(&guest, Flow::PasteCode, &script);
    spec.prompts = vec![prompt("Code: ", Reply::Code)];
    spec.outcomes = vec![rule("not accepted", Outcome::InvalidCode, false)];
    guest.logins.start(spec.clone());
    let first = guest.started();
    // It comes before the tool asks, and is kept for its question.
    guest.logins.enter_code(Sensitive::new("bad"));
    open_gate();
    assert!(matches!(guest.next(), LoginEvent::CodeRefused { .. }));
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: Some(1), signal: None });
    assert_eq!(guest.failed().0, Outcome::InvalidCode);
    // The same attempt again changes nothing; the next one is another run.
    guest.logins.start(spec.clone());
    guest.logins.start(LoginSpec { attempt: 2, ..spec });
    assert_ne!(guest.started(), first);
    guest.logins.enter_code(Sensitive::new("good"));
    open_gate();
    let (captured, _) = capture_and_exit(&guest);
    assert_eq!(content(&captured), r#"{"token":"t-good"}"#);
}

#[test]
fn a_final_word_ends_the_tool_with_its_outcome() {
    let guest = Guest::new();
    let mut spec = sh(&guest, Flow::DeviceCode, "echo 'Error: device login is not enabled'; sleep 600");
    spec.outcomes = vec![rule("device login is not enabled", Outcome::DeviceFlowNotEnabled, true)];
    guest.logins.start(spec);
    guest.started();
    let (outcome, detail) = guest.failed();
    assert_eq!((outcome, detail.as_str()), (Outcome::DeviceFlowNotEnabled, "Error: device login is not enabled"));
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: None, signal: Some(15) });
}

#[test]
fn a_tool_that_asks_its_terminal_and_its_user_gets_answers() {
    let guest = Guest::new();
    // Cursor, keyboard protocol, background colour, size of the window: each read as long as its answer is.
    let script = format!(
        "stty -echo -icanon min 1\n\
         ask() {{ printf \"$1\"; answer=$(dd bs=1 count=$2 2>/dev/null | od -An -c | tr -d ' \\n'); \
         case \"$answer\" in *\"$3\") ;; *) echo \"$1: $answer\"; exit 8;; esac; }}\n\
         ask '\\033[6n' 6 R; ask '\\033[?u' 5 'u'; ask '\\033]11;?\\007' 25 '\\'; ask '\\033[18t' 11 't'\n\
         stty echo icanon; echo https://idp.example/a; printf 'Store it? (y/N) '; read -r code; {WRITE}"
    );
    let mut spec = sh(&guest, Flow::Loopback, &script);
    spec.prompts = vec![prompt(r"Store it\? \(y/N\) ", Reply::Text { text: "y".into() })];
    guest.logins.start(spec);
    guest.started();
    let (captured, exited) = capture_and_exit(&guest);
    assert_eq!(exited, LoginEvent::ToolExited { code: Some(0), signal: None });
    assert_eq!(content(&captured), r#"{"token":"t-y"}"#);
}

#[test]
fn a_port_that_is_taken_is_the_reason_of_a_tool_that_ends_without_one() {
    let guest = Guest::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.set_nonblocking(true).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut spec = sh(&guest, Flow::Loopback, "test \"$TOOL_PORT\" = 0 && exit 0; exit 1");
    spec.callback = Some(Callback { port: Some(port), port_env: Some("TOOL_PORT".into()), path: None });
    guest.logins.start(spec);
    guest.started();
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: Some(1), signal: None });
    assert_eq!(guest.failed().0, Outcome::PortBusy);
    let nobody = taken.accept().unwrap_err().kind();
    assert_eq!(nobody, std::io::ErrorKind::WouldBlock, "the port was only looked at");
}

#[test]
fn the_tool_finds_its_files_and_not_what_it_must_not_have() {
    let guest = Guest::new();
    let script = format!("test -z \"$BROWSER\" || exit 7; code=$(cat \"$HOME/.tool/config\"); {WRITE}");
    let mut spec = sh(&guest, Flow::Loopback, &script);
    spec.unset_env = vec!["BROWSER".into()];
    spec.files = vec![PlacedFile { path: ".tool/config".into(), mode: 0o640, content: "placed".into() }];
    guest.logins.start(spec);
    guest.started();
    let (captured, _) = capture_and_exit(&guest);
    assert_eq!(content(&captured), r#"{"token":"t-placed"}"#);
    let mode = std::fs::metadata(guest.dir.join("home/.tool/config")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}
