//! What a guest can and cannot send, shown with raw frames through its TAP in private namespaces.
//!
//! A frame that is dropped leaves no event to wait for. So each test sends an honest frame after the bad ones and waits for its
//! answer: frames of one TAP are dealt with in their order.

pub(super) mod frame;
mod guards;
mod measure;
mod uplink;
pub(super) mod world;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use airlock_domain::network::NetworkSpec;
use airlock_protocol::MacAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::{TestNetns, skip_unless_root};
use world::{GATEWAY, Guest, ISP, Internet, PUBLIC, Wire, address, guard, listen, run};

/// What was dropped, without the rules that dropped nothing.
fn counted(drops: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    drops.iter().filter(|(_, packets)| **packets > 0).map(|(name, packets)| (name.as_str(), *packets)).collect()
}

/// Waits until the table beyond the uplink counted a drop. The packet comes over a wire of its own, so there is nothing else to
/// wait for.
async fn wait_for_drop(world: &Internet, own: &TestNetns, name: &str) {
    let counted = async {
        loop {
            let listed = run(world.isp.name(), "nft", &["list", "table", "inet", &firewall::uplink_table(own.name())]);
            let line = listed.lines().find(|line| line.contains(&format!("comment \"{name}\""))).unwrap().to_owned();
            if !line.contains("counter packets 0 ") {
                return;
            }
            // Lets the clock of the timeout go on.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), counted).await.unwrap_or_else(|_| panic!("no {name}"));
}

async fn guard_drops(network: &Network, tap: &str) -> BTreeMap<String, u64> {
    network.guards().await.unwrap().into_iter().find(|guard| guard.tap == tap).unwrap().drops
}

#[tokio::test]
async fn a_guest_speaks_only_for_itself_and_only_to_the_gateway() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let (guest, other) = (Guest::start(&network, 8).await, Guest::start(&network, 9).await);
    let bridge = Wire::of(network.netns(), "br0");
    let (mac, gateway) = (guest.mac, MacAddr::from_lease(GATEWAY));
    let (strange, nobody) = (MacAddr([6, 0, 1, 2, 3, 4]), Ipv4Addr::new(203, 0, 113, 99));

    let ip = |from, to| frame::udp((from, 4000), (to, 4000), b"x");
    let ethernet = frame::ethernet;
    let good_arp = frame::arp(1, mac, address(8), GATEWAY);
    for (dropped_by, bad) in [
        ("foreign_mac", ethernet(strange, gateway, frame::IPV4, &ip(address(8), GATEWAY))),
        ("foreign_mac", ethernet(other.mac, gateway, frame::ARP, &frame::arp(1, other.mac, address(9), GATEWAY))),
        ("foreign_address", ethernet(mac, gateway, frame::IPV4, &ip(address(9), GATEWAY))),
        ("foreign_address", ethernet(mac, gateway, frame::IPV4, &ip(nobody, GATEWAY))),
        ("foreign_address", ethernet(mac, gateway, frame::IPV4, &ip(Ipv4Addr::UNSPECIFIED, GATEWAY))),
        // No whole header: nothing that could be compared.
        ("foreign_address", ethernet(mac, gateway, frame::IPV4, &ip(address(8), GATEWAY)[..14])),
        // It is the gateway; it is another guest; another guest's MAC is its own; it has another MAC.
        ("foreign_arp", ethernet(mac, frame::BROADCAST, frame::ARP, &frame::arp(2, mac, GATEWAY, address(9)))),
        ("foreign_arp", ethernet(mac, other.mac, frame::ARP, &frame::arp(2, mac, GATEWAY, address(9)))),
        ("foreign_arp", ethernet(mac, frame::BROADCAST, frame::ARP, &frame::arp(1, mac, address(9), GATEWAY))),
        ("foreign_arp", ethernet(mac, gateway, frame::ARP, &frame::arp(2, other.mac, address(8), GATEWAY))),
        // Straight to the other guest, to all of them, and through the gateway.
        ("other_guest", ethernet(mac, other.mac, frame::IPV4, &ip(address(8), address(9)))),
        ("other_guest", ethernet(mac, frame::BROADCAST, frame::IPV4, &ip(address(8), address(255)))),
        ("other_guest", ethernet(mac, gateway, frame::IPV4, &ip(address(8), address(9)))),
        ("ipv6", ethernet(mac, MacAddr([0x33, 0x33, 0, 0, 0, 1]), frame::IPV6, &[0x60; 48])),
        ("vlan", frame::tagged(&ethernet(mac, gateway, frame::IPV4, &ip(address(8), GATEWAY)))),
        ("vlan", frame::tagged(&ethernet(mac, frame::BROADCAST, frame::ARP, &good_arp))),
        // Provider bridging (802.1ad), PPPoE discovery, and a spanning-tree frame, which has a length for a type.
        ("other_protocol", ethernet(mac, gateway, 0x88a8, &[0, 5, 8, 0, 0x45, 0, 0, 0])),
        ("other_protocol", ethernet(mac, gateway, 0x8863, &[0; 46])),
        ("other_protocol", ethernet(mac, MacAddr([1, 0x80, 0xc2, 0, 0, 0]), 38, &[0x42; 46])),
    ] {
        let before = guard_drops(&network, &guest.tap).await;
        guest.send(&bad);
        guest.greet().await;
        let after = guard_drops(&network, &guest.tap).await;
        let new: Vec<&str> =
            after.iter().filter(|(name, n)| before[*name] != **n).map(|(name, _)| name.as_str()).collect();
        assert_eq!(new, [dropped_by], "{bad:02x?}");
        assert_eq!(after[dropped_by], before[dropped_by] + 1);
    }

    // What was allowed to the bridge: the greetings and their answers, and nothing else.
    let passed = bridge.passed();
    assert!(passed.len() >= 2 * 19, "{}", passed.len());
    assert!(passed.iter().all(|frame| frame::ethertype_of(frame) == Some(frame::ARP)), "{passed:02x?}");
    assert!(passed.iter().all(|frame| frame.get(28..32) != Some(&address(9).octets()[..])), "{passed:02x?}");
    assert_eq!(other.receive(), None);
    assert_eq!(counted(&guard_drops(&network, &other.tap).await), BTreeMap::new());
}

/// Guests whose guards somebody took away: what is left between them and the rest.
async fn unguarded(network: &Network, own: &TestNetns, n: u8) -> Guest {
    let guest = Guest::start(network, n).await;
    network.unguard_tap(&guest.tap).await.unwrap();
    run(own.name(), "ip", &["link", "set", &guest.tap, "up"]);
    guest.await_port().await;
    guest
}

#[tokio::test]
async fn ports_do_not_see_each_other_even_without_guards() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&[]));
    let network = Network::open(&world.spec(&own, &[])).await.unwrap();
    let (guest, other) = (unguarded(&network, &own, 8).await, unguarded(&network, &own, 9).await);
    while other.receive().is_some() {}
    let packet = frame::udp((address(8), 4000), (address(9), 4000), b"x");
    guest.send(&frame::ethernet(guest.mac, other.mac, frame::IPV4, &packet));
    guest.send(&frame::ethernet(guest.mac, frame::BROADCAST, frame::IPV4, &packet));
    // The gateway would have to route this one back to where it came from.
    guest.send_ip(&packet);
    guest.greet().await;
    assert_eq!(other.receive(), None);
    // The broadcast frame is for the gateway too.
    assert_eq!(counted(&network.firewall().await.unwrap().drops), BTreeMap::from([("guest_to_guest", 1)]));
}

