//! Every outcome of every probe, in namespaces of the test.
//!
//! ```text
//! installation: br0 192.168.100.1 ── veth ── [guest] 192.168.100.8      (a Linux stack answers ARP, ICMP and TCP)
//!                               └── fc-...  a real TAP, as CreateTap makes it, whom nobody attached to
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use airlock_domain::diagnosis::facts::{NeighbourFacts, Probe};
use airlock_domain::firewall::GuardSpec;
use airlock_domain::network::{EgressSpec, NetworkSpec, TapSpec, Uplink};
use airlock_protocol::{MacAddr, Sensitive, vnc_auth};

use super::*;
use crate::netns::Netns;
use crate::process::{self, SpawnSpec};
use crate::testing::{TestNetns, skip_unless_root};

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 8);
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 77);

fn vm() -> VmId {
    "01234567-89ab-4def-8123-456789abcdef".parse().unwrap()
}

fn subject(address: Ipv4Addr) -> Subject {
    Subject { vm_id: vm(), address, process: None, vms_dir: "/tmp".into(), has_display: false, vnc_password: None }
}

fn ip(namespace: &str, args: &[&str]) {
    assert!(Command::new("ip").args(["-n", namespace]).args(args).status().unwrap().success(), "ip {args:?}");
}

/// Each statement stands on a line of its own.
fn nft(namespace: &str, statements: &[&str]) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "nft", "-f", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(statements.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft {statements:?}");
}

/// A server in the guest.
type Serve = fn(std::net::TcpStream);

/// An installation and a namespace that plays its guest.
struct World {
    network: Network,
    guest: Netns,
    own: TestNetns,
    far: TestNetns,
}

impl World {
    async fn new() -> Self {
        let own = TestNetns::new();
        Self::of(own.spec(), own).await
    }

    async fn of(spec: NetworkSpec, own: TestNetns) -> Self {
        let far = TestNetns::new();
        let network = Network::open(&spec).await.unwrap();
        let guest = Netns::create(far.name()).unwrap();
        let world = Self { network, guest, own, far };
        world.attach("g0", GUEST, MacAddr::from_lease(GUEST));
        world
    }

    /// Gives the guest's namespace an interface on the bridge.
    fn attach(&self, name: &str, address: Ipv4Addr, mac: MacAddr) {
        let (own, far) = (self.own.name(), self.far.name());
        let port = format!("port-{name}");
        let mac = mac.to_string();
        ip(own, &["link", "add", &port, "type", "veth", "peer", "name", name, "address", &mac, "netns", far]);
        ip(own, &["link", "set", &port, "master", "br0", "up"]);
        ip(far, &["addr", "add", &format!("{address}/24"), "dev", name]);
        ip(far, &["link", "set", name, "up"]);
    }

    fn tap(&self) -> String {
        vm().tap_name()
    }

    async fn make_tap(&self) {
        self.network.create_tap_port(&TapSpec::of_vm(vm(), 0)).await.unwrap();
        self.network.guard_tap(&GuardSpec::of_vm(vm(), GUEST)).await.unwrap();
    }

    async fn look(&self, subject: &Subject) -> HostFacts {
        host_facts(&self.network, subject, LIMIT).await
    }

