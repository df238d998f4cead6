//! Whole logins in this process: a real pseudo terminal, real files, the real demo tool, against a small authorization
//! server of the test. The person's part (follow the URL, be redirected) is played by the test.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use airlock_agent::http::query_value;
use airlock_protocol::Sensitive;
use airlock_protocol::login::{CredentialFile, LoginEvent, LoginSpec, Outcome, StatusCommand, UrlSource};
use base64::Engine as _;
use sha2::Digest;
use support::{Guest, WITHIN};

/// The spec of the demo tool's login.
fn demo(guest: &Guest, issuer: &Issuer) -> LoginSpec {
    let mut spec = guest.spec(&["airlock-demo-tool", "login"]);
    spec.env.insert("AIRLOCK_DEMO_ISSUER".into(), issuer.url.clone());
    spec.url_prefixes = vec![format!("{}/authorize", issuer.url)];
    spec.credentials = vec![CredentialFile {
        path: ".airlock-demo/credentials.json".into(),
        required: vec!["/access_token".into(), "/refresh_token".into()],
        ..CredentialFile::default()
    }];
    spec.status_command =
        Some(StatusCommand { args: vec!["airlock-demo-tool".into(), "status".into()], exit_code: 0, pattern: None });
    spec
}

/// An authorization server: checks the verifier against the challenge and hands out tokens.
struct Issuer {
    url: String,
    listener: TcpListener,
}

impl Issuer {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { url: format!("http://{}", listener.local_addr().unwrap()), listener }
    }

    /// Answers one token request; returns its form.
    fn answer_token(&self, challenge: &str) -> String {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let mut request = String::new();
        let mut chunk = [0; 1024];
        let body = loop {
            let len = stream.read(&mut chunk).unwrap();
            request.push_str(std::str::from_utf8(&chunk[..len]).unwrap());
            let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                break body.to_owned();
            }
        };
        assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
        let verifier = query_value(&body, "code_verifier").unwrap();
        let hashed = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(verifier.as_bytes()));
        let answer = if hashed == challenge {
            r#"{"access_token":"at-1","refresh_token":"rt-1","token_type":"Bearer","expires_in":3600,"account":"ada"}"#
        } else {
            r#"{"error":"invalid_grant"}"#
        };
        let status = if hashed == challenge { "200 OK" } else { "400 Bad Request" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}", answer.len())
            .unwrap();
        body
    }
}

/// The person's browser: follows the redirect back to the tool.
fn redirect(url: &str, outcome: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    let callback = query_value(query, "redirect_uri").unwrap();
    let authority = callback.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let state = query_value(query, "state").unwrap();
    let mut stream = TcpStream::connect(&authority).unwrap();
    write!(stream, "GET /callback?{outcome}&state={state} HTTP/1.1\r\nHost: {authority}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_person_signs_in_with_the_demo_tool() {
    let (guest, issuer) = (Guest::new().with_shim(), Issuer::new());
    guest.logins.start(demo(&guest, &issuer));
    guest.started();
    let (url, source) = guest.url();
    assert_eq!(source, UrlSource::Shim);
    assert!(url.starts_with(&issuer.url));
    assert!(redirect(&url, "code=c%2F1").contains("Signed in"));
    let challenge = query_value(url.split_once('?').unwrap().1, "code_challenge").unwrap();
    let form = issuer.answer_token(&challenge);
    assert_eq!(query_value(&form, "code").as_deref(), Some("c/1"));
    assert_eq!(query_value(&form, "grant_type").as_deref(), Some("authorization_code"));

    // Captured and ToolExited come in either order.
    let mut captured = None;
    let mut exit = None;
    while captured.is_none() || exit.is_none() {
        match guest.next() {
            LoginEvent::Captured { files, confirmed } => captured = Some((files, confirmed)),
            LoginEvent::ToolExited { code, .. } => exit = Some(code),
            other => panic!("{other:?}"),
        }
    }
    let (files, confirmed) = captured.unwrap();
    assert_eq!((confirmed, exit), (Some(true), Some(Some(0))));
    assert_eq!((files.len(), files[0].path.as_str(), files[0].mode), (1, ".airlock-demo/credentials.json", 0o600));
    let json: serde_json::Value = serde_json::from_str(files[0].content.expose()).unwrap();
    assert_eq!((&json["access_token"], &json["account"]), (&"at-1".into(), &"ada".into()));

    // A daemon that comes back is told everything, until it stored the credential.
    let has_credential = |guest: &Guest| format!("{:?}", guest.logins.replay()).contains("Captured");
    assert!(has_credential(&guest));
    guest.logins.credential_stored("another");
    assert!(has_credential(&guest));
    guest.logins.credential_stored("login-1");
    assert!(!has_credential(&guest));
    assert_eq!(guest.logins.replay().len(), 6);
    let redirect_uri = query_value(url.split_once('?').unwrap().1, "redirect_uri").unwrap();
    let port = redirect_uri.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let asides = guest.asides.take();
    assert!(asides.contains(&LoginEvent::CallbackListening { port }), "{asides:?}");
    assert!(asides.contains(&LoginEvent::StatusAnswered { ok: true, code: Some(0), signal: None }), "{asides:?}");
}

#[test]
fn a_refusal_fails_the_login_with_the_tool_s_words() {
    let (guest, issuer) = (Guest::new().with_shim(), Issuer::new());
    guest.logins.start(demo(&guest, &issuer));
    guest.started();
    let (url, _) = guest.url();
    assert!(redirect(&url, "error=access_denied").contains("refused"));
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: Some(1), signal: None });
    let (cause, detail) = guest.failed();
    assert_eq!(cause, Outcome::CliExited);
    assert!(detail.contains("Sign-in refused: access_denied"), "{detail}");
    let state = query_value(url.split_once('?').unwrap().1, "state").unwrap();
    assert!(!detail.contains(&state) && !detail.contains("redirect_uri"), "{detail}");
}