#[tokio::test]
async fn ipv6_goes_nowhere_even_where_somebody_switched_it_on() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&[]));
    let network = Network::open(&world.spec(&own, &[])).await.unwrap();
    let guest = unguarded(&network, &own, 8).await;
    for (program, args) in [
        ("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.br0.disable_ipv6=0"][..]),
        ("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]),
        ("ip", &["addr", "add", "fd00::1/64", "dev", "br0", "nodad"]),
        ("ip", &["route", "add", "fd01::/64", "dev", "br0"]),
    ] {
        run(own.name(), program, args);
    }
    for to in ["fd00::1", "fd01::1"] {
        let packet = frame::ipv6("fd00::8".parse().unwrap(), to.parse().unwrap());
        guest.send(&frame::ethernet(guest.mac, MacAddr::from_lease(GATEWAY), frame::IPV6, &packet));
    }
    guest.greet().await;
    let drops = network.firewall().await.unwrap().drops;
    // The kernel's own neighbour discovery on the bridge may be among what is dropped on its way in.
    assert!(drops["ipv6_to_gateway"] >= 1, "{drops:?}");
    assert_eq!(drops["ipv6_routed"], 1);
}

#[tokio::test]
async fn an_address_probe_and_a_dhcp_discover_pass() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    let bridge = Wire::of(network.netns(), "br0");
    let probe = frame::arp(1, guest.mac, Ipv4Addr::UNSPECIFIED, address(8));
    guest.send(&frame::ethernet(guest.mac, frame::BROADCAST, frame::ARP, &probe));
    let discover = frame::udp((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67), b"discover");
    guest.send(&frame::ethernet(guest.mac, frame::BROADCAST, frame::IPV4, &discover));
    let passed =
        |wanted: Vec<u8>| move |frame: &[u8]| frame.windows(wanted.len()).any(|part| part == wanted).then_some(());
    bridge.await_frame("the probe", passed(probe)).await;
    bridge.await_frame("the discover", passed(discover)).await;
    assert_eq!(counted(&guard_drops(&network, &guest.tap).await), BTreeMap::new());
}

