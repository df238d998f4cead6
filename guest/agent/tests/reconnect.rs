//! What a daemon that was killed and started again is told: everything that still matters, in order, once.
//!
//! The daemon's end of the channel is played by the test; the login is a real tool on a real terminal. As with a quick
//! restart behind virtio-serial, the agent does not notice that the host was gone: it sees a frame that ends early, then a
//! greeting. (That a hang-up is noticed, and what follows, is tested beside the channel.)

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use airlock_agent::control::Control;
use airlock_agent::screen_password::ScreenPassword;
use airlock_agent::service::Agent;
use airlock_agent::timeline::Timeline;
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::{CapturedFile, GuestMessage, HostMessage, LoginEvent, LoginSpec, UrlSource, VERSION};
use airlock_protocol::{Sensitive, Stage, StageReport, vnc_auth};
use support::{Guest, WITHIN};

/// The tool: notes that it ran, asks for a page, writes its credential when it is let go, and ends when it is let go again.
const TOOL: &str = r#"
    echo ran >> "$HOME/ran"; airlock-open https://idp.example/authorize; read go < "$HOME/gate"
    mkdir -p "$HOME/.tool"; printf '{"token":"t-1"}' > "$HOME/.tool/c.json"
    read code < "$HOME/gate"; exit "$code""#;

/// A daemon at the other end of the channel, one life of it.
struct Host<'a> {
    stream: &'a UnixStream,
    decoder: Decoder,
}

impl<'a> Host<'a> {
    /// Connects, greets, and returns the timeline of the agent's hello. What was meant for an earlier host is dropped, as the
    /// VMM drops what nobody took.
    fn greet(stream: &'a UnixStream) -> (Self, Vec<Stage>) {
        let mut host = Self { stream, decoder: Decoder::new() };
        let now_ms = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let vnc_password = Some(Sensitive::new("airlock1"));
        host.say(&HostMessage::Hello { version: VERSION, now_ms, vnc_password });
        loop {
            if let GuestMessage::Hello { vm_id, timeline, .. } = host.next() {
                assert_eq!(vm_id, "vm-1");
                return (host, timeline.iter().map(|report| report.stage).collect());
            }
        }
    }

    fn say(&mut self, message: &HostMessage) {
        self.stream.write_all(&encode(message).unwrap()).unwrap();
    }

    fn next(&mut self) -> GuestMessage {
        let mut chunk = [0; 512];
        loop {
            if let Some(message) = self.decoder.next_message() {
                return message;
            }
            let len = self.stream.read(&mut chunk).unwrap();
            self.decoder.push(&chunk[..len]);
        }
    }

