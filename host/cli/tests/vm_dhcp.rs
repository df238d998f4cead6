//! Real VMs whose own manager asks for its address: the daemon hands out the lease, and they end in `reachable`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::guest::{Guest, config_of};
use support::{Daemon, Installation, Wanted, text};

/// What a change that no event announces may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the agent lets the owner of an interface do what it wants (two seconds), and some more.
const SETTLED: Duration = Duration::from_secs(4);

async fn dhcp(daemon: &Daemon) -> Value {
    let (status, view) = daemon.call("GET", "/api/dhcp", None).await;
    assert_eq!(status, 200, "{view}");
    view
}

fn count(view: &Value, outcome: &str) -> u64 {
    view["outcomes"][outcome].as_u64().unwrap_or(0)
}

/// Something went wrong, or somebody changed the address.
fn is_noted(stage: &Value) -> bool {
    stage["ok"] != true || (stage["stage"] == "address_set" && stage["detail"].is_string())
}

/// The machine has its lease, from the daemon and from nowhere else, and keeps it.
async fn got_its_lease(image: &str) -> Guest {
    let guest = Guest::boot(image, "").await;
    guest.assert_owned_by_the_image();
    let view = dhcp(&guest.daemon).await;
    assert!(view["serving"] == true && count(&view, "ack") >= 1, "{view}\n{}", guest.console);
    assert_eq!(count(&view, "nak") + count(&view, "foreign_mac") + count(&view, "not_sent"), 0, "{view}");
    // An address that ends some day is as good as any: the agent finds nothing to say of it.
    tokio::time::sleep(SETTLED).await;
    let stages = guest.daemon.stages(&guest.vm).await;
    let noted: Vec<&Value> = stages.iter().filter(|stage| is_noted(stage)).collect();
    assert!(noted.is_empty(), "{noted:?}");
    assert_eq!(guest.addresses(), [format!("{}/24", guest.addr)]);
    guest
}

#[tokio::test]
async fn dhcpcd_asks_and_gets_its_lease_and_the_next_daemon_knows_it() {
    need_vms!();
    let mut guest = got_its_lease("dhcp-dhcpcd").await;
    guest.daemon.kill();
    guest.daemon.restart().await;
    let before = dhcp(&guest.daemon).await;
    assert!(before["serving"] == true && before["outcomes"] == json!({}), "{before}");
    // Somebody asks with the machine's MAC, past its guard. The answer goes to the machine all the same.
    let mac =
        support::text(&guest.daemon.call("GET", &format!("/api/vms/{}", guest.vm), None).await.1, "mac").to_owned();
    let asker = Asker::start(&guest.daemon.at.namespace, &mac);
    let heard = asker.ask();
    assert!(!heard.contains("lease of"), "{heard}");
    drop(asker);
    let view = dhcp(&guest.daemon).await;
    assert!(count(&view, "offer") >= 1, "{view}\n{heard}");
    let start = Instant::now();
    while guest.health().is_none() {
        assert!(start.elapsed() < PATIENCE, "{}", guest.said());
    }
}

#[tokio::test]
async fn systemd_networkd_asks_and_gets_its_lease() {
    need_vms!();
    got_its_lease("dhcp-networkd").await;
}

#[tokio::test]
async fn ifupdown_asks_and_gets_its_lease() {
    need_vms!();
    got_its_lease("dhcp-ifupdown").await;
}

#[tokio::test]
async fn network_manager_asks_and_gets_its_lease() {
    need_vms!();
    got_its_lease("dhcp-network-manager").await;
}

#[tokio::test]
async fn where_dhcp_cannot_be_served_the_machine_fails_with_the_reason_and_doctor_says_so() {
    need_vms!();
    let config = config_of("dhcp-dhcpcd", "");
    let at = Installation::new(&Wanted { config: &config, ..Wanted::default() });
    let rival = Rival::start(&at.namespace);
    let daemon = Daemon::on(at).await;
    let view = dhcp(&daemon).await;
    assert_eq!(view["serving"], false);
    let why = text(&view, "failure");
    assert!(why.contains("bind to UDP port 67") && why.contains("Address already in use"), "{why}");

    let started = daemon.start_session("u1", "shell").await;
    let session = daemon.wait_for(text(&started, "sessionId"), &["failed"], PATIENCE).await;
    assert_eq!(text(&session, "cause"), "dhcp_timeout");
    assert!(text(&session["error"], "message").contains("bind to UDP port 67"), "{session}");
    assert!(daemon.log().contains("DHCP is not served"), "{}", daemon.log());
    let doctor = String::from_utf8(daemon.cli(&["doctor"]).stdout).unwrap();
    let line = doctor.lines().find(|line| line.starts_with("warn   dhcp")).unwrap_or_else(|| panic!("{doctor}"));
    assert!(line.contains("bind to UDP port 67"), "{doctor}");

    drop(rival);
    let start = Instant::now();
    while dhcp(&daemon).await["serving"] != true {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.at.assert_nothing_left();
}

/// Somebody else's DHCP server, in a namespace and on a bridge that the daemon finds made already.
struct Rival {
    child: Child,
    _files: tempfile::TempDir,
}

impl Rival {
    fn start(namespace: &str) -> Self {
        ip(&["netns", "add", namespace]);
        for args in [
            &["link", "add", "br0", "type", "bridge"][..],
            &["addr", "add", "192.168.100.1/24", "dev", "br0"],
            &["link", "set", "br0", "up"],
        ] {
            ip(&[&["-n", namespace][..], args].concat());
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let leases = format!("lease_file {}\npidfile {}\n", file("leases"), file("pid"));
        let config = format!("interface br0\nstart 192.168.100.100\nend 192.168.100.110\n{leases}");
        std::fs::write(file("leases"), "").unwrap();
        std::fs::write(file("config"), config).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "busybox", "udhcpd", "-f", &file("config")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let rival = Self { child, _files: dir };
        let start = Instant::now();
        // Port 67 in the kernel's list.
        while !in_namespace(namespace, &["cat", "/proc/net/udp"]).contains(":0043 ") {
            assert!(start.elapsed() < PATIENCE, "nobody took the port");
            std::thread::sleep(Duration::from_millis(10));
        }
        rival
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the bridge without a guard, and a client behind it.
struct Asker<'a>(&'a str);

impl<'a> Asker<'a> {
    fn start(namespace: &'a str, mac: &str) -> Self {
        let asker = Self(namespace);
        for args in [
            &["link", "add", "asker0", "type", "veth", "peer", "name", "asker1"][..],
            &["link", "set", "asker0", "master", "br0", "up"],
            &["link", "set", "asker1", "address", mac, "up"],
        ] {
            ip(&[&["-n", namespace][..], args].concat());
        }
        asker
    }

    fn ask(&self) -> String {
        in_namespace(
            self.0,
            &["busybox", "udhcpc", "-i", "asker1", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", "/bin/true"],
        )
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["-n", self.0, "link", "del", "asker0"]).status();
    }
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
}

/// What a program says there, however it ends.
fn in_namespace(namespace: &str, command: &[&str]) -> String {
    let out = Command::new("ip").args(["netns", "exec", namespace]).args(command).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}
