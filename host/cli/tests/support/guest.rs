//! A machine of an image that a test looks at, through a daemon of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Daemon, Wanted, text};

/// A distribution under systemd on an emulated CPU that others use too.
pub const BOOT: Duration = Duration::from_secs(180);

/// How long a machine that is ready may take to say what else it does.
const SAYS_WITHIN: Duration = Duration::from_secs(90);

const OF_NETWORK: [&str; 4] = ["link_up", "address_set", "route_set", "gateway_reachable"];

/// A machine of an image, awaited until it is ready.
pub struct Guest {
    pub daemon: Daemon,
    pub vm: String,
    pub session: String,
    pub addr: Ipv4Addr,
    /// Stages with their times, as they happened.
    pub stages: Vec<(String, f64)>,
    /// What it said until it was ready.
    pub console: String,
}

impl Guest {
    /// `config`: more lines of the daemon's configuration.
    pub async fn boot(image: &str, config: &str) -> Self {
        let config = config_of(image, config);
        Self::of(Daemon::start(&Wanted { config: &config, ..Wanted::default() }).await, image).await
    }

    /// A machine of a daemon whose configuration is [`config_of`] the image.
    pub async fn of(daemon: Daemon, image: &str) -> Self {
        let started = daemon.start_session("u1", "shell").await;
        let session = daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
        let vm = text(&session, "vmId").to_owned();
        let timeline = daemon.stages(&vm).await;
        assert!(timeline.iter().all(|entry| entry["ok"] == true), "{timeline:?}");
        let stage = |entry: &Value| (text(entry, "stage").to_owned(), entry["atMs"].as_f64().unwrap());
        let stages: Vec<_> = timeline.iter().map(stage).collect();
        assert!(stages.windows(2).all(|pair| pair[0].1 <= pair[1].1), "times decrease: {stages:?}");
        assert_eq!(stages.last().unwrap().0, "ready");
        assert_eq!(stages.len(), 19, "{stages:?}");
        println!("{image}: reachable after {:.0} ms", stages[17].1);
        let console = daemon.at.vms_dir().join(format!("vm-{vm}/console.log"));
        let console = std::fs::read_to_string(console).unwrap();
        let addr = text(&started, "browserIP").parse().unwrap();
        let session = text(&started, "sessionId").to_owned();
        Self { daemon, vm, session, addr, stages, console }
    }

    /// Who became PID 1, and how the agent lives beside it, as init said.
    pub fn assert_handed_over(&self, kind: &str, mode: &str) {
        let line = self.console.lines().find(|line| line.contains("\"stage\":\"handed_over\"")).unwrap();
        assert!(line.contains(&format!("\"kind\":\"{kind}\"")), "{line}");
        assert!(line.contains(&format!("\"mode\":\"{mode}\"")), "{line}");
    }

    fn place(&self, wanted: &str) -> usize {
        self.stages.iter().position(|(stage, _)| stage == wanted).unwrap()
    }

    /// The network came up before the root was mounted, by airlock-init.
    pub fn assert_owned_by_airlock(&self) {
        assert!(OF_NETWORK.iter().all(|stage| self.place(stage) < self.place("root_mounted")), "{:?}", self.stages);
    }

    /// The network came up beside the agent, by a manager of the image.
    pub fn assert_owned_by_the_image(&self) {
        assert!(OF_NETWORK.iter().all(|stage| self.place(stage) > self.place("handed_over")), "{:?}", self.stages);
    }

    /// What the image's own application serves; it starts beside the agent, so it may be a moment later.
    pub async fn page(&self, path: &str) -> String {
        for _ in 0..100 {
            if let Some(page) = self.try_get(8000, path) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nothing at {path}:\n{}", self.console);
    }

    /// One request over the guest's network.
    pub fn try_get(&self, port: u16, path: &str) -> Option<String> {
        let url = format!("http://{}:{port}{path}", self.addr);
        let namespace = self.daemon.at.namespace.as_str();
        let curl = ["curl", "--silent", "--fail", "--max-time", "2", url.as_str()];
        let out = self.daemon.cli(&[&["net", "exec", "--namespace", namespace, "--"][..], &curl].concat());
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }

    /// The machine's directory on the host.
    pub fn dir(&self) -> PathBuf {
        self.daemon.at.vms_dir().join(format!("vm-{}", self.vm))
    }

    /// What it has said until now.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir().join("console.log")).unwrap()).into_owned()
    }

    /// Waits until the console holds `text`; returns all of it.
    pub async fn says(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let said = self.said();
            if said.contains(text) {
                return said;
            }
            assert!(start.elapsed() < SAYS_WITHIN, "no {text:?} on the console:\n{said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The agent's health, if it answers.
    pub fn health(&self) -> Option<Value> {
        self.try_get(8080, "/health").and_then(|text| serde_json::from_str(&text).ok())
    }

    /// Addresses that the guest itself says it has.
    pub fn addresses(&self) -> Vec<String> {
        let health = self.health().unwrap_or_default();
        let addresses = health["addresses"].as_array().cloned().unwrap_or_default();
        addresses.iter().map(|address| text(address, "addr").to_owned()).collect()
    }

    /// The machine at the end of a stage, in milliseconds from the request.
    pub fn at(&self, stage: &str) -> f64 {
        self.stages[self.place(stage)].1
    }
}

/// A configuration under which the provider `shell` boots `image`.
pub fn config_of(image: &str, more: &str) -> String {
    format!("boot_deadline_s = 180\nprovider_images = {{ shell = {image:?} }}\n{more}")
}
