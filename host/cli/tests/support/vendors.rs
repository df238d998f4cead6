//! The vendors of the real tools, as `e2e/idp` plays them: in a namespace of the test that stands for the internet (RFC 5737 addresses),
//! behind another one that lends the guests its uplink. No packet leaves the two. Both are gone with the value, and so is the process.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use airlock_effects::netns::Netns;
use serde_json::Value;

use super::person::{PASSWORD, USER, root};

/// Where every vendor's name leads, and who says so.
const ADDRESS: &str = "203.0.113.10";

/// The image with every tool and the trust in the vendors' certificates.
pub const IMAGE: &str = "tools-test";

/// A running stand-in for the vendors.
pub struct Vendors {
    host: String,
    beyond: String,
    program: Child,
    seen: Arc<(Mutex<Vec<Value>>, Condvar)>,
}

impl Vendors {
    /// `modes`: options of `e2e/idp/main.mjs`, e.g. `["--github", "denied"]`.
    pub fn start(modes: &[&str]) -> Self {
        let (host, beyond) = (format!("alt-host-{}", std::process::id()), format!("alt-inet-{}", std::process::id()));
        for name in [&host, &beyond] {
            let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            Netns::create(name).unwrap().run(forward).unwrap().unwrap();
        }
        let program = serve(&beyond, modes, &host);
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let mut vendors = Self { host, beyond, program, seen };
        let output = vendors.program.stdout.take().unwrap();
        let seen = vendors.seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                println!("vendors: {line}");
                seen.0.lock().unwrap().extend(serde_json::from_str::<Value>(&line));
                seen.1.notify_all();
            }
        });
        vendors.wait_for("the vendors are ready", Duration::from_secs(20), |line| line["ready"] == true);
        vendors
    }

    /// Lines of a daemon's configuration: the way out, who answers for names, and the image for these providers.
    pub fn config(&self, providers: &[&str]) -> String {
        let images: Vec<String> = providers.iter().map(|provider| format!("{provider} = \"{IMAGE}\"")).collect();
        format!(
            "provider_images = {{ {} }}\n[network.egress]\nuplink = \"namespace:{}\"\n[network.guest]\ndns = [\"{ADDRESS}\"]\n",
            images.join(", "),
            self.host
        )
    }

    /// Waits until a line of the stand-in is `wanted`.
    pub fn wait_for(&self, what: &str, deadline: Duration, wanted: impl Fn(&Value) -> bool) {
        let end = Instant::now() + deadline;
        let mut seen = self.seen.0.lock().unwrap();
        while !seen.iter().any(&wanted) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {deadline:?}: {what}; seen {seen:#?}");
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Signs in at a vendor's page elsewhere than in the machine, and returns the code that the page shows.
    pub fn code_of(&self, page: &str) -> String {
        // Not as an argument: the address is a secret as long as the sign-in lasts.
        let config = format!("url = \"{page}\"\ndata = \"user={USER}&password={PASSWORD}\"\n");
        let mut curl = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.host,
                "curl",
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--config",
                "-",
            ])
            .arg("--cacert")
            .arg(certificates().join("ca.pem"))
            .args(["--connect-to", &format!("::{ADDRESS}:443")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        curl.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        let answer = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        let shown = answer.split_once("Your code</h1><p>").and_then(|(_, rest)| rest.split_once("</p>"));
        shown.unwrap_or_else(|| panic!("the page shows no code: {answer}")).0.to_owned()
    }

    /// How often `path` of `name` was answered with `status`.
    pub fn answered(&self, name: &str, path: &str, status: u16) -> usize {
        let seen = self.seen.0.lock().unwrap();
        let it = |line: &&Value| line["name"] == name && line["path"] == path && line["status"] == status;
        seen.iter().filter(it).count()
    }
}

impl Drop for Vendors {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
        for name in [&self.host, &self.beyond] {
            let _ = Netns::delete(name);
        }
    }
}

/// Wires the namespaces and starts the stand-in in the outer one.
fn serve(beyond: &str, modes: &[&str], host: &str) -> Child {
    ip(host, &["link", "add", "wan", "type", "veth", "peer", "name", "lan", "netns", beyond]);
    ip(host, &["address", "add", "203.0.113.1/24", "dev", "wan"]);
    ip(beyond, &["address", "add", "203.0.113.10/24", "dev", "lan"]);
    for (name, link) in [(host, "wan"), (beyond, "lan"), (host, "lo"), (beyond, "lo")] {
        ip(name, &["link", "set", link, "up"]);
    }
    ip(host, &["route", "add", "default", "via", ADDRESS]);
    Command::new("ip")
        .args(["netns", "exec", beyond, "node", "e2e/idp/main.mjs", "--address", ADDRESS, "--user", USER])
        .arg("--certificates")
        .arg(certificates())
        .args(modes)
        .current_dir(root())
        .env("E2E_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn certificates() -> PathBuf {
    let dir = root().join("e2e/idp/tools-test");
    assert!(dir.join("key.pem").exists(), "{}: scripts/test makes it before it builds the image", dir.display());
    dir
}

fn ip(namespace: &str, args: &[&str]) {
    assert!(Command::new("ip").args(["-n", namespace]).args(args).status().unwrap().success(), "{args:?}");
}