    /// A server in the guest: each connection has a thread that runs `serve`.
    fn serve(&self, port: u16, serve: Serve) {
        let listener = self.guest.run(move || TcpListener::bind((GUEST, port)).unwrap()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
    }
}

async fn tap_of(world: &World) -> Option<TapFacts> {
    world.look(&subject(NOBODY)).await.tap.expect("links are always found out")
}

#[tokio::test]
async fn a_tap_is_told_with_everything_that_can_be_wrong_with_it() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let (own, name) = (world.own.name(), world.tap());
    assert_eq!(tap_of(&world).await, None);
    world.make_tap().await;
    let good = TapFacts {
        alias: Some(vm().to_string()),
        ours: Some(true),
        up: Some(true),
        carrier: Some(false),
        master: Some(Some("br0".into())),
        vnet_hdr: Some(true),
        from_guest_packets: Some(0),
        to_guest_packets: Some(0),
    };
    assert_eq!(tap_of(&world).await.as_ref(), Some(&good));
    ip(own, &["link", "set", &name, "down"]);
    assert_eq!(tap_of(&world).await, Some(TapFacts { up: Some(false), ..good.clone() }));
    ip(own, &["link", "set", &name, "up", "nomaster"]);
    assert_eq!(tap_of(&world).await, Some(TapFacts { master: Some(None), ..good.clone() }));
    ip(own, &["link", "set", &name, "alias", "somebody else"]);
    let seen = tap_of(&world).await.unwrap();
    assert_eq!((seen.ours, seen.alias.as_deref()), (Some(false), Some("somebody else")));
    ip(own, &["link", "delete", &name]);
    // What a hand makes: no virtio-net header, no owner, no alias.
    ip(own, &["tuntap", "add", &name, "mode", "tap"]);
    let seen = tap_of(&world).await.unwrap();
    assert_eq!((seen.vnet_hdr, seen.ours, seen.master), (Some(false), Some(false), Some(None)));
    ip(own, &["link", "delete", &name]);
    ip(own, &["link", "add", &name, "type", "bridge"]);
    let seen = tap_of(&world).await.unwrap();
    assert_eq!((seen.ours, seen.vnet_hdr), (Some(false), None), "no TAP at all");
}

#[tokio::test]
async fn a_bridge_is_told_with_its_addresses() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let own = world.own.name();
    let look = async || world.look(&subject(NOBODY)).await.bridge.expect("links are always found out");
    let good = look().await.unwrap();
    assert_eq!((good.up, good.has_gateway), (Some(true), Some(true)));
    assert_eq!(good.addresses, Some(vec!["192.168.100.1/24".to_owned()]));
    ip(own, &["addr", "flush", "dev", "br0"]);
    ip(own, &["addr", "add", "10.0.0.1/24", "dev", "br0"]);
    let bad = look().await.unwrap();
    assert_eq!((bad.has_gateway, bad.addresses), (Some(false), Some(vec!["10.0.0.1/24".to_owned()])));
    ip(own, &["link", "set", "br0", "down"]);
    assert_eq!(look().await.unwrap().up, Some(false));
    ip(own, &["link", "delete", "br0"]);
    assert_eq!(look().await, None);
}

#[tokio::test]
async fn who_answers_arp_and_icmp_is_told() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let facts = world.look(&subject(GUEST)).await;
    let own = MacAddr::from_lease(GUEST);
    let of = |mac, ours| NeighbourFacts { answered: Some(true), mac: Some(mac), ours: Some(ours) };
    assert_eq!((facts.neighbour, facts.ping), (Some(of(own, true)), Some(Probe::Ok)));
    let nobody = world.look(&subject(NOBODY)).await;
    assert_eq!(nobody.neighbour, Some(NeighbourFacts { answered: Some(false), mac: None, ours: None }));
    assert!(matches!(nobody.ping, Some(Probe::TimedOut | Probe::Unreachable { .. })), "{:?}", nobody.ping);
    assert!(matches!(nobody.tcp, Some(Probe::TimedOut | Probe::Unreachable { .. })), "{:?}", nobody.tcp);
    // A second machine with the guest's address: the stranger is told, whoever is faster.
    let stranger = TestNetns::new();
    Netns::create(stranger.name()).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let (name, far) = (mac.to_string(), stranger.name());
    ip(world.own.name(), &["link", "add", "p1", "type", "veth", "peer", "name", "s0", "address", &name, "netns", far]);
    ip(world.own.name(), &["link", "set", "p1", "master", "br0", "up"]);
    ip(far, &["addr", "add", "192.168.100.8/24", "dev", "s0"]);
    ip(far, &["link", "set", "s0", "up"]);
    assert_eq!(world.look(&subject(GUEST)).await.neighbour, Some(of(mac, false)));
    // Answers ARP and nothing else.
    ip(world.own.name(), &["link", "delete", "p1"]);
    nft(world.far.name(), &["add table ip t", "add chain ip t i { type filter hook input priority 0; policy drop; }"]);
    let deaf = world.look(&subject(GUEST)).await;
    assert_eq!(
        (deaf.neighbour, deaf.ping, deaf.tcp),
        (Some(of(own, true)), Some(Probe::TimedOut), Some(Probe::TimedOut))
    );
    // The way is closed by a route.
    ip(world.own.name(), &["route", "add", "unreachable", "192.168.100.8/32"]);
    let closed = world.look(&subject(GUEST)).await;
    let unreachable = || Some(Probe::Unreachable { errno: "EHOSTUNREACH".into() });
    assert_eq!((closed.ping, closed.tcp, closed.http), (unreachable(), unreachable(), unreachable()));
    assert_eq!(closed.overlap.as_deref(), Some("192.168.100.8/32 dev *"));
}

