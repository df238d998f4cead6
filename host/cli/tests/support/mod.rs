//! A real daemon for one test: `airlock serve` as a child with a state directory, a namespace and a port of its own.
//!
//! Images and build cache are those of `AIRLOCK_TEST_STATE`, shared read-only by links. Dropping the daemon ends it, by its
//! pid, and removes its namespace, also when the test failed.

// Each test binary uses a part of this module.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod canary;
pub mod guest;
pub mod outside;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const AIRLOCK: &str = env!("CARGO_BIN_EXE_airlock");

/// Why the real-VM tests cannot run here; `None` if they can.
pub fn skipped() -> Option<&'static str> {
    let reason = match std::env::var_os("AIRLOCK_TEST_STATE") {
        None => "AIRLOCK_TEST_STATE names no state directory with built images (scripts/test sets it)",
        Some(_) if !Path::new("/dev/net/tun").exists() => "/dev/net/tun is missing",
        Some(_) => return None,
    };
    println!("skipped: {reason}");
    Some(reason)
}

/// Ends the test, counted as skipped, where real VMs cannot run.
#[macro_export]
macro_rules! need_vms {
    () => {
        if support::skipped().is_some() {
            return;
        }
    };
}

pub fn images() -> PathBuf {
    PathBuf::from(std::env::var_os("AIRLOCK_TEST_STATE").unwrap())
}

/// What a test wants to be different from the default.
pub struct Wanted<'a> {
    /// More lines of the configuration, before its tables.
    pub config: &'a str,
    /// More tables of the configuration.
    pub tables: &'a str,
    /// `[network] subnet`.
    pub subnet: &'a str,
    /// The demonstration server's password; none: it is off.
    pub demo_password: Option<&'a str>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { config: "", tables: "", subnet: "192.168.100.1/24", demo_password: None }
    }
}

/// A state directory with the shared images in it, a namespace name and a configuration file; no daemon yet.
pub struct Installation {
    pub state: tempfile::TempDir,
    pub namespace: String,
    pub port: u16,
    pub config: PathBuf,
}

impl Installation {
    pub fn new(wanted: &Wanted<'_>) -> Self {
        let state = tempfile::Builder::new().prefix("airlock-vm-").tempdir().unwrap();
        for dir in ["images", "cache"] {
            std::os::unix::fs::symlink(images().join(dir), state.path().join(dir)).unwrap();
        }
        Self::in_dir(state, wanted)
    }

    pub fn in_dir(state: tempfile::TempDir, wanted: &Wanted<'_>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("alt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = state.path().join("airlock.toml");
        let demo = wanted.demo_password.map_or(String::new(), |password| {
            format!("[demo_idp]\nenabled = true\nuser = \"alice\"\npassword = \"{password}\"\n")
        });
        let text = format!(
            "state_dir = {:?}\nlisten = \"127.0.0.1:{port}\"\n{}\n[network]\nnamespace = \"{namespace}\"\nsubnet = \"{}\"\n{demo}{}",
            state.path(),
            wanted.config,
            wanted.subnet,
            wanted.tables
        );
        fs::write(&config, text).unwrap();
        Self { state, namespace, port, config }
    }

    /// `airlock serve` on this installation, not started.
    pub fn serve(&self) -> Command {
        let mut command = Command::new(AIRLOCK);
        command.arg("serve").arg("--config").arg(&self.config);
        command
    }

    pub fn vms_dir(&self) -> PathBuf {
        self.state.path().join("vms")
    }

    /// `ip` inside the namespace.
    pub fn ip(&self, args: &[&str]) {
        let out = Command::new("ip").args(["-n", &self.namespace]).args(args).output().unwrap();
        assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// What `ip -json` shows inside the namespace.
    pub fn ip_json(&self, args: &[&str]) -> Value {
        let out = Command::new("ip").args(["-json", "-n", &self.namespace]).args(args).output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Names of the TAPs in the namespace.
    pub fn taps(&self) -> Vec<String> {
        let out = Command::new("ip").args(["-n", &self.namespace, "-o", "link"]).output().unwrap();
        assert!(out.status.success(), "ip link: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines()
            .filter_map(|line| line.split(": ").nth(1))
            .filter(|name| name.starts_with("fc-"))
            .map(Into::into)
            .collect()
    }

    /// Processes that work in a VM's directory of this installation, or name one in their command line.
    pub fn vmms(&self) -> Vec<i32> {
        let vms = self.vms_dir();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|dir| dir.starts_with(&vms));
            let names_it = fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(vms.to_str().unwrap()));
            if works_there || names_it {
                found.push(pid);
            }
        }
        found
    }

