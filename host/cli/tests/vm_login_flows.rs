//! What goes wrong in a login, in real VMs with the demo tool: every end has a type, a cause and a remedy, and nothing is left behind.
//! One machine serves several tries wherever a retry is allowed. The odd tools are provider files of an operator, in `providers_dir`.
//! What needs no browser boots without one.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/elsewhere.rs"]
mod elsewhere;
#[path = "support/login.rs"]
mod login;
#[path = "support/person.rs"]
mod person;
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use elsewhere::{code_of, decide};
use login::{ANSWERS_WITHIN, BOOTS_WITHIN, Login, daemon, daemon_in, demo, odd, pasting};
use person::sign_in;
use serde_json::{Value, json};
use support::{AIRLOCK, Daemon, lines, text};

#[tokio::test]
async fn a_busy_port_a_tool_that_hangs_and_one_that_is_not_there_share_a_machine() {
    need_vms!();
    let fields = r#"
command = ["airlock-demo-tool", "login"]
flows = ["loopback", "device_code", "paste_code"]
url_timeout_s = 3
user_code_pattern = "([A-Z]{4}-[A-Z]{4})"
# Where the agent answers.
callback = { port = 8080, port_env = "AIRLOCK_DEMO_CALLBACK_PORT" }
flow.device_code.command = ["sleep", "600"]
flow.paste_code.command = ["no-such-tool", "login"]
prompts = [{ pattern = "Code: ", ask = "code" }]
"#;
    let daemon = daemon(&[odd("odd", fields)], "").await;
    let login = Login::start(&daemon, "u1", "odd").await;
    login.ends(1, "port_busy").await;
    let (machine, uptime) = (daemon.at.vmms(), login.uptime());
    assert_eq!(login.refused("code", Some(json!({"code": "x"}))).await, "no_code_wanted");

    login.retry("device_code").await;
    assert_eq!(login.refused("retry", None).await, "login_not_failed");
    login.ends(2, "timed_out").await;
    // No other machine, and no other boot of it.
    assert_eq!((daemon.at.vmms(), machine.len()), (machine, 1));
    let later = login.uptime();
    assert!(later >= uptime + 3.0, "{uptime} s, then {later} s");

    login.retry("paste_code").await;
    login.fails("login_tool_missing").await;
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn codes_that_are_wrong_old_or_of_another_sign_in_are_refused_and_the_next_try_completes() {
    need_vms!();
    let daemon = daemon(&[pasting()], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let page = login.asks(1).await;
    let old = code_of(&daemon, &page);
    login.is_refused(1, "no-such-code").await;
    let (_, mark) = old.split_once('#').unwrap();
    login.is_refused(1, &format!("another#{mark}")).await;
    login.enters("no-such-code").await;
    login.ends(1, "invalid_code").await;

    login.retry("paste_code").await;
    let again = login.asks(2).await;
    assert_ne!(again, page);
    login.is_refused(2, &old).await;
    login.enters(&code_of(&daemon, &again)).await;
    login.completes().await;
    daemon.at.assert_nothing_left();
    assert!(!daemon.log().contains(&old) && !daemon.log().contains(mark), "{}", daemon.log());
}

#[tokio::test]
async fn a_device_code_that_was_denied_elsewhere_is_tried_again_and_granted() {
    need_vms!();
    let daemon = daemon(&[demo("\"device_code\", \"paste_code\", \"loopback\"")], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let denied = login.shows(1).await;
    decide(&daemon, &denied, "deny");
    login.ends(1, "denied").await;
    login.retry("device_code").await;
    let code = login.shows(2).await;
    assert_ne!(code, denied);
    decide(&daemon, &code, "allow");
    let content = login.completes().await;
    assert_eq!(content["account"], "alice");
    daemon.at.assert_nothing_left();
    assert!(!daemon.log().contains(&code), "{}", daemon.log());
}

#[tokio::test]
async fn who_cannot_sign_in_one_way_takes_another_without_waiting_for_its_end() {
    need_vms!();
    let daemon = daemon(&[demo("\"loopback\", \"device_code\", \"paste_code\"")], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let waits = |session: &Value| session["state"] == "awaiting_user";
    daemon.wait_until(&login.id, "waiting for the browser", BOOTS_WITHIN, waits).await;
    let machine = daemon.at.vmms();
    assert_eq!(login.refused("retry", Some(json!({"flow": "loopback"}))).await, "login_not_failed");
    login.retry("device_code").await;
    let code = login.shows(2).await;
    login.retry("paste_code").await;
    let page = login.asks(3).await;
    // Nobody waits for that one any more.
    decide(&daemon, &code, "allow");
    assert_eq!(daemon.at.vmms(), machine);
    login.enters(&code_of(&daemon, &page)).await;
    login.completes().await;
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_provider_s_file_is_tried_up_to_its_page_and_nothing_of_that_stays() {
    need_vms!();
    let missing = odd("missing", "command = [\"no-such-tool\"]");
    let daemon = daemon(&[pasting(), missing], "").await;
    let check = |number: u32| {
        let file = daemon.at.state.path().join(format!("providers/{number}.toml"));
        let out = daemon.cli(&["provider", "check", file.to_str().unwrap(), "--run", "--json"]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        daemon.at.assert_nothing_left();
        (out.status.code(), serde_json::from_str::<Value>(said.lines().last().unwrap()).unwrap())
    };
    let (code, shown) = check(0);
    assert_eq!((code, text(&shown, "page")), (Some(0), "http://192.168.100.1:4080/authorize"), "{shown}");
    assert_eq!((text(&shown, "flow"), &shown["outcome"]), ("paste_code", &Value::Null));
    let (code, failed) = check(1);
    assert_eq!((code, text(&failed, "outcome")), (Some(1), "login_tool_missing"), "{failed}");
    assert_eq!(failed["page"], Value::Null);
    let (_, sessions) = daemon.call("GET", "/api/auth/sessions/provider-check", None).await;
    let states = sessions["sessions"].as_array().unwrap().iter().map(|session| text(session, "state").to_owned());
    assert_eq!(states.collect::<Vec<_>>(), ["failed", "cancelled"]);
}

#[tokio::test]
async fn who_waits_at_a_terminal_is_told_and_takes_the_sign_in_back() {
    need_vms!();
    let daemon = daemon(&[pasting()], "").await;
    let mut login = Command::new(AIRLOCK);
    login.args(["login", "demo", "--user", "u1"]).env("AIRLOCK_SERVER", &daemon.base);
    login.env("AIRLOCK_STATE_DIR", daemon.at.state.path()).env_remove("AIRLOCK_TOKEN");
    let mut login = login.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = lines(&mut login);
    let first = told.next().unwrap();
    let id = first.strip_prefix("session ").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let wants = format!("airlock session code {id}");
    assert!(told.any(|line| line.contains(&wants)), "{}", daemon.log());

    let vm = text(&daemon.session(&id).await, "vmId").to_owned();
    let addr = text(&daemon.session(&id).await, "browserIP").parse().unwrap();
    let session = Login { daemon: &daemon, user: "u1".into(), id, link: String::new(), vm, addr };
    let page = session.asks(1).await;
    for _ in 0..3 {
        session.enters("no-such-code").await;
    }
    let wants =
        format!("try 1 ended: invalid_code; another one in the same machine: airlock session retry {}", session.id);
    assert!(told.any(|line| line == wants), "{}", daemon.log());
    assert!(daemon.cli(&["session", "retry", &session.id]).status.success());
    session.asks(2).await;

    support::signal(login.id(), "INT");
    let ended = login.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("cancelled"), "{said}");
    assert_eq!(daemon.session(&session.id).await["state"], "cancelled");
    assert_eq!(session.refused("code", Some(json!({"code": code_of(&daemon, &page)}))).await, "session_ended");
    assert_eq!(session.refused("retry", None).await, "session_ended");
    session.gone().await;
    session.nothing_stored().await;
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_sign_in_that_nobody_finishes_expires_with_its_tool_and_its_page() {
    need_vms!();
    let daemon = daemon(&[pasting()], "session_deadline_s = 15\n").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let page = login.asks(1).await;
    let session = daemon.wait_for(&login.id, &["expired"], ANSWERS_WITHIN).await;
    assert!(session["endedAt"].is_string() && session["login"]["codeWanted"] != true, "{session}");
    assert_eq!(login.refused("code", Some(json!({"code": code_of(&daemon, &page)}))).await, "session_ended");
    assert_eq!(login.refused("retry", Some(json!({"flow": "loopback"}))).await, "session_ended");
    login.gone().await;
    login.nothing_stored().await;
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_daemon_that_comes_back_knows_how_the_login_stands() {
    need_vms!();
    let mut daemon = daemon(&[pasting()], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let page = login.asks(1).await;
    let Login { user, id, link, vm, addr, .. } = login;
    daemon.kill();
    daemon.restart().await;
    let login = Login { daemon: &daemon, user, id, link, vm, addr };
    assert_eq!(login.asks(1).await, page);
    for _ in 0..3 {
        login.enters("no-such-code").await;
    }
    login.ends(1, "invalid_code").await;
    let Login { user, id, link, vm, addr, .. } = login;
    daemon.kill();
    daemon.restart().await;
    let login = Login { daemon: &daemon, user, id, link, vm, addr };
    login.ends(1, "invalid_code").await;
    login.retry("paste_code").await;
    let page = login.asks(2).await;
    let Login { user, id, link, vm, addr, .. } = login;
    daemon.kill();
    daemon.restart().await;
    let login = Login { daemon: &daemon, user, id, link, vm, addr };
    assert_eq!(login.asks(2).await, page);
    login.enters(&code_of(&daemon, &page)).await;
    login.completes().await;
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_named() {
    need_vms!();
    // Nobody listens there.
    let provider = pasting().replace("{gateway}:{demo_port}", "127.0.0.1:9");
    let daemon = daemon(&[provider], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let page = login.asks(1).await;
    let state = page.split_once("state=").unwrap().1.split('&').next().unwrap();
    login.enters(&format!("some-code#{state}")).await;
    login.ends(1, "no_egress").await;
}

/// Who is signed in already according to the image: the demo tool's own status command says yes to this.
const OF_THE_IMAGE: &str = r#"{"access_token":"of-the-image","refresh_token":"of-the-image","token_type":"Bearer","expires_at":4102444800000,"account":"builder"}"#;

/// A state directory with `base`, and with an image made of it in which somebody is signed in already.
fn state_with_signed_in_image() -> tempfile::TempDir {
    let state = tempfile::Builder::new().prefix("airlock-vm-").tempdir().unwrap();
    symlink(support::images().join("cache"), state.path().join("cache")).unwrap();
    let images = state.path().join("images");
    fs::create_dir(&images).unwrap();
    for entry in fs::read_dir(support::images().join("images")).unwrap().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("base.") || name.starts_with("base@")) {
            symlink(entry.path(), images.join(name)).unwrap();
        }
    }
    let recipe = state.path().join("signed-in.toml");
    let file = "path = \"/home/user/.airlock-demo/credentials.json\"\nowner = \"user\"\nmode = 0o600";
    let text = format!("from = [\"base\"]\nname = \"signed-in\"\n[[files]]\n{file}\ncontent = '{OF_THE_IMAGE}'\n");
    fs::write(&recipe, text).unwrap();
    let mut build = Command::new(AIRLOCK);
    build.args(["image", "build", "--no-boot-test"]).arg(&recipe).arg("--state-dir").arg(state.path());
    let out = build.env_remove("AIRLOCK_TOKEN").output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    state
}

#[tokio::test]
async fn a_credential_that_does_not_count_fails_the_sign_in_with_its_reason() {
    need_vms!();
    // A login that thinks it is over at once: the image's file says so.
    let stale = odd("stale", "command = [\"airlock-demo-tool\", \"status\"]").replace("\"base\"", "\"signed-in\"");
    let writes = |text: &str| {
        let script = format!("mkdir ~/.airlock-demo; printf '%s' '{text}' > ~/.airlock-demo/credentials.json");
        format!("command = ['sh', '-c', '''{script}''']\n")
    };
    let malformed = odd("malformed", &writes("{\"access_token\":"));
    // Well formed, but the tool does not believe it; nobody tries again in time.
    let denying = "status_command = [\"airlock-demo-tool\", \"status\"]\n";
    let rejected = odd("rejected", &(writes(&OF_THE_IMAGE.replace("4102444800000", "1000")) + denying));
    let daemon = daemon_in(state_with_signed_in_image(), &[stale, malformed, rejected], "login_retry_s = 1\n").await;
    for (provider, cause, words) in [
        ("stale", "credential_stale", "is older than the login"),
        ("malformed", "credential_malformed", "credentials.json"),
        ("rejected", "credential_rejected", "status command denies"),
    ] {
        let login = Login::start(&daemon, "u1", provider).await;
        let session = login.fails(cause).await;
        let detail = session["error"].to_string();
        assert!(detail.contains(words) && !detail.contains("of-the-image"), "{detail}");
        daemon.at.assert_nothing_left();
    }
}

/// The live events of a session until it is over, as they came.
fn events(daemon: &Daemon, id: &str) -> tokio::task::JoinHandle<String> {
    let url = format!("{}/api/auth/session/{id}/events", daemon.base);
    let request = reqwest::Client::new().get(url).bearer_auth(&daemon.token);
    tokio::spawn(async move { request.send().await.unwrap().text().await.unwrap() })
}

/// Opens a viewer link as a browser does; returns its cookie.
async fn opened(link: &str) -> String {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client.get(link).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

/// The answer to a viewer with this cookie.
async fn as_viewer(daemon: &Daemon, cookie: &str, id: &str, what: &str) -> u16 {
    let url = format!("{}/api/auth/session/{id}{what}", daemon.base);
    reqwest::Client::new().get(url).header("cookie", cookie).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn two_users_of_one_provider_see_nothing_of_each_other() {
    need_vms!();
    let provider = pasting().replace("image = \"base\"", "image = \"signed-in\"");
    let daemon = daemon_in(state_with_signed_in_image(), &[provider], "").await;
    let (one, two) = tokio::join!(Login::start(&daemon, "u1", "demo"), Login::start(&daemon, "u2", "demo"));
    assert!(one.vm != two.vm && one.addr != two.addr && one.link != two.link);
    let told = (events(&daemon, &one.id), events(&daemon, &two.id));
    let (page_one, page_two) = tokio::join!(one.asks(1), two.asks(1));
    assert_eq!(daemon.at.vmms().len(), 2, "both at once");

    // A ticket opens its own session only, and is not used up by the other.
    let ticket = |login: &Login<'_>| login.link.split_once('?').unwrap().1.to_owned();
    let crossed = one.link.replace(&ticket(&one), &ticket(&two));
    assert_eq!(reqwest::get(&crossed).await.unwrap().status(), 403);
    let (cookie_one, cookie_two) = (opened(&one.link).await, opened(&two.link).await);
    assert_ne!(cookie_one, cookie_two);
    for what in ["", "/events", "/timeline", "/oauth-url", "/diagnosis", "/vnc"] {
        assert_eq!(as_viewer(&daemon, &cookie_one, &two.id, what).await, 401, "{what}");
        assert_eq!(as_viewer(&daemon, &cookie_two, &one.id, what).await, 401, "{what}");
    }
    assert_eq!(as_viewer(&daemon, &cookie_one, &one.id, "").await, 200);

    // A code of the other's is not taken, also not under one's own mark.
    let (code_one, code_two) = (code_of(&daemon, &page_one), code_of(&daemon, &page_two));
    one.is_refused(1, &code_two).await;
    let mark = code_one.split_once('#').unwrap().1;
    one.is_refused(1, &format!("{}#{mark}", code_two.split_once('#').unwrap().0)).await;
    tokio::join!(one.enters(&code_one), two.enters(&code_two));
    let (first, second) = tokio::join!(one.completes(), two.completes());
    daemon.at.assert_nothing_left();

    // Each has a credential of its own, and neither has the image's.
    let of = |content: &Value| ["access_token", "refresh_token"].map(|name| text(content, name).to_owned());
    let all = [of(&first), of(&second), ["of-the-image".to_owned(), String::new()]].concat();
    let mut distinct = all.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len());
    for (mine, other) in [(&one, &two), (&two, &one)] {
        let (_, list) = daemon.call("GET", &format!("/api/auth/credentials/{}", mine.user), None).await;
        assert_eq!(list["credentials"].as_array().map(Vec::len), Some(1), "{list}");
        let (_, sessions) = daemon.call("GET", &format!("/api/auth/sessions/{}", mine.user), None).await;
        for text in [list.to_string(), sessions.to_string()] {
            assert!(text.contains(&mine.id) && !text.contains(&other.id) && !text.contains(&other.user), "{text}");
        }
    }
    let (told_one, told_two) = (told.0.await.unwrap(), told.1.await.unwrap());
    for (told, mine, other) in [(told_one, &one, &two), (told_two, &two, &one)] {
        assert!(told.contains("\"completed\"") && told.contains(&mine.id) && told.contains(&mine.vm), "{told}");
        let foreign = [&other.id, &other.vm, &other.user, &other.addr.to_string()].map(|word| format!("\"{word}\""));
        assert!(!foreign.iter().any(|word| told.contains(word)), "{told}");
        let secrets = [&code_one, &code_two, mark].map(|secret| told.contains(secret));
        assert_eq!((secrets, all[..4].iter().any(|token| told.contains(token))), ([false; 3], false));
    }
}

#[tokio::test]
async fn a_person_who_denied_signs_in_by_trying_again() {
    need_vms!();
    let daemon = daemon(&[], "").await;
    let login = Login::start(&daemon, "u1", "demo").await;
    let (ok, outcome) = sign_in(&login.link, "denied", &["--deny"]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    login.ends(1, "denied").await;
    let (machine, uptime) = (daemon.at.vmms(), login.uptime());
    login.retry("loopback").await;
    let (status, link) = login.post("ticket", None).await;
    assert_eq!(status, 200, "{link}");
    let (ok, outcome) = sign_in(text(&link, "novncURL"), "denied-again", &[]);
    assert!(ok, "{}\n{outcome}", daemon.log());
    println!("the machine was the same {machine:?}, up {uptime:.1} s when it was tried again");
    let content = login.completes().await;
    assert_eq!(content["account"], "alice");
    daemon.at.assert_nothing_left();
}