fn answer(mut stream: std::net::TcpStream, text: &str) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(text.as_bytes());
}

fn health(mut stream: std::net::TcpStream, vm_id: &str) {
    let body =
        format!(r#"{{"status":"ok","build_id":"b","vm_id":"{vm_id}","addresses":[],"uptime_s":1.5,"timeline":[]}}"#);
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
}

async fn http_of(world: &World) -> (Option<Probe>, Option<Probe>) {
    let facts = world.look(&subject(GUEST)).await;
    (facts.tcp, facts.http)
}

#[tokio::test]
async fn the_ways_of_http_to_fail_are_told_apart() {
    if skip_unless_root() {
        return;
    }
    let refused = World::new().await;
    assert_eq!(http_of(&refused).await, (Some(Probe::Refused), Some(Probe::Refused)));
    let good = World::new().await;
    good.serve(HEALTH_PORT, |stream| health(stream, &vm().to_string()));
    assert_eq!(http_of(&good).await, (Some(Probe::Ok), Some(Probe::Ok)));
    let servers: [(Serve, &str); 4] = [
        (|stream| health(stream, "another"), "answers for the VM \"another\""),
        (|stream| answer(stream, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"), "503"),
        (|stream| answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), "not a health report"),
        (|stream| answer(stream, "RFB 003.008\n"), "speak HTTP"),
    ];
    for (serve, says) in servers {
        let world = World::new().await;
        world.serve(HEALTH_PORT, serve);
        let (tcp, http) = http_of(&world).await;
        assert_eq!(tcp, Some(Probe::Ok));
        assert!(matches!(&http, Some(Probe::Wrong { detail }) if detail.contains(says)), "{says}: {http:?}");
    }
    let silent = World::new().await;
    silent.serve(HEALTH_PORT, |stream| {
        let _kept = stream;
        std::thread::park();
    });
    assert_eq!(http_of(&silent).await, (Some(Probe::Ok), Some(Probe::TimedOut)));
}

/// Whole screens of `TestServer`s in the guest, 64 by 48.
fn serve_rfb(mut stream: std::net::TcpStream, cursor: bool, last: [u8; 4]) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n")?;
    let mut client = [0; 12];
    stream.read_exact(&mut client)?;
    assert_eq!(&client, b"RFB 003.008\n");
    stream.write_all(&[2, 2, 1])?;
    stream.read_exact(&mut client[..1])?;
    assert_eq!(client[0], 1);
    stream.write_all(&[0; 4])?;
    stream.read_exact(&mut client[..1])?;
    assert_eq!(client[0], 1, "others may look on");
    stream.write_all(&[0, 64, 0, 48])?;
    stream.write_all(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0])?;
    stream.write_all(b"\0\0\0\x04test")?;
    let mut asked = [0; 20 + 12 + 10];
    stream.read_exact(&mut asked)?;
    assert_eq!(&asked[32..], &[3, 0, 0, 0, 0, 0, 0, 64, 0, 48]);
    // A bell, a clipboard and colours before the frame.
    stream.write_all(&[2, 3, 0, 0, 0, 0, 0, 0, 2, b'h', b'i', 1, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9])?;
    if cursor {
        stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 9, 0, 2])?;
        stream.write_all(&(-239i32).to_be_bytes())?;
        stream.write_all(&[0xff; 9 * 2 * 4 + 2 * 2])?;
    }
    // In two updates, the first one with the upper half.
    for (y, rows) in [(0u8, 24u8), (24, 24)] {
        stream.write_all(&[0, 0, 0, 1, 0, 0, 0, y, 0, 64, 0, rows, 0, 0, 0, 0])?;
        let mut pixels = [5, 6, 7, 0].repeat(64 * usize::from(rows));
        if y > 0 {
            let end = pixels.len() - 4;
            pixels[end..].copy_from_slice(&last);
        }
        stream.write_all(&pixels)?;
    }
    // The client goes when it knows.
    let _ = stream.read(&mut client);
    Ok(())
}