    fn next_event(&mut self) -> LoginEvent {
        match self.next() {
            GuestMessage::Login { login_id, event } if login_id == "login-1" => event,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that the agent has to say by now.
    fn rest(&mut self) -> Vec<GuestMessage> {
        self.say(&HostMessage::Ping { n: 42 });
        let mut said = Vec::new();
        loop {
            match self.next() {
                GuestMessage::Pong { n: 42 } => return said,
                message => said.push(message),
            }
        }
    }

    /// `kill -9` in the middle of a frame.
    fn die_while_saying(self, message: &HostMessage) {
        let frame = encode(message).unwrap();
        (&mut &*self.stream).write_all(&frame[..frame.len() / 2]).unwrap();
    }
}

/// The agent behind one end of a channel; the other end is returned.
fn serve(guest: &Guest, timeline: Arc<Timeline>) -> UnixStream {
    let (ours, host) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(WITHIN)).unwrap();
    let control = Control::over(File::from(OwnedFd::from(ours)), guest.outbox.clone()).unwrap();
    let parts = (guest.outbox.clone(), guest.logins.clone(), guest.browser.clone());
    let screen = ScreenPassword::at(guest.dir.join("vnc.passwd"), &guest.spec(&[]).user);
    let agent = Agent::new("vm-1".into(), timeline, parts.0, parts.1, parts.2).with_screen(Some(screen), None);
    std::thread::spawn(move || control.run(|message| agent.take(message)));
    host
}

fn timeline(guest: &Guest) -> Arc<Timeline> {
    let file = guest.dir.join("timeline.jsonl");
    let by_init = [Stage::InitStarted, Stage::HandedOver].into_iter().zip(1..);
    let lines = by_init.map(|(stage, seq)| serde_json::to_string(&StageReport::reached(seq, 5, stage)).unwrap() + "\n");
    fs::write(&file, lines.collect::<String>()).unwrap();
    Arc::new(Timeline::open(&file, Path::new("/dev/null"), guest.outbox.clone()))
}

fn as_login(events: &[LoginEvent]) -> Vec<GuestMessage> {
    events.iter().map(|event| GuestMessage::Login { login_id: "login-1".into(), event: event.clone() }).collect()
}

fn runs(guest: &Guest) -> String {
    fs::read_to_string(guest.dir.join("home/ran")).unwrap()
}

/// Writes to the pipe that the tool reads.
fn let_go(guest: &Guest, line: &str) {
    fs::write(guest.dir.join("home/gate"), line).unwrap();
}

#[test]
fn a_daemon_that_comes_back_is_told_everything_once() {
    let guest = Guest::new().with_shim();
    fs::create_dir_all(guest.dir.join("home")).unwrap();
    nix::unistd::mkfifo(&guest.dir.join("home/gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let timeline = timeline(&guest);
    let channel = serve(&guest, timeline.clone());
    let spec: LoginSpec = guest.spec(&["/bin/sh", "-c", TOOL]);

    // The first daemon sees the login up to the credential, and is killed before it acknowledged it.
    let (mut first, stages) = Host::greet(&channel);
    assert_eq!(stages, vec![Stage::InitStarted, Stage::HandedOver]);
    // Who was answered can rely on it.
    let password = fs::read(guest.dir.join("vnc.passwd")).unwrap();
    assert_eq!(password, vnc_auth::password_file(&Sensitive::new("airlock1")));
    timeline.reached(Stage::AgentUp, &[]);
    assert!(matches!(first.next(), GuestMessage::Stage(report) if report.stage == Stage::AgentUp));
    first.say(&HostMessage::StartLogin(spec.clone()));
    let mut seen = vec![first.next_event(), first.next_event()];
    let_go(&guest, "go\n");
    seen.push(first.next_event());
    let started = matches!(seen[0], LoginEvent::ToolStarted { .. });
    let url = Sensitive::new("https://idp.example/authorize");
    assert!(started && seen[1] == LoginEvent::UrlSeen { url, source: UrlSource::Shim }, "{seen:?}");
    let LoginEvent::Captured { files, confirmed: None } = &seen[2] else { panic!("{seen:?}") };
    let [CapturedFile { content, .. }] = &files[..] else { panic!("{seen:?}") };
    assert_eq!(content.expose(), r#"{"token":"t-1"}"#);
    first.die_while_saying(&HostMessage::StartLogin(spec.clone()));

    // Meanwhile the guest lives on. What the dead daemon would have been told is told to the next.
    timeline.reached(Stage::DisplayUp, &[]);
    let_go(&guest, "0\n");
    let exited = LoginEvent::ToolExited { code: Some(0), signal: None };
    let (mut second, stages) = Host::greet(&channel);
    assert_eq!(stages, vec![Stage::InitStarted, Stage::HandedOver, Stage::AgentUp, Stage::DisplayUp]);
    let mut said: Vec<GuestMessage> = (0..4).map(|_| second.next()).collect();
    seen.push(exited);
    assert_eq!(said, as_login(&seen));

    // It starts the login as the first one did. The tool does not run twice, and nothing is said twice.
    second.say(&HostMessage::StartLogin(spec.clone()));
    said = second.rest();
    assert_eq!((said, runs(&guest).as_str()), (vec![], "ran\n"));
    second.say(&HostMessage::CredentialStored { login_id: "login-1".into() });
    assert_eq!(second.rest(), vec![]);
    second.die_while_saying(&HostMessage::Ping { n: 1 });

    // The third daemon has the credential in its store: it is told the login without it.
    let (mut third, stages) = Host::greet(&channel);
    assert_eq!(stages.len(), 4);
    third.say(&HostMessage::StartLogin(spec));
    let stored: Vec<_> = seen.into_iter().filter(|event| !matches!(event, LoginEvent::Captured { .. })).collect();
    assert_eq!((third.rest(), runs(&guest).as_str()), (as_login(&stored), "ran\n"));
}