#[test]
fn without_a_shim_the_url_is_read_from_the_screen() {
    let (guest, issuer) = (Guest::new(), Issuer::new());
    guest.logins.start(demo(&guest, &issuer));
    guest.started();
    let (url, source) = guest.url();
    assert_eq!(source, UrlSource::Screen);
    assert!(url.ends_with("code_challenge_method=S256"), "{url}");
}

#[test]
fn a_code_is_typed_at_a_prompt_on_a_real_terminal() {
    let guest = Guest::new();
    let script = r#"
        test "$(stty size)" = "50 500" || exit 9
        stty -echo -icanon min 1; printf '\033[6n'; answer=$(dd bs=1 count=6 2>/dev/null); stty echo icanon
        case "$answer" in *R) ;; *) exit 8;; esac
        echo 'visit: https://idp.example/authorize?x=1'; printf 'Paste code: '
        read code; test "$code" = 'ab#12' || exit 7
        mkdir -p "$HOME/.tool"; printf '{"token":' > "$HOME/.tool/c.json"; printf '"t-%s"}' "$code" >> "$HOME/.tool/c.json""#;
    guest.logins.start(guest.spec(&["/bin/sh", "-c", script]));
    guest.started();
    assert_eq!(guest.url(), ("https://idp.example/authorize?x=1".to_owned(), UrlSource::Screen));
    guest.logins.enter_code(Sensitive::new("ab#12"));
    let mut events = vec![guest.next(), guest.next()];
    events.sort_by_key(|event| matches!(event, LoginEvent::ToolExited { .. }));
    let LoginEvent::Captured { files, confirmed } = &events[0] else { panic!("{events:?}") };
    assert_eq!((files[0].content.expose(), *confirmed), ("{\"token\":\"t-ab#12\"}", None));
    assert_eq!(events[1], LoginEvent::ToolExited { code: Some(0), signal: None });
}

#[test]
fn an_old_credential_is_not_taken_for_a_new_one() {
    let guest = Guest::new();
    fs::create_dir_all(guest.dir.join("home/.tool")).unwrap();
    let file = fs::File::create(guest.dir.join("home/.tool/c.json")).unwrap();
    (&file).write_all(br#"{"token":"old"}"#).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    guest.logins.start(guest.spec(&["/bin/sh", "-c", "echo already signed in"]));
    guest.started();
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: Some(0), signal: None });
    assert_eq!(
        guest.failed(),
        (Outcome::CredentialStale, ".tool/c.json is older than the login; already signed in".into())
    );
}

/// Processes of a group that are no zombies (who reaps orphans here is not ours to say).
fn alive_in_group(group: i32) -> Vec<String> {
    let stats =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let in_group = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[2] == group.to_string() && fields[0] != "Z"
    };
    stats.filter(in_group).collect()
}

#[test]
fn a_tool_that_shows_no_url_is_ended_with_all_its_children() {
    let guest = Guest::new();
    let mut spec = guest.spec(&["/bin/sh", "-c", "trap '' TERM; sleep 600 & echo thinking; wait; wait"]);
    spec.url_timeout_s = 1;
    guest.logins.start(spec);
    let pid = guest.started();
    assert_eq!(guest.failed().0, Outcome::TimedOut);
    assert!(matches!(guest.next(), LoginEvent::ToolExited { code: None, signal: Some(9) }));
    assert_eq!(alive_in_group(pid), Vec::<String>::new());
}

#[test]
fn a_tool_that_is_not_there_fails_at_once() {
    let guest = Guest::new();
    guest.logins.start(guest.spec(&["no-such-tool"]));
    guest.started();
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: Some(127), signal: None });
    let (outcome, detail) = guest.failed();
    assert_eq!(outcome, Outcome::ToolMissing);
    assert!(detail.contains("no-such-tool"), "{detail}");
}

#[test]
fn the_same_login_is_started_once_and_another_one_replaces_it() {
    let guest = Guest::new();
    guest.logins.start(guest.spec(&["/bin/sleep", "600"]));
    let first = guest.started();
    guest.logins.start(guest.spec(&["/bin/sleep", "600"]));
    guest.logins.cancel();
    assert_eq!(guest.next(), LoginEvent::ToolExited { code: None, signal: Some(15) });
    guest.logins.start(guest.spec(&["/bin/sleep", "600"]));
    assert_ne!(guest.started(), first);
}
