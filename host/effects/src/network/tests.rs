//! Against the real kernel, each in a namespace of its own.

use std::net::SocketAddr;
use std::process::Command;

use airlock_domain::network::TapSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::Removed;
use crate::testing::{TestNetns, chain, skip_unless_root};

const ID: &str = "01234567-89ab-4def-8123-456789abcdef";

fn tap_of(id: &str) -> TapSpec {
    TapSpec::of_vm(id.parse().unwrap(), 0)
}

/// What iproute2 prints: an independent witness.
fn ip(guard: &TestNetns, args: &[&str]) -> String {
    let output = Command::new("ip").args(["-n", guard.name()]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn open(guard: &TestNetns) -> Network {
    Network::open(&guard.spec()).await.unwrap()
}

#[tokio::test]
async fn open_makes_repairs_and_repeats() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let bridge = ip(&guard, &["addr", "show", "br0"]);
    assert!(bridge.contains("inet 192.168.100.1/24") && bridge.contains("UP"), "{bridge}");
    assert!(bridge.contains("06:00:c0:a8:64:01"), "{bridge}");
    assert!(!bridge.contains("inet6"), "{bridge}");
    assert!(ip(&guard, &["link", "show", "lo"]).contains("UP"));

    ip(&guard, &["addr", "del", "192.168.100.1/24", "dev", "br0"]);
    ip(&guard, &["addr", "add", "10.1.2.3/8", "dev", "br0"]);
    ip(&guard, &["link", "set", "br0", "down"]);
    let again = open(&guard).await;
    let bridge = ip(&guard, &["addr", "show", "br0"]);
    assert!(
        bridge.contains("inet 192.168.100.1/24") && !bridge.contains("10.1.2.3") && bridge.contains("UP"),
        "{bridge}"
    );
    drop(again);

    network.delete().await.unwrap();
    assert!(!Netns::exists(guard.name()));
}

#[tokio::test]
async fn a_tap_is_ours_whole_and_made_once() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let spec = TapSpec { owner_uid: 1234, ..tap_of(ID) };
    network.ensure_tap(&spec).await.unwrap();
    let shown = ip(&guard, &["-d", "link", "show", "fc-0123456789"]);
    for fact in [&format!("alias {ID}"), "master br0", "isolated on", "vnet_hdr on", "user 1234", "persist on", "UP"] {
        assert!(shown.contains(fact), "{fact:?} is not in {shown}");
    }
    let taps = network.taps().await.unwrap();
    assert_eq!(taps.len(), 1);
    assert_eq!((taps[0].alias.as_str(), taps[0].master.as_deref()), (ID, Some("br0")));
    assert!(taps[0].up && taps[0].isolated && !taps[0].carrier);
    assert_eq!(taps[0].vnet_hdr, Some(true));

    network.ensure_tap(&spec).await.unwrap();
    ip(&guard, &["link", "set", "fc-0123456789", "nomaster", "down"]);
    network.ensure_tap(&spec).await.unwrap();
    let shown = ip(&guard, &["-d", "link", "show", "fc-0123456789"]);
    assert!(shown.contains("master br0") && shown.contains("isolated on") && shown.contains("UP"), "{shown}");

    assert_eq!(network.delete_tap(&spec).await.unwrap(), Removed::Yes);
    assert_eq!(network.delete_tap(&spec).await.unwrap(), Removed::WasAbsent);
    assert_eq!(network.taps().await.unwrap(), []);
}