async fn screen_of(serve: Serve) -> (Option<Probe>, Option<bool>, Duration) {
    let world = World::new().await;
    world.serve(RFB_PORT, serve);
    let started = std::time::Instant::now();
    let facts = world.look(&Subject { has_display: true, ..subject(GUEST) }).await;
    (facts.rfb, facts.painted, started.elapsed())
}

#[tokio::test]
async fn a_frame_of_one_colour_is_not_painted_and_a_cursor_paints_nothing() {
    if skip_unless_root() {
        return;
    }
    // The fourth byte of a pixel means nothing.
    let (rfb, painted, _) = screen_of(|stream| serve_rfb(stream, true, [5, 6, 7, 0xff]).unwrap_or_default()).await;
    assert_eq!((rfb, painted), (Some(Probe::Ok), Some(false)));
    let (rfb, painted, _) = screen_of(|stream| serve_rfb(stream, true, [5, 6, 8, 0]).unwrap_or_default()).await;
    assert_eq!((rfb, painted), (Some(Probe::Ok), Some(true)));
}

#[tokio::test]
async fn the_ways_of_rfb_to_fail_are_told_apart() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let facts = world.look(&Subject { has_display: true, ..subject(GUEST) }).await;
    assert_eq!((facts.rfb, facts.painted), (Some(Probe::Refused), None));
    let servers: [(Serve, &str); 4] = [
        (|stream| answer_at_once(stream, b"RFB 003.007\n", b"\x01\x13"), "it asks for a login (security types [19])"),
        (|stream| answer_at_once(stream, b"RFB 005.000\n", b"\0\0\0\0\x03too"), "it refuses: \"too\""),
        (|stream| answer_at_once(stream, b"HTTP/1.1 400 Bad", b""), "it is no RFB server"),
        (|stream| answer_at_once(stream, b"RFB 003.008\n", b"\x01"), "it closed the connection"),
    ];
    for (serve, says) in servers {
        let (rfb, painted, _) = screen_of(serve).await;
        assert!(matches!(&rfb, Some(Probe::Wrong { detail }) if detail.contains(says)), "{says}: {rfb:?}");
        assert_eq!(painted, None);
    }
}

fn answer_at_once(mut stream: std::net::TcpStream, version: &[u8], then: &[u8]) {
    let _ = stream.write_all(version);
    let _ = stream.read_exact(&mut [0; 12]);
    let _ = stream.write_all(then);
    if !then.is_empty() && then != b"\x01" {
        let _ = stream.read(&mut [0]);
    }
}

static SENT: AtomicUsize = AtomicUsize::new(0);

