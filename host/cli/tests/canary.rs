//! A sign-in with marked secrets, and then a search for the marks everywhere: files, log (at trace level), database pages, evidence,
//! errors of the API, command lines and environments of all processes, and the daemon's own memory. Found may be: what is sealed,
//! which is not found.
//!
//! The daemon is the real program. Its machine is a process that does nothing, made as a daemon before it would have; the guest's
//! part is played here, over the control socket, as the agent does. Real machines: `vm_secrets.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::admission::Limits;
use airlock_domain::boot::TimelineEntry;
use airlock_domain::evidence::EvidenceLimits;
use airlock_domain::network::NetworkSpec;
use airlock_domain::session::SessionState;
use airlock_domain::vmm::{DriverKind, Nic, VmPlan, VmmSpec};
use airlock_domain::{SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_effects::network::Network;
use airlock_effects::steps::LinuxEffects;
use airlock_effects::vmm::Drivers;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_engine::Moment;
use airlock_engine::executor::Executor;
use airlock_engine::records::{SessionRecord, VmState};
use airlock_engine::store::{Accepted, NewSession, Room, Store};
use airlock_image::Manifest;
use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::{CapturedFile, GuestMessage, HostMessage, LoginEvent, UrlSource, VERSION};
use airlock_protocol::{MacAddr, Sensitive, Stage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::canary::{held, in_files, in_memory, in_processes};
use support::{Daemon, Installation, Wanted, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Notify;

const URL: &str = "canary-url-parameter-7f3a";
const STATE: &str = "canary-state-7f3b";
const CALLBACK: &str = "canary-callback-code-7f3c";
const USER_CODE: &str = "canary-user-code-7f3d";
const TYPED: &str = "canary-typed-code-7f3e";
const ACCESS: &str = "canary-access-token-7f40";
const REFRESH: &str = "canary-refresh-token-7f41";
const CONSOLE_CODE: &str = "canary-console-code-7f42";
const CONSOLE_TOKEN: &str = "canary-console-token-7f43";
const WRITTEN_BACK: &str = "canary-written-back-7f44";
/// What must not be found.
const MARKS: [&str; 10] =
    [URL, STATE, CALLBACK, USER_CODE, TYPED, ACCESS, REFRESH, CONSOLE_CODE, CONSOLE_TOKEN, WRITTEN_BACK];
const SOON: Duration = Duration::from_secs(30);

/// What an earlier daemon would have left: a session whose machine is ready.
struct Earlier {
    store: Store,
    executor: Executor,
    image: String,
    state_dir: PathBuf,
}

impl Earlier {
    async fn new(at: &Installation) -> Self {
        let state_dir = at.state.path().to_owned();
        for name in ["kernel", "initramfs", "rootfs"] {
            fs::write(state_dir.join(name), "x").unwrap();
        }
        fs::create_dir_all(state_dir.join("vms")).unwrap();
        let image = publish_image(&state_dir);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let store = Store::open(&state_dir.join("airlock.db"), host.trim()).await.unwrap();
        let spec = NetworkSpec { namespace: at.namespace.clone(), ..NetworkSpec::default() };
        let network = Network::open(&spec).await.unwrap();
        let effects = LinuxEffects::new(network, Arc::new(Drivers::only(Arc::new(FakeDriver::new()))), &state_dir);
        let executor = Executor::new(store.clone(), Arc::new(effects), &state_dir, EvidenceLimits::default());
        Self { store, executor, image, state_dir }
    }

    async fn ready(&self, user: &str) -> SessionRecord {
        let new = NewSession {
            id: SessionId::from_uuid(uuid::Uuid::new_v4()),
            vm_id: VmId::from_uuid(uuid::Uuid::new_v4()),
            user_id: user.into(),
            provider: "demo".into(),
            idempotency_key: None,
            image: self.image.clone(),
            driver: DriverKind::QemuTcg,
            memory_mib: 64,
            now: Moment::now(),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned(),
            lasts_ms: 600_000,
        };
        let room = Room {
            limits: Limits { sessions_per_user: 0, ..Limits::default() },
            subnet: NetworkSpec::default().subnet,
            memory_mib: 1 << 30,
            available_mib: 1 << 30,
        };
        let Accepted::Begun(session) = self.store.accept(&new, &room).await.unwrap() else { panic!("not begun") };
        self.executor.start(&self.plan(&session)).await.unwrap();
        for (stage, at_ms) in Stage::ALL.iter().zip([0.0, 1.0, 2.0].into_iter().chain(std::iter::repeat(3.0))) {
            let entry = TimelineEntry { stage: *stage, ok: true, at_ms, guest_us: None, errno: None, detail: None };
            self.store.add_stage(session.vm_id, &entry).await.unwrap();
        }
        self.store.set_vm_state(session.vm_id, VmState::Ready, None, 1).await.unwrap();
        assert!(self.store.move_session(session.id, session.state, SessionState::AwaitingUser, None, 1).await.unwrap());
        self.store.session(session.id).await.unwrap().unwrap()
    }

    fn vm_dir(&self, vm_id: VmId) -> PathBuf {
        self.state_dir.join("vms").join(vm_id.dir_name())
    }

    fn plan(&self, session: &SessionRecord) -> VmPlan {
        let (vm_id, address) = (session.vm_id, session.address.unwrap());
        let [kernel, initramfs, rootfs] = ["kernel", "initramfs", "rootfs"].map(|name| self.state_dir.join(name));
        let vmm = VmmSpec {
            vm_id,
            dir: self.vm_dir(vm_id),
            kernel,
            kernel_elf: None,
            initramfs,
            rootfs,
            cmdline: String::new(),
            memory_mib: 64,
            vcpus: 1,
            nics: vec![Nic { tap: Some(vm_id.tap_name()), mac: MacAddr::from_lease(address) }],
            transport: Default::default(),
            seed: None,
            uid: None,
        };
        VmPlan { address, driver: session.driver, driver_reason: "a test".into(), vmm }
    }
}

/// What the guest does when it is asked to log in, in its order. Ends with the host's connection.
async fn guest(listener: UnixListener, session: SessionId, vm: VmId, captures: bool, asked: Arc<Notify>) {
    let (mut host, _) = listener.accept().await.unwrap();
    let (mut decoder, mut bytes) = (Decoder::new(), vec![0; 65536]);
    let said = |event| GuestMessage::Login { login_id: session.to_string(), attempt: 1, event };
    loop {
        let count = host.read(&mut bytes).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        decoder.push(&bytes[..count]);
        while let Some(message) = decoder.next_message::<HostMessage>() {
            let answers = match message {
                HostMessage::Hello { .. } => {
                    let (build_id, vm_id) = (String::new(), vm.to_string());
                    vec![GuestMessage::Hello { version: VERSION, build_id, vm_id, addresses: vec![], timeline: vec![] }]
                }
                HostMessage::StartLogin(_) => {
                    asked.notify_one();
                    let url = format!("https://idp.test/authorize?client_id=c&{URL}=1&state={STATE}&redirect_uri=x");
                    let callback = format!("http://127.0.0.1:1455/cb?code={CALLBACK}&state={STATE}");
                    vec![
                        said(LoginEvent::ToolStarted { pid: 7, flow: None }),
                        said(LoginEvent::UrlSeen { url: Sensitive::new(url), source: UrlSource::Shim }),
                        said(LoginEvent::UrlSeen { url: Sensitive::new(callback), source: UrlSource::Screen }),
                        said(LoginEvent::PageOpened),
                        said(LoginEvent::UserCode {
                            code: Sensitive::new(USER_CODE),
                            url: Sensitive::new("https://idp.test/device"),
                        }),
                        said(LoginEvent::CodeWanted),
                        GuestMessage::Pong { n: 1 },
                    ]
                }
                // The test's word that the person is done.
                HostMessage::Reach { id, .. } if captures => {
                    let content =
                        json!({"access_token": ACCESS, "nested": {"refresh_token": REFRESH}, "escaped": "a\"b\\c\n"});
                    let file = CapturedFile {
                        path: ".airlock-demo/credentials.json".into(),
                        mode: 0o600,
                        modified_ms: 1,
                        expires_ms: None,
                        content: Sensitive::new(content.to_string()),
                    };
                    let outcome = airlock_protocol::message::ReachOutcome::Connected;
                    vec![
                        GuestMessage::Reached { id, outcome, ms: 1.0 },
                        said(LoginEvent::Captured { files: vec![file], confirmed: Some(true) }),
                    ]
                }
                _ => vec![],
            };
            for answer in answers {
                let _ = host.write_all(&encode(&answer).unwrap()).await;
            }
        }
    }
}

#[tokio::test]
async fn marked_secrets_of_a_sign_in_are_found_nowhere() {
    let name = format!("airlock-canary-probe-{}", std::process::id());
    if Netns::create(&name).is_err() {
        println!("skipped: no network namespace can be made here (run as root)");
        return;
    }
    Netns::delete(&name).unwrap();
    let state = tempfile::Builder::new().prefix("airlock-canary-").tempdir().unwrap();
    let at = Installation::in_dir(state, &Wanted { config: "driver = \"qemu-tcg\"", ..Wanted::default() });
    let earlier = Earlier::new(&at).await;
    let (signs_in, fails) = (earlier.ready("u1").await, earlier.ready("u2").await);
    let (mut guests, asked) = (Vec::new(), Arc::new(Notify::new()));
    for (session, captures) in [(&signs_in, true), (&fails, false)] {
        let socket = UnixListener::bind(earlier.vm_dir(session.vm_id).join("agent.sock")).unwrap();
        let asked = if captures { asked.clone() } else { Arc::default() };
        guests.push(tokio::spawn(guest(socket, session.id, session.vm_id, captures, asked)));
    }
    // A guest's console may say anything.
    let console = format!(
        "agent: https://idp.test/authorize?code={CONSOLE_CODE}&state={STATE}\n{{\"access_token\":\"{CONSOLE_TOKEN}\"}}\n\
         Authorization: Bearer {CONSOLE_TOKEN}\n"
    );
    fs::write(earlier.vm_dir(fails.vm_id).join("console.log"), console).unwrap();
    let log = fs::File::create(at.state.path().join("daemon.log")).unwrap();
    let mut serve = at.serve();
    serve.env("AIRLOCK_LOG", "trace").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let (child, base) = (serve.spawn().unwrap(), format!("http://127.0.0.1:{}", at.port));
    let daemon = Daemon::attach(child, at, base).await;
    let pid = daemon.child.id();
    let (id, vm) = (signs_in.id.to_string(), signs_in.vm_id.to_string());
    tokio::time::timeout(SOON, asked.notified()).await.expect("the guest is asked to log in");
    for id in [&id, &fails.id.to_string()] {
        daemon.wait_until(id, "asking for a code", SOON, |session| session["login"]["codeWanted"] == true).await;
    }

    // The person types a code, whatever the tool makes of it; and sends it to the wrong place as well.
    let mut answers = String::new();
    for (method, path, body) in [
        ("POST", format!("/api/auth/session/{id}/code"), json!({"code": TYPED})),
        ("POST", format!("/api/auth/session/{id}/code"), json!({"code": [TYPED]})),
        ("POST", format!("/api/auth/session/{id}/code"), json!({TYPED: 1})),
        ("PUT", "/api/auth/credentials/u1/demo".to_owned(), json!({"version": 1, "fence": 1, "files": WRITTEN_BACK})),
        ("PUT", "/api/auth/credentials/u1/demo".to_owned(), json!({"version": WRITTEN_BACK, "fence": 1, "files": []})),
        ("GET", format!("/api/auth/session/{id}"), Value::Null),
        ("GET", format!("/api/auth/session/{id}/timeline"), Value::Null),
        ("GET", format!("/api/vms/{vm}/diagnosis"), Value::Null),
    ] {
        let (_, mut answer) = daemon.call(method, &path, (!body.is_null()).then_some(body)).await;
        // The code that the person types at the provider is shown, by the view of a session that is not over, and there only.
        if let Some(login) = answer.get_mut("login").and_then(Value::as_object_mut) {
            assert_eq!(login.remove("userCode"), Some(USER_CODE.into()), "{path}");
        }
        answers.push_str(&answer.to_string());
    }
    // Now the tool has written its file.
    let reach = json!({"target": {"kind": "tcp", "address": "192.168.100.1:1"}});
    let asked = daemon.call("POST", &format!("/api/vms/{vm}/reach"), Some(reach)).await;
    assert_eq!(asked.0, 200, "{}", asked.1);
    daemon.wait_for(&id, &["completed"], SOON).await;
    daemon.call("DELETE", &format!("/api/vms/{vm}"), None).await;
    // The other machine dies, and what its console said is evidence.
    let process = earlier.store.vm(fails.vm_id).await.unwrap().unwrap().process.unwrap();
    support::signal(u32::try_from(process.pid).unwrap(), "KILL");
    let failed = daemon.wait_for(&fails.id.to_string(), &["failed"], SOON).await;
    daemon.call("DELETE", &format!("/api/vms/{}", fails.vm_id), None).await;
    answers.push_str(&failed.to_string());
    let evidence = text(&failed, "evidenceId").to_owned();
    let (_, shown) = daemon.call("GET", &format!("/api/evidence/{evidence}"), None).await;
    assert!(shown.to_string().contains("redacted"), "the console is in the evidence: {shown}");
    answers.push_str(&shown.to_string());
    for path in ["/api/audit", "/metrics", "/api/auth/credentials/u1", "/api/vault"] {
        answers.push_str(&daemon.call("GET", path, None).await.1.to_string());
    }
    let (status, receipt) = daemon.call("GET", &format!("/api/auth/session/{id}/receipt"), None).await;
    assert_eq!(status, 200, "{receipt}");

    // Read, refreshed and written back: what passed through the daemon is not kept by it either.
    let (status, read) = daemon.call("GET", "/api/auth/credentials/u1/demo", None).await;
    assert!(status == 200 && read.to_string().contains(ACCESS), "the mark is in the vault");
    let (_, lease) =
        daemon.call("POST", "/api/auth/credentials/u1/demo/lease", Some(json!({"holder": "r", "ttlS": 60}))).await;
    let file = json!({"path": ".airlock-demo/credentials.json", "mode": 384, "content": format!("{{\"access_token\":\"{WRITTEN_BACK}\"}}")});
    let body = json!({"version": lease["version"], "fence": lease["fence"], "files": [file]});
    let (status, written) = daemon.call("PUT", "/api/auth/credentials/u1/demo", Some(body)).await;
    assert_eq!(status, 200, "{written}");
    answers.push_str(&written.to_string());
    let to = tempfile::tempdir().unwrap();
    let out = daemon.cli(&["credentials", "export", "u1", "demo", "--to", to.path().to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!in_files(to.path(), &MARKS).is_empty(), "the search finds what is there");
    for args in [
        vec!["credentials", "ls", "u1"],
        vec!["credentials", "show", "u1", "demo"],
        vec!["audit", "ls"],
        vec!["vault", "status"],
    ] {
        let out = daemon.cli(&args);
        answers.push_str(&String::from_utf8_lossy(&out.stdout));
        answers.push_str(&String::from_utf8_lossy(&out.stderr));
    }
    // Connections that are kept for the next request keep their buffers.
    let daemon = daemon.without_connections().await;

    assert_eq!(held(answers.as_bytes(), &MARKS), [""; 0], "in answers of the API or the command line");
    let found = in_files(daemon.at.state.path(), &MARKS);
    assert!(found.is_empty(), "in files: {found:?}");
    let log = daemon.log();
    assert!(log.contains("TRACE") && log.contains(&id), "the log is the one that was meant");
    let found = in_processes(&MARKS);
    assert!(found.is_empty(), "in processes: {found:?}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let told = log.contains("memory may be swapped");
    assert!(kib("VmLck:") > kib("VmRSS:") || told, "neither kept from swap nor told: {status}");
    let found = in_memory(pid, &MARKS);
    println!("{}", json!({"canary": "daemon", "marks": MARKS.len(), "memory": found.len()}));
    assert!(found.is_empty(), "in the daemon's memory: {found:#?}");
    let token: Vec<_> = in_memory(pid, &[&id]);
    assert!(!token.is_empty(), "the search of its memory finds what is there");
    guests.into_iter().for_each(|guest| guest.abort());
}

/// An image that is whole by its manifest; nothing of it is ever run. Returns its reference.
fn publish_image(state_dir: &Path) -> String {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let files = [("vmlinuz", "no kernel"), ("initramfs", "no initramfs"), ("rootfs.erofs", "no root")];
    let [kernel, initramfs, rootfs] =
        files.map(|(name, content)| json!({"name": name, "sha256": hex(content.as_bytes()), "size": content.len()}));
    let manifest: Manifest = serde_json::from_value(json!({
        "format": 1, "name": "base", "recipe_digest": "0", "build_id": "0", "epoch": 0, "suite": "none", "memory_mib": 64, "vcpus": 1,
        "network_owner": "airlock", "readiness": ["reachable"], "root_fs": "erofs", "modules": [],
        "kernel": {"package": "none", "release": "0", "config": {}},
        "files": {"kernel": kernel, "initramfs": initramfs, "rootfs": rootfs}, "services": [], "packages": {},
    }))
    .unwrap();
    let text = toml::to_string(&manifest).unwrap();
    let reference = format!("base@sha256:{}", hex(text.as_bytes()));
    let dir = state_dir.join("images").join(&reference);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("manifest.toml"), text).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    fs::write(state_dir.join("images/base.current"), &reference).unwrap();
    reference
}