#[tokio::test]
async fn a_tap_of_somebody_else_is_never_taken_nor_deleted() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let first = tap_of(ID);
    // The same first ten hex digits, another VM.
    let second = tap_of("01234567-8999-4def-8123-456789abcdef");
    assert_eq!(first.name, second.name);
    network.ensure_tap(&first).await.unwrap();
    let error = network.ensure_tap(&second).await.unwrap_err();
    assert_eq!(error.cause(), Some("tap_name_collision"));
    assert_eq!(network.delete_tap(&second).await.unwrap_err().cause(), Some("tap_name_collision"));
    assert_eq!(network.taps().await.unwrap()[0].alias, ID);

    // A TAP without any owner is not ours either; nor is something that is no TAP.
    ip(&guard, &["tuntap", "add", "fc-aaaaaaaaaa", "mode", "tap"]);
    let nobodys = TapSpec { name: "fc-aaaaaaaaaa".into(), ..tap_of(ID) };
    assert_eq!(network.ensure_tap(&nobodys).await.unwrap_err().cause(), Some("tap_name_collision"));
    ip(&guard, &["link", "add", "fc-bbbbbbbbbb", "type", "bridge"]);
    let bridge = TapSpec { name: "fc-bbbbbbbbbb".into(), ..tap_of(ID) };
    assert!(matches!(network.delete_tap(&bridge).await, Err(NetworkError::NotA { wanted: "TAP", .. })));
}

#[tokio::test]
async fn a_tap_without_virtio_header_is_refused() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    ip(&guard, &["tuntap", "add", "fc-0123456789", "mode", "tap"]);
    ip(&guard, &["link", "set", "fc-0123456789", "alias", ID]);
    assert_eq!(network.ensure_tap(&tap_of(ID)).await.unwrap_err().cause(), Some("tap_no_vnet_hdr"));
}

#[tokio::test]
async fn a_missing_bridge_and_a_full_bridge_have_names() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    ip(&guard, &["link", "del", "br0"]);
    assert_eq!(network.ensure_tap(&tap_of(ID)).await.unwrap_err().cause(), Some("bridge_missing"));
    network.repair().await.unwrap();
    network.ensure_tap(&tap_of(ID)).await.unwrap();
    let full = io::Error::from_raw_os_error(libc::EXFULL);
    let error = NetworkError::AttachToBridge { tap: "fc-1".into(), bridge: "br0".into(), source: full };
    assert_eq!(error.cause(), Some("bridge_ports_exhausted"));
}

#[tokio::test]
async fn twenty_five_taps_at_once() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..25 {
        let network = network.clone();
        let spec = tap_of(&format!("{number:08x}-0000-4def-8123-456789abcdef"));
        tasks.spawn(async move { network.ensure_tap(&spec).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let taps = network.taps().await.unwrap();
    assert_eq!(taps.iter().filter(|tap| tap.isolated && tap.master.as_deref() == Some("br0")).count(), 25);
}

#[tokio::test]
async fn sockets_and_commands_are_inside() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let listener = network.listen("192.168.100.1:0".parse().unwrap()).await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"inside").await.unwrap();
    });
    let mut stream = network.tcp_socket().await.unwrap().connect(addr).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    serving.await.unwrap();
    assert_eq!(text, "inside");
    // The test's own namespace does not have that address.
    assert!(tokio::net::TcpListener::bind(addr).await.is_err());

    let output = network.command("ip").unwrap().args(["-br", "addr", "show", "br0"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("192.168.100.1/24"));
}

#[tokio::test]
async fn errors_keep_their_cause() {
    if skip_unless_root() {
        return;
    }
    let guard = TestNetns::new();
    let network = open(&guard).await;
    let error = network.listen("10.9.9.9:1".parse().unwrap()).await.unwrap_err();
    assert_eq!(
        chain(&error),
        [
            format!("open a socket in namespace {} for listening on 10.9.9.9:1", guard.name()),
            "Cannot assign requested address (os error 99)".into()
        ]
    );
    let bad = TapSpec { name: "fc/1".into(), ..tap_of(ID) };
    let error = network.ensure_tap(&bad).await.unwrap_err();
    assert_eq!(chain(&error), ["TUNSETIFF on TAP fc/1", "Invalid argument (os error 22)"]);
    let bad_spec = NetworkSpec { namespace: "no/slash".into(), ..guard.spec() };
    let error = Network::open(&bad_spec).await.unwrap_err();
    assert_eq!(chain(&error)[1], "\"no/slash\" cannot name a network namespace");
}