/// Sends `head` and then the same block until nobody takes it.
fn flood(mut stream: std::net::TcpStream, head: &[u8], block: &[u8]) {
    let _ = stream.write_all(head);
    while let Ok(()) = stream.write_all(block) {
        SENT.fetch_add(block.len(), Ordering::Relaxed);
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Of a server that has a word for everything and never comes to an end.
const GREETED: &[u8] = b"RFB 003.008\n\x01\x01\0\0\0\0\x20\0\x20\0----------------\0\0\0\0";

#[tokio::test]
async fn hostile_answers_end_by_the_deadline_in_bounded_memory() {
    if skip_unless_root() {
        return;
    }
    let zeroes: &[u8] = &[0; 64 * 1024];
    assert!(zeroes.iter().all(|byte| *byte == 0));
    let screens: [(Serve, Option<Probe>); 5] = [
        // A name without an end.
        (
            |s| flood(s, b"RFB 003.008\n\x01\x01\0\0\0\0\x20\0\x20\0----------------\xff\xff\xff\xff", &[b'n'; 65536]),
            Some(Probe::Ok),
        ),
        // Clipboards without an end.
        (|s| flood(s, &[GREETED, b"\x03\0\0\0\xff\xff\xff\xff"].concat(), &[b'c'; 65536]), Some(Probe::Ok)),
        // Bells.
        (|s| flood(s, GREETED, &[2; 65536]), Some(Probe::Ok)),
        // A cursor of four billion pixels.
        (
            |s| flood(s, &[GREETED, b"\0\0\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x11"].concat(), &[1; 65536]),
            Some(Probe::Ok),
        ),
        // Nothing at all.
        (
            |s| {
                let _kept = s;
                std::thread::park();
            },
            Some(Probe::TimedOut),
        ),
    ];
    let before = resident_mib();
    for (serve, expected) in screens {
        let (rfb, painted, took) = screen_of(serve).await;
        assert_eq!((rfb, painted), (expected, None));
        assert!(took < Duration::from_millis(2_500), "{took:?}");
    }
    let bodies: [Serve; 3] = [
        |s| flood(s, b"HTTP/1.1 200 OK\r\n\r\n", &[b' '; 65536]),
        |s| flood(s, b"HTTP/1.1 200 OK\r\n", b"x: 1234567890\r\n"),
        |s| flood(s, b"", &[b'H'; 65536]),
    ];
    for serve in bodies {
        let world = World::new().await;
        world.serve(HEALTH_PORT, serve);
        let started = std::time::Instant::now();
        let (_, http) = http_of(&world).await;
        assert!(matches!(http, Some(Probe::Wrong { .. } | Probe::TimedOut)), "{http:?}");
        assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    }
    assert!(SENT.load(Ordering::Relaxed) > 64 << 20, "the servers really poured");
    assert!(resident_mib() < before + 64, "from {before} to {} MiB", resident_mib());
}

/// A program of the test, ended with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_x_server_shakes_hands_and_its_empty_screen_is_black() {
    if skip_unless_root() {
        return;
    }
    if crate::process::find_program("Xvnc").is_none() {
        println!("skipped: Xvnc is not installed (tigervnc-standalone-server)");
        return;
    }
    let world = World::new().await;
    let display = format!(":{}", 1000 + std::process::id() % 20_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwd").display().to_string();
    let start = |security: &str, port: u16| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", world.far.name(), "Xvnc", &display, "-geometry", "800x600", "-depth", "24"]);
        command.args(["-SecurityTypes", security, "-rfbport", &port.to_string(), "-AlwaysShared"]);
        command.args(["-PasswordFile", &file, "-UseBlacklist=0", "-nolisten", "tcp", "-noreset"]);
        Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let shown = Subject { has_display: true, ..subject(GUEST) };
    let when_up = async |wanted: fn(&Probe) -> bool| {
        for _ in 0..20 {
            let facts = world.look(&shown).await;
            if facts.rfb.as_ref().is_some_and(wanted) {
                return facts;
            }
        }
        panic!("no X server within 20 looks");
    };
    let server = start("None", RFB_PORT);
    let facts = when_up(|probe| *probe == Probe::Ok).await;
    assert_eq!(facts.painted, Some(false), "nothing is on it but a cursor");
    let painter = Command::new("xsetroot").args(["-display", &display, "-mod", "7", "7"]).status();
    if painter.is_ok_and(|status| status.success()) {
        assert_eq!(world.look(&shown).await.painted, Some(true));
    } else {
        println!("a painted screen was not tried: xsetroot is not installed");
    }
    drop(server);
    // The way of images: the server runs before there is a password, and reads the file each time somebody wants in.
    let _server = start("VncAuth", RFB_PORT);
    let facts = when_up(|probe| *probe == Probe::Ok).await;
    assert_eq!(facts.painted, None, "nobody is let in without the password, which is as it should be");
    let look = async |password: &str| {
        let vnc_password = Some(Sensitive::new(password));
        let facts = world.look(&Subject { vnc_password, ..shown.clone() }).await;
        (facts.rfb.unwrap(), facts.painted)
    };
    for password in ["airlock1", "another8"] {
        std::fs::write(&file, vnc_auth::password_file(&Sensitive::new(password))).unwrap();
        assert_eq!(look(password).await, (Probe::Ok, Some(false)), "{password}");
        for _ in 0..8 {
            let (refused, painted) = look("mistaken").await;
            assert!(
                matches!(&refused, Probe::Wrong { detail } if detail.starts_with("it refuses the password")),
                "{refused:?}"
            );
            assert_eq!(painted, None);
        }
    }
}

#[tokio::test]
async fn guard_drops_and_foreign_chains_are_told() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let own = world.own.name();
    let look = async || world.look(&subject(GUEST)).await;
    assert_eq!(look().await.guarded, Some(false), "there is none yet");
    world.make_tap().await;
    let facts = look().await;
    assert_eq!((facts.guarded, facts.forward_drops, facts.nat), (Some(true), Some(Vec::new()), None));
    let drops = facts.drops.unwrap();
    assert!(drops.contains_key("foreign_address") && drops.contains_key("guest_to_gateway"), "{drops:?}");
    assert!(drops.contains_key("rp_filter"), "{drops:?}");
    assert_eq!((facts.rp_filter, facts.overlap), (Some(1), None));
    assert!(facts.free_bytes.is_some_and(|bytes| bytes > 0));

    nft(own, &[&format!("flush chain netdev airlock {}", world.tap())]);
    nft(
        own,
        &[
            "add table ip evil",
            "add chain ip evil way { type filter hook forward priority 5; policy drop; }",
            "add table inet odd",
            "add chain inet odd pre { type filter hook prerouting priority 5; }",
            "add rule inet odd pre ip saddr 10.9.9.9 drop",
            "add table inet fair",
            "add chain inet fair way { type filter hook forward priority 6; }",
        ],
    );
    ip(own, &["link", "add", "d0", "type", "bridge"]);
    ip(own, &["link", "set", "d0", "up"]);
    ip(own, &["route", "add", "192.168.100.0/28", "dev", "d0"]);
    let facts = look().await;
    assert_eq!(facts.guarded, Some(false));
    assert_eq!(facts.forward_drops, Some(vec!["ip evil way".to_owned(), "inet odd pre".to_owned()]));
    assert_eq!(facts.overlap.as_deref(), Some("192.168.100.0/28 dev d0"));
}

#[tokio::test]
async fn what_rp_filter_drops_is_counted() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let dropped = async || world.look(&subject(NOBODY)).await.drops.unwrap()["rp_filter"];
    assert_eq!(dropped().await, 0);
    // From where the answer would not go; such a question by ARP would not be answered either.
    ip(world.far.name(), &["addr", "add", "203.0.113.9/24", "dev", "g0"]);
    let gateway = MacAddr::from_lease(world.network.spec().subnet.gateway()).to_string();
    ip(world.far.name(), &["neigh", "replace", "192.168.100.1", "lladdr", &gateway, "dev", "g0"]);
    let send = || {
        let socket = std::net::UdpSocket::bind("203.0.113.9:0").unwrap();
        socket.send_to(b"x", "192.168.100.1:9").unwrap();
    };
    for _ in 0..20 {
        world.guest.run(send).unwrap();
        if dropped().await > 0 {
            return;
        }
    }
    panic!("nothing was counted");
}