#[tokio::test]
async fn of_the_gateway_a_guest_reaches_the_served_port_and_its_echo() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&NetworkSpec { served_ports: vec![4080], ..own.spec() }).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    let _served = network.listen((GATEWAY, 4080).into()).await.unwrap();
    let _private = network.listen((GATEWAY, 5000).into()).await.unwrap();
    guest.greet().await;

    guest.send_ip(&frame::syn((guest.address, 40_000), (GATEWAY, 5000)));
    guest.send_ip(&frame::udp((guest.address, 40_000), (GATEWAY, 53), b"x"));
    guest.send_ip(&frame::udp((guest.address, 40_000), (GATEWAY, 4080), b"x"));
    // To every host on the link.
    guest.send_ip(&frame::echo_request(guest.address, Ipv4Addr::BROADCAST));
    guest.send_ip(&frame::echo_request(guest.address, Ipv4Addr::new(224, 0, 0, 1)));
    guest.connect(40_001, (GATEWAY, 4080)).await;
    guest.send_ip(&frame::echo_request(guest.address, GATEWAY));
    guest.await_frame("echo reply", |frame| frame::is_echo_reply(frame).then_some(())).await;

    let seen = network.firewall().await.unwrap();
    assert_eq!(counted(&seen.drops), BTreeMap::from([("guest_to_gateway", 5)]));
    // Nothing but what was asked for was answered.
    assert_eq!(guest.receive(), None);
}

#[tokio::test]
async fn without_egress_there_is_no_way_out() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    for to in [PUBLIC, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254)] {
        guest.send_ip(&frame::syn((guest.address, 40_000), (to, 443)));
    }
    guest.greet().await;
    assert_eq!(counted(&network.firewall().await.unwrap().drops), BTreeMap::from([("no_egress", 3)]));
    assert_eq!(run(own.name(), "ip", &["route", "show", "default"]), "");
    assert_eq!(run(own.name(), "sysctl", &["-n", "net.ipv4.ip_forward"]).trim(), "0");
}

