//! A person in front of a real machine, through the viewer page: `e2e/vm-viewer.mjs` in Debian's Chromium. What reached the machine is
//! said by a site outside of it, in a namespace behind the allowed way out; what the machine says to others is seen on its TAP.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::outside::Internet;
use support::{Daemon, Wanted, text};

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const BOOT: Duration = Duration::from_secs(150);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn artifacts(name: &str) -> PathBuf {
    let set = std::env::var_os("E2E_ARTIFACTS").filter(|dir| !dir.is_empty());
    let dir = set.map_or_else(|| root().join("artifacts"), PathBuf::from).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

async fn daemon_with_browser(internet: &Internet) -> Daemon {
    // The guest can ask for names, or its questions would be seen by nobody.
    let tables = format!(
        "guest = {{ dns = [\"{}\"] }}\n[network.egress]\nuplink = \"namespace:{}\"\n",
        Internet::ADDRESS,
        internet.host
    );
    let config = "provider_images = { shell = \"browser\" }\nboot_deadline_s = 150\nsession_deadline_s = 3600\n";
    Daemon::start(&Wanted { config, tables: &tables, ..Wanted::default() }).await
}

/// A link of its own for one more person.
async fn link(daemon: &Daemon, id: &str) -> String {
    let (status, ticket) = daemon.call("POST", &format!("/api/auth/session/{id}/ticket"), None).await;
    assert_eq!(status, 200, "{ticket}");
    text(&ticket, "novncURL").to_owned()
}

/// What a WebSocket to the screen is answered, with this cookie and from a page of this origin.
async fn screen_status(daemon: &Daemon, id: &str, cookie: Option<&str>, origin: &str) -> u16 {
    let url = format!("{}/api/auth/session/{id}/vnc", daemon.base);
    let request = reqwest::Client::new().get(url).header("origin", origin);
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = cookie.map_or(request.try_clone().unwrap(), |cookie| request.header("cookie", cookie));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn what_a_person_does_arrives_whatever_happens_to_the_way() {
    need_vms!();
    if !Path::new(FAKETIME).exists() {
        println!("skipped: libfaketime is not installed (Debian: faketime)");
        return;
    }
    let internet = Internet::new();
    let mut daemon = daemon_with_browser(&internet).await;
    let started = daemon.start_session("u1", "shell").await;
    let id = text(&started, "sessionId").to_owned();
    let links = [text(&started, "novncURL").to_owned(), link(&daemon, &id).await];
    let out = Command::new("node")
        .arg("e2e/vm-viewer.mjs")
        .args([
            "--url",
            &links[0],
            "--url",
            &links[1],
            "--site-namespace",
            &internet.beyond,
            "--site",
            Internet::ADDRESS,
        ])
        .arg("--artifacts")
        .arg(artifacts("viewer-vm"))
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    println!("{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");

    // Who has no part in the session sees nothing of it. A ticket that counts is answered with a cookie and a redirect.
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let open = async |link: &str| client.get(link).send().await.unwrap();
    assert_eq!(open(&links[0]).await.status(), 403, "a used link");
    let opened = open(&link(&daemon, &id).await).await;
    assert_eq!(opened.status(), 303);
    let cookie = opened.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(screen_status(&daemon, &id, Some(&cookie), &daemon.base).await, 101, "the page's own origin");
    assert_eq!(screen_status(&daemon, &id, Some(&cookie), "https://evil.example").await, 403, "a foreign origin");
    assert_eq!(screen_status(&daemon, &id, None, &daemon.base).await, 401, "no cookie");
    assert_eq!(daemon.session(&id).await["state"], "awaiting_user", "nothing of that ended the session");

    // A daemon whose clock is eleven minutes ahead; its machine lives on.
    let unused = link(&daemon, &id).await;
    daemon.end("TERM");
    daemon.restart_with(&[("LD_PRELOAD", FAKETIME), ("FAKETIME", "+11m"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]).await;
    assert_eq!(open(&unused).await.status(), 403, "an expired link");
    assert_eq!(open(&link(&daemon, &id).await).await.status(), 303, "it is the link that is too old, not the session");
    daemon.stop();
    daemon.at.assert_nothing_left();
}

/// Frames of the machine in `tap` for `time`, as `tcpdump` prints them: who is asked, by which protocol.
fn frames(namespace: &str, tap: &str, time: Duration) -> Vec<String> {
    let seconds = time.as_secs().to_string();
    let out = Command::new("ip")
        .args(["netns", "exec", namespace, "timeout", "--signal=INT", &seconds])
        .args(["tcpdump", "-i", tap, "-nn", "-l", "-q", "-t", "inbound", "and", "(ip or ip6)"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(String::from_utf8_lossy(&out.stderr).contains("packets captured"), "{out:?}");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_browser_talks_to_nobody_on_its_own() {
    need_vms!();
    if Command::new("tcpdump").arg("--version").output().is_err() {
        println!("skipped: tcpdump is not installed");
        return;
    }
    let internet = Internet::new();
    let daemon = daemon_with_browser(&internet).await;
    let asked = internet.name_server();
    let started = daemon.start_session("u1", "shell").await;
    let began = Instant::now();
    while daemon.at.taps().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let tap = daemon.at.taps().remove(0);
    let (namespace, watched) = (daemon.at.namespace.clone(), Duration::from_secs(100));
    let watching = tokio::task::spawn_blocking(move || frames(&namespace, &tap, watched));
    daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
    println!("painted after {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() + Duration::from_secs(60) < watched, "too slow a machine to watch it idle for 60 s");

    // What the daemon asks of the guest is answered on the guest's own ports; everything else would be the browser's idea.
    let frames = watching.await.unwrap();
    let guest = text(&started, "browserIP");
    let answers = |frame: &&String| {
        frame.starts_with(&format!("IP {guest}.8080 >")) || frame.starts_with(&format!("IP {guest}.5901 >"))
    };
    let (expected, own): (Vec<_>, Vec<_>) = frames.iter().partition(answers);
    assert!(!expected.is_empty(), "nothing was seen at all, not even the answer to the daemon: {frames:?}");
    let own: Vec<_> = own.iter().filter(|frame| !is_of_the_link(frame)).collect();
    assert!(own.is_empty(), "{own:#?}");
    assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
    // It could have.
    let vm = text(&daemon.session(text(&started, "sessionId")).await, "vmId").to_owned();
    let out = daemon.cli(&["vm", "reach", &vm, &format!("udp:{}:53", Internet::ADDRESS), "--json"]);
    assert!(out.status.success(), "{out:?}");
    assert!(!asked.lock().unwrap().is_empty(), "the name server was asked");
}

/// What every kernel says when its link comes up.
fn is_of_the_link(frame: &str) -> bool {
    frame.starts_with("IP6 ") && frame.contains("ICMP6")
}