#[tokio::test]
async fn address_translation_is_looked_for_on_both_ends() {
    if skip_unless_root() {
        return;
    }
    let isp = TestNetns::new();
    let there = Netns::create(isp.name()).unwrap();
    there.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap()).unwrap();
    let own = TestNetns::new();
    let egress = EgressSpec { uplink: Uplink::Namespace(isp.name().to_owned()), ..EgressSpec::default() };
    let world = World::of(NetworkSpec { egress, ..own.spec() }, own).await;
    let look = async || world.look(&subject(NOBODY)).await;
    assert_eq!(look().await.nat, Some(true));
    nft(isp.name(), &["add table ip fw", "add chain ip fw f { type filter hook forward priority 1; policy drop; }"]);
    assert_eq!(look().await.forward_drops, Some(vec![format!("ip fw f at namespace:{}", isp.name())]));
    nft(isp.name(), &[&format!("flush chain inet airlock-{} postrouting", world.own.name())]);
    assert_eq!(look().await.nat, Some(false));
    world.network.repair().await.unwrap();
    assert_eq!(look().await.nat, Some(true));
    nft(world.own.name(), &["delete chain inet airlock postrouting"]);
    assert_eq!(look().await.nat, Some(false));
}

#[tokio::test]
async fn a_dead_vmm_is_told_at_once_and_its_guest_is_not_asked() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let spawn = |args: &[&str]| SpawnSpec {
        program: "sleep".into(),
        args: args.iter().map(Into::into).collect(),
        dir: "/".into(),
        output: None,
        netns: None,
        pid_namespace: false,
    };
    let handle = process::spawn(spawn(&["60"])).await.unwrap();
    let of = Subject { process: Some(handle.id()), ..subject(GUEST) };
    let facts = world.look(&of).await;
    assert_eq!((facts.vmm_alive, facts.vmm_oom_killed), (Some(true), Some(false)));
    assert_eq!(facts.ping, Some(Probe::Ok));
    handle.kill().unwrap();
    handle.exited().await;
    let started = std::time::Instant::now();
    let facts = world.look(&of).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(facts.vmm_alive, Some(false));
    assert_ne!(facts.vmm_oom_killed, Some(true));
    assert_eq!((facts.neighbour, facts.ping, facts.tcp, facts.http), (None, None, None, None));
    assert!(facts.tap.is_some() && facts.bridge.is_some());
}

