//! A server that stands in for Firecracker's API: it judges every request by the OpenAPI file and by the order of things, answers
//! as they say, and can be made to fail in the ways a process does. [`conformance`] holds it against the real binary.
//!
//! As a process of its own it is this test program, started by a script (see [`program`]): a driver then has something to hold,
//! to release, to watch and to kill.

mod conformance;
pub mod openapi;
pub mod order;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use openapi::OpenApi;
use order::{Answer, Instance};

/// Every request that was answered, in the directory that the server works in.
pub const RECORD: &str = "requests.log";
const MODE: &str = "AIRLOCK_CONTRACT_MODE";
const PROCESS: &str = "vmm::firecracker::contract::process";

/// How a server fails, at the request that it names (`PUT /actions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Good,
    /// It never answers.
    Slow,
    /// It closes the connection without an answer.
    Closed,
    /// It closes the connection in the middle of one.
    Half,
    /// It answers more than anybody should read.
    Huge,
    /// It answers something that is no HTTP.
    Noise,
    /// It is of another version.
    Version,
    /// The process ends with 0, having said why.
    Ends,
    /// It takes the start and runs nothing.
    NotRunning,
    /// It attaches to none of the TAPs that it answers 204 for.
    NoTaps,
}

const MODES: [(Mode, &str); 10] = [
    (Mode::Good, "good"),
    (Mode::Slow, "slow"),
    (Mode::Closed, "closed"),
    (Mode::Half, "half"),
    (Mode::Huge, "huge"),
    (Mode::Noise, "noise"),
    (Mode::Version, "version"),
    (Mode::Ends, "ends"),
    (Mode::NotRunning, "not-running"),
    (Mode::NoTaps, "no-taps"),
];

/// A program that is called like Firecracker and is a contract server, in a directory of its own.
pub fn program(dir: &Path, mode: Mode, at: &str) -> PathBuf {
    let name = MODES.iter().find(|(known, _)| *known == mode).unwrap().1;
    let path = dir.join(format!("firecracker-{name}"));
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in --version) echo 'Firecracker v1.16.1'; exit 0 ;; esac\n\
         {MODE}='{name} {at}' exec '{}' --exact {PROCESS} --ignored --nocapture --test-threads=1\n",
        test.display()
    );
    // Written under another name, so that nobody runs a program that is open for writing.
    let mut file = File::create(path.with_extension("new")).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    drop(file);
    fs::rename(path.with_extension("new"), &path).unwrap();
    path
}

/// The server as a process; run by [`program`]'s script only.
#[test]
#[ignore = "a process that other tests start"]
fn process() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let (name, at) = mode.split_once(' ').unwrap();
    let mode = MODES.iter().find(|(_, known)| *known == name).unwrap().0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(super::calls::API_SOCKET).unwrap();
        Server::new(mode, at).serve(listener).await;
    });
}

/// A server.
pub struct Server {
    api: OpenApi,
    instance: Mutex<Instance>,
    mode: Mode,
    at: String,
    attached: Mutex<Vec<File>>,
}

impl Server {
    pub fn new(mode: Mode, at: &str) -> Arc<Self> {
        let (instance, attached) = (Mutex::default(), Mutex::default());
        Arc::new(Self { api: OpenApi::load(), instance, mode, at: at.to_owned(), attached })
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(self.clone().talk(stream));
        }
    }

    async fn talk(self: Arc<Self>, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        while let Some((method, path, body)) = read_request(&mut stream).await {
            let hit = self.mode != Mode::Good && format!("{method} {path}") == self.at;
            let (status, mut answer) = self.answer(&method, &path, &body);
            record(&method, &path, &body, status);
            let fails = if hit { self.mode } else { Mode::Good };
            match fails {
                Mode::Slow => std::future::pending().await,
                Mode::Closed => return,
                Mode::Ends => {
                    println!("contract [x:main:ERROR] KVM gave up");
                    std::process::exit(0);
                }
                Mode::Version => answer = json!({"firecracker_version": "2.0.0"}),
                Mode::NotRunning => answer = json!({"id": "contract", "state": "Not started"}),
                Mode::Huge => answer = json!({"fault_message": "x".repeat(8 << 20)}),
                Mode::Good | Mode::Half | Mode::Noise | Mode::NoTaps => {}
            }
            let text = match (fails, status) {
                (Mode::Noise, _) => "\u{1}\u{2}\u{3} this is no HTTP\r\n\r\n".to_owned(),
                (_, 204) if answer.is_null() => {
                    "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n".into()
                }
                _ => {
                    let body = answer.to_string();
                    let status = if status == 204 { 200 } else { status };
                    format!(
                        "HTTP/1.1 {status} \r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                }
            };
            let bytes = if fails == Mode::Half { &text.as_bytes()[..text.len() / 2] } else { text.as_bytes() };
            if stream.get_mut().write_all(bytes).await.is_err() || fails == Mode::Half {
                return;
            }
            if method == "PUT"
                && path == "/actions"
                && status == 204
                && body.windows(14).any(|w| w == b"SendCtrlAltDel")
            {
                stream.get_mut().shutdown().await.unwrap();
                std::process::exit(0);
            }
        }
    }

    /// The answer to a request, and what follows from it.
    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let refused = |why: String| (400, json!({"fault_message": why}));
        let Some(operation) = self.api.find(method, path) else {
            return refused(format!("Invalid request method and/or path: {method} {path}."));
        };
        let body = match self.api.judge(&operation, body) {
            Ok(body) => body,
            Err(why) => return refused(why),
        };
        let mut instance = self.instance.lock().unwrap();
        let taken = instance.take(&operation, &body).unwrap_or_else(refused);
        if taken.0 == 204 {
            match operation.id.as_str() {
                "createSyncAction" if body["action_type"] == "InstanceStart" => {
                    if let Some(console) = &instance.console {
                        OpenOptions::new()
                            .create(true)
                            .append(true)
                            .open(console)
                            .unwrap()
                            .write_all(b"contract guest\n")
                            .unwrap();
                    }
                }
                "putGuestNetworkInterfaceByID" if self.mode != Mode::NoTaps => {
                    self.attach(instance.taps.last().unwrap());
                }
                "putGuestVsock" => guest_without_agent(instance.vsock.clone().unwrap()),
                _ => {}
            }
        }
        taken
    }

    /// As a VMM does; one that cannot says nothing, as Firecracker does not say that a TAP is not there.
    fn attach(&self, tap: &str) {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if let Ok(tun) = opened
            && crate::sys::tun_attach(&tun, tap, flags).is_ok()
        {
            self.attached.lock().unwrap().push(tun);
        }
    }
}

/// A vsock with nobody behind it: what connects is closed.
fn guest_without_agent(socket: String) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
}

fn record(method: &str, path: &str, body: &[u8], status: u16) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let body = if body.is_null() { String::new() } else { format!(" {body}") };
    let line = format!("{method} {path}{body} -> {status}\n");
    // A server inside a test has no directory of its own; nobody reads its record.
    if std::env::var_os(MODE).is_some() {
        OpenOptions::new().create(true).append(true).open(RECORD).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Method, path and body; none at the end.
async fn read_request(stream: &mut BufReader<UnixStream>) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok().filter(|count| *count > 0)?;
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((method, path, body))
}