    /// Asserts that nothing of any VM is left: TAP, process, directory, lease.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.taps(), [""; 0], "TAPs left");
        assert_eq!(self.vmms(), [0; 0], "VMMs left");
        let left: Vec<_> = fs::read_dir(self.vms_dir()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "directories left: {left:?}");
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // A test that failed between two daemons leaves its machines behind.
        for pid in self.vmms() {
            eprintln!("ending process {pid} that the test left in {}", self.vms_dir().display());
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        let out = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
        if let Ok(out) = &out
            && !out.status.success()
        {
            eprintln!("namespace {}: {}", self.namespace, String::from_utf8_lossy(&out.stderr).trim());
        }
    }
}

/// A running daemon.
pub struct Daemon {
    pub child: Child,
    pub base: String,
    pub token: String,
    pub at: Installation,
    client: reqwest::Client,
}

impl Daemon {
    pub async fn start(wanted: &Wanted<'_>) -> Self {
        Self::on(Installation::new(wanted)).await
    }

    pub async fn on(at: Installation) -> Self {
        let log = fs::File::create(at.state.path().join("daemon.log")).unwrap();
        let child = at.serve().stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let base = format!("http://127.0.0.1:{}", at.port);
        Self::attach(child, at, base).await
    }

    /// `kill -9`, and nothing else: its machines live on.
    pub fn kill(&mut self) {
        signal(self.child.id(), "KILL");
        self.child.wait().unwrap();
    }