#[tokio::test]
async fn the_whole_look_ends_in_time_and_leaves_out_what_it_did_not_find() {
    if skip_unless_root() {
        return;
    }
    let world = World::new().await;
    let started = std::time::Instant::now();
    let facts = host_facts(&world.network, &subject(GUEST), Duration::ZERO).await;
    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(facts.http, None);
    // Everything that can be silent is.
    nft(world.far.name(), &["add table ip t", "add chain ip t i { type filter hook input priority 0; policy drop; }"]);
    let started = std::time::Instant::now();
    let silent = world.look(&Subject { has_display: true, ..subject(GUEST) }).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((silent.http, silent.rfb), (Some(Probe::TimedOut), Some(Probe::TimedOut)));
}

#[test]
fn a_record_of_the_kernel_names_a_process_that_was_killed_for_memory() {
    let process = ProcessId { pid: 812, start_ticks: 100 };
    let line =
        |head: &str, pid: u32| format!("{head};Out of memory: Killed process {pid} (qemu-system-x86) total-vm:1kB");
    assert!(host::names(line("3,341,1000000,-", 812).as_bytes(), process));
    let group = "3,341,1000000,-;Memory cgroup out of memory: Killed process 812 (qemu) total-vm:1kB";
    assert!(host::names(group.as_bytes(), process));
    assert!(!host::names(line("3,341,999999,-", 812).as_bytes(), process), "before it was started");
    assert!(!host::names(line("3,341,1000000,-", 81).as_bytes(), process));
    assert!(!host::names(line("11,341,1000000,-", 812).as_bytes(), process), "a program wrote it");
    for hostile in
        [&b"\xff\xfe;Killed process 812"[..], b"", b";", b"3,1,2", b"3,1,9999999,-;Killed process 99999999999 ("]
    {
        assert!(!host::names(hostile, process));
    }
}

#[test]
fn tables_of_the_kernel_are_read_and_hostile_ones_break_nothing() {
    let netstat =
        "TcpExt: SyncookiesSent IPReversePathFilter TCPTimeWaitOverflow\nTcpExt: 1 42 3\nIpExt: A\nIpExt: 1\n";
    assert_eq!(host::rp_filtered(netstat), Some(42));
    let pool = TestNetns::new().spec().subnet.net();
    for text in
        ["", "x", "TcpExt: IPReversePathFilter", "TcpExt: IPReversePathFilter\nTcpExt:\n", "a\nb\tc\td\n", "\n\n\u{0}"]
    {
        assert_eq!(host::rp_filtered(text), None, "{text:?}");
        assert_eq!(host::overlap(text, "br0", pool, GUEST), None, "{text:?}");
    }
    let route = |device: &str, to: &str, mask: &str| {
        let table = format!("Iface\tDestination\n{device}\t{to}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n");
        host::overlap(&table, "br0", pool, GUEST)
    };
    assert_eq!(route("br0", "0064A8C0", "00FFFFFF"), None, "the bridge's own");
    assert_eq!(route("up0", "0000A8C0", "0000FFFF"), None, "wider than the bridge's own");
    assert_eq!(route("up0", "8064A8C0", "80FFFFFF"), None, "takes others, not this guest");
    assert_eq!(route("up0", "0864A8C0", "FFFFFFFF").as_deref(), Some("192.168.100.8/32 dev up0"));
}