#[tokio::test]
async fn a_guest_reaches_the_internet_and_what_is_allowed_and_nothing_private() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let private: Vec<String> =
        ["10.9.9.9", "172.16.5.5", "192.168.7.7", "100.64.1.1", "198.18.1.1"].map(String::from).to_vec();
    let metadata = "169.254.169.254".to_owned();
    let all: Vec<&str> =
        private.iter().chain([&metadata]).map(String::as_str).chain(["203.0.113.10", "10.1.0.10"]).collect();
    let world = Internet::new(&all);
    let network = Network::open(&world.spec(&own, &["10.1.0.0/16"])).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    let (isp, inet) = (world.netns(&world.isp), world.netns(&world.inet));
    let peer = airlock_domain::network::uplink_peer(own.name());
    let (transit, outside) = (Wire::of(&isp, &peer), Wire::of(&inet, "inet0"));
    let _public = listen(&inet, Ipv4Addr::UNSPECIFIED, 443).await;
    let _host = listen(&isp, Ipv4Addr::UNSPECIFIED, 22).await;
    guest.greet().await;

    for to in private.iter().chain([&metadata]) {
        guest.send_ip(&frame::syn((guest.address, 40_000), (to.parse().unwrap(), 443)));
    }
    // The machine that lends its uplink: its public address, and its end of the transit.
    guest.send_ip(&frame::syn((guest.address, 40_000), (ISP, 22)));
    guest.send_ip(&frame::syn((guest.address, 40_000), (Ipv4Addr::new(198, 18, 77, 1), 22)));
    // What that machine publishes of a container of its own: a public address until it is translated there.
    for args in [
        &["add", "table", "ip", "published"][..],
        &["add", "chain", "ip", "published", "prerouting", "{ type nat hook prerouting priority dstnat; }"],
        &["add", "rule", "ip", "published", "prerouting", "tcp", "dport", "8080", "dnat", "to", "172.16.5.5:443"],
    ] {
        run(world.isp.name(), "nft", args);
    }
    guest.send_ip(&frame::syn((guest.address, 40_000), (ISP, 8080)));
    guest.connect(40_001, (PUBLIC, 443)).await;
    guest.connect(40_002, (Ipv4Addr::new(10, 1, 0, 10), 443)).await;

    let drops = network.firewall().await.unwrap().drops;
    assert_eq!(counted(&drops), BTreeMap::from([("metadata", 1), ("private_net", 6)]));
    let host_side = run(world.isp.name(), "nft", &["list", "table", "inet", &firewall::uplink_table(own.name())]);
    for dropped_by in ["guest_to_uplink_host", "private_net"] {
        assert!(
            host_side.contains(&format!("counter packets 1 bytes 40 drop comment \"{dropped_by}\"")),
            "{host_side}"
        );
    }
    // Translated twice: to our end of the transit, then to the uplink's own address.
    let sources = |wire: &Wire, to: Ipv4Addr| -> Vec<Ipv4Addr> {
        let passed = wire.passed().into_iter().filter_map(|frame| frame::addresses_of(&frame));
        passed.filter(|(_, destination)| *destination == to).map(|(source, _)| source).collect()
    };
    assert_eq!(sources(&transit, PUBLIC), [Ipv4Addr::new(198, 18, 77, 2)]);
    assert_eq!(sources(&outside, PUBLIC), [ISP]);
}