    /// Another daemon on the same installation, with another environment; waits until it answers.
    pub async fn restart_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.try_wait().unwrap().is_some(), "the first one still runs");
        let path = self.at.state.path().join("daemon.log");
        let log = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let mut serve = self.at.serve();
        serve.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = serve.spawn().unwrap();
        let started = Instant::now();
        while self.client.get(format!("{}/health", self.base)).send().await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log());
            assert!(started.elapsed() < Duration::from_secs(20), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
    }

    /// What `airlock_leaked_resources` says, summed.
    pub async fn leaked(&self) -> u64 {
        let text = self.client.get(format!("{}/metrics", self.base)).send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with("airlock_leaked_resources{"));
        let values: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(values.len(), 5, "{text}");
        values.iter().sum()
    }

    /// Waits until a daemon that was started answers.
    pub async fn attach(child: Child, at: Installation, base: String) -> Self {
        let mut daemon = Self { child, base, token: String::new(), at, client: reqwest::Client::new() };
        let started = Instant::now();
        while daemon.client.get(format!("{}/health", daemon.base)).send().await.is_err() {
            let ended = daemon.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < Duration::from_secs(20),
                "no daemon ({ended:?}):\n{}",
                daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let token = fs::read_to_string(daemon.at.state.path().join("admin.token")).unwrap();
        daemon.token = token.trim().to_owned();
        daemon
    }

    /// The same daemon, behind the end of every connection to it.
    pub async fn without_connections(mut self) -> Self {
        self.client = reqwest::Client::new();
        let started = Instant::now();
        // The kernel tells nobody when another process has closed a socket.
        while self.connections() > 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "{} connections are kept", self.connections());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    /// Connections that the daemon has with clients, by the kernel's table (proc_net_tcp: address and port in hexadecimal digits; 0A
    /// listens, 06 is closed on this side).
    fn connections(&self) -> usize {
        let ours = format!(":{:04X}", self.at.port);
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields[1].ends_with(&ours) && !matches!(fields[3], "0A" | "06")).count()
    }

    /// What each thread of the daemon waits for, by /proc: of one that does not answer it says where it hangs.
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let facts = tasks.map(|task| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().to_owned();
            format!("thread {:?} {} waits in {}: {}\n", task.file_name(), read("comm"), read("wchan"), read("syscall"))
        });
        facts.collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.at.state.path().join("daemon.log")).unwrap_or_default()
    }

    /// One request with the admin token: status and JSON body.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call_as(&self.token, method, path, body).await
    }

    pub async fn call_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let sent = request.timeout(Duration::from_secs(60)).send().await;
        let response = sent.unwrap_or_else(|error| panic!("{path}: {error:?}\n{}", self.threads()));
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Starts a session; returns the answer of `POST /api/auth/start`.
    pub async fn start_session(&self, user: &str, provider: &str) -> Value {
        let (status, answer) =
            self.call("POST", "/api/auth/start", Some(json!({"userId": user, "provider": provider}))).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub async fn session(&self, id: &str) -> Value {
        let (status, session) = self.call("GET", &format!("/api/auth/session/{id}"), None).await;
        assert_eq!(status, 200, "{session}");
        session
    }

    /// Follows the session's live events until it is in one of `states`; returns it. Panics with the log when it ends otherwise.
    pub async fn wait_for(&self, id: &str, states: &[&str], deadline: Duration) -> Value {
        let is_in = |session: &Value| session["state"].as_str().is_some_and(|state| states.contains(&state));
        self.wait_until(id, &format!("{states:?}"), deadline, is_in).await
    }

    /// [`Daemon::wait_for`] until the session is as `wanted`.
    pub async fn wait_until(&self, id: &str, what: &str, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let follow = async {
            let url = format!("{}/api/auth/session/{id}/events", self.base);
            let mut response = self.client.get(url).bearer_auth(&self.token).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let mut text = String::new();
            while let Some(chunk) = response.chunk().await.unwrap() {
                text.push_str(&String::from_utf8_lossy(&chunk));
                while let Some(end) = text.find("\n\n") {
                    let event: String = text.drain(..end + 2).collect();
                    let data = event.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
                    let data: Value = data.and_then(|data| serde_json::from_str(data).ok()).unwrap_or(Value::Null);
                    if data["state"].is_string() && wanted(&data) {
                        return data;
                    }
                }
            }
            panic!("session {id} ended as {}\n{}", self.session(id).await, self.log());
        };
        match tokio::time::timeout(deadline, follow).await {
            Ok(session) => session,
            Err(_) => {
                panic!("session {id} is not {what} after {deadline:?}: {}\n{}", self.session(id).await, self.log())
            }
        }
    }

    pub async fn stages(&self, vm: &str) -> Vec<Value> {
        let (status, timeline) = self.call("GET", &format!("/api/vms/{vm}/timeline"), None).await;
        assert_eq!(status, 200, "{timeline}");
        timeline["stages"].as_array().unwrap().clone()
    }

    /// Runs the CLI against this daemon.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(AIRLOCK)
            .args(args)
            .env("AIRLOCK_SERVER", &self.base)
            .env("AIRLOCK_STATE_DIR", self.at.state.path())
            .env_remove("AIRLOCK_TOKEN")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// SIGINT, and wait for an orderly end of daemon and machines.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// A signal that asks for the end, and wait for it.
    pub fn end(&mut self, name: &str) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        signal(self.child.id(), name);
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- daemon.log\n{}", self.log());
        }
    }
}

/// A text field of a body.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// `GET path` over the guest's network, from inside the namespace, through `airlock net exec`.
pub fn http_in_namespace(daemon: &Daemon, addr: Ipv4Addr, port: u16, path: &str) -> String {
    let script = format!("exec 3<>/dev/tcp/{addr}/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let out = daemon.cli(&["net", "exec", "--namespace", &daemon.at.namespace, "--", "bash", "-c", &script]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Asserts order and times of a timeline, and that it holds exactly `stages`.
pub fn assert_timeline(timeline: &[Value], stages: &[&str]) {
    let names: Vec<_> = timeline.iter().map(|entry| entry["stage"].as_str().unwrap()).collect();
    assert_eq!(names, stages);
    assert!(timeline.iter().all(|entry| entry["ok"] == true), "{timeline:?}");
    let times: Vec<_> = timeline.iter().map(|entry| entry["atMs"].as_f64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "times decrease: {times:?}");
}

/// Every line a command prints, as it comes (for tests of progress).
pub fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}