#[tokio::test]
async fn nobody_outside_opens_a_connection_to_a_guest() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let world = Internet::new(&["203.0.113.10"]);
    let network = Network::open(&world.spec(&own, &[])).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    guest.greet().await;
    let _gateway = network.listen((Ipv4Addr::UNSPECIFIED, 4080).into()).await.unwrap();
    let isp = world.netns(&world.isp);
    let peer = airlock_domain::network::uplink_peer(own.name());
    run(world.isp.name(), "ip", &["route", "add", "192.168.100.0/24", "via", "198.18.77.2"]);
    let transit = Wire::of(&isp, &peer);
    for to in ["192.168.100.8", "192.168.100.1", "198.18.77.2"] {
        let to = (to.parse::<Ipv4Addr>().unwrap(), 4080);
        let socket = isp.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let socket = socket.unwrap();
        let _ = socket.connect(&std::net::SocketAddr::from(to).into());
        // It left there; the counter shows that it arrived.
        transit.await_frame("the SYN", |frame| frame::segment_of(frame).filter(|segment| segment.to == to)).await;
    }
    let drops = network.firewall().await.unwrap().drops;
    assert_eq!(counted(&drops), BTreeMap::from([("unasked_from_uplink", 1), ("uplink_to_gateway", 2)]));
    // From farther away it does not even come that far.
    run(world.inet.name(), "ip", &["route", "add", "198.18.77.0/30", "via", "192.0.2.1"]);
    let inet = world.netns(&world.inet);
    let probe = inet.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    probe.send_to(b"x", "198.18.77.2:4080").unwrap();
    wait_for_drop(&world, &own, "unasked_to_guests").await;
    let nearer = isp.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let ours = Wire::of(network.netns(), UPLINK_LINK);
    probe.send_to(b"x", "198.18.77.2:4080").unwrap();
    nearer.send_to(b"x", "198.18.77.2:4080").unwrap();
    let first = ours.await_frame("a datagram", |frame| frame::addresses_of(frame).map(|(source, _)| source)).await;
    assert_eq!(first, Ipv4Addr::new(198, 18, 77, 1));
    assert!(std::iter::from_fn(|| guest.receive()).all(|frame| frame::segment_of(&frame).is_none()));
}

#[tokio::test]
async fn beyond_the_uplink_a_guest_has_no_address_but_ours() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&["203.0.113.10"]));
    let network = Network::open(&world.spec(&own, &[])).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    let outside = Wire::of(&world.netns(&world.inet), "inet0");
    let _public = listen(&world.netns(&world.inet), PUBLIC, 443).await;
    run(own.name(), "nft", &["flush", "chain", "inet", "airlock", "postrouting"]);
    guest.send_ip(&frame::syn((guest.address, 40_000), (PUBLIC, 443)));
    wait_for_drop(&world, &own, "foreign_source").await;
    network.repair().await.unwrap();
    guest.connect(40_001, (PUBLIC, 443)).await;
    let passed = outside.passed();
    assert!(passed.iter().filter_map(|frame| frame::addresses_of(frame)).all(|(source, _)| source != guest.address));
}

#[tokio::test]
async fn opening_again_keeps_guards_and_connections() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let world = Internet::new(&["203.0.113.10"]);
    let spec = world.spec(&own, &[]);
    let network = Network::open(&spec).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    guest.greet().await;
    guest.send(&frame::ethernet(MacAddr([6; 6]), frame::BROADCAST, frame::ARP, &[0; 28]));
    let listener = listen(&world.netns(&world.inet), PUBLIC, 443).await;
    let answer = guest.connect(40_000, (PUBLIC, 443)).await;
    let to =
        frame::Segment { from: answer.to, to: answer.from, seq: answer.ack, ack: answer.seq + 1, flags: frame::ACK };
    guest.send_ip(&frame::tcp(to, b""));
    let (mut stream, _) = listener.accept().await.unwrap();
    let before = network.guards().await.unwrap();
    assert_eq!(counted(&before[0].drops), BTreeMap::from([("foreign_mac", 1)]));

    let again = Network::open(&spec).await.unwrap();

    assert_eq!(again.guards().await.unwrap(), before);
    assert!(before[0].is(&guard(8)));
    guest.send_ip(&frame::tcp(frame::Segment { flags: frame::ACK | frame::PSH, ..to }, b"still here"));
    let mut text = [0; 10];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");
    stream.write_all(b"and back").await.unwrap();
    let back = guest.await_frame("data", |frame| frame.ends_with(b"and back").then(|| frame::segment_of(frame)));
    assert_eq!(back.await.unwrap().from, (PUBLIC, 443));
}
