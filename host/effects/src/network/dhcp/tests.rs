//! The server in namespaces of its own: guests of raw frames behind guarded TAPs, and a client that others wrote.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use airlock_domain::firewall;
use airlock_domain::network::{GuestNetwork, NetworkSpec};
use airlock_protocol::MacAddr;
use dhcproto::v4::{self, DhcpOption, Flags, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable};

use super::*;
use crate::netns::Netns;
use crate::network::isolation_tests::frame;
use crate::network::isolation_tests::world::{GATEWAY, Guest, address, guard, run, vm};
use crate::testing::{TestNetns, chain as error_chain, skip_unless_root};

/// What an event that must come may take at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// Records in memory: the guests that have a lease.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<BTreeSet<u8>>>);

impl Records {
    fn of(live: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(live.iter().copied().collect())))
    }

    fn holder(&self) -> LeaseHolder {
        let records = self.0.clone();
        Arc::new(move |address| {
            let n = address.octets()[3];
            let found = records.lock().unwrap().contains(&n).then(|| vm(n));
            Box::pin(async move { if n == 66 { Err("the disk is gone".into()) } else { Ok(found) } })
        })
    }
}

fn spec(own: &TestNetns) -> NetworkSpec {
    let guest = GuestNetwork {
        dns: vec!["9.9.9.9".parse().unwrap(), "10.0.0.53".parse().unwrap()],
        search: vec!["a.example".into(), "b.example".into()],
        mtu: Some(1400),
    };
    NetworkSpec { guest, ..own.spec() }
}

async fn serve(own: &TestNetns, records: &Records) -> (Network, DhcpServer) {
    let network = Network::open(&spec(own)).await.unwrap();
    let server = network.serve_dhcp(Terms::of(network.spec(), 7200), records.holder()).await;
    assert!(server.status().failure.is_none(), "{:?}", server.status());
    (network, server)
}

/// A client's message, ready to be changed.
fn message(mac: MacAddr, kind: MessageType) -> v4::Message {
    let mut message = v4::Message::default();
    message.set_xid(77).set_chaddr(&mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

/// The frame of a client without an address.
fn unbound(source: MacAddr, message: &v4::Message) -> Vec<u8> {
    broadcast(source, &message.to_vec().unwrap())
}

fn broadcast(source: MacAddr, payload: &[u8]) -> Vec<u8> {
    let packet = frame::udp((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67), payload);
    frame::ethernet(source, frame::BROADCAST, frame::IPV4, &packet)
}

/// Destinations of frame and packet, and the message of a frame that comes from the server.
fn from_server(frame: &[u8]) -> Option<(MacAddr, Ipv4Addr, v4::Message)> {
    let (source, to) = frame::addresses_of(frame)?;
    if source != GATEWAY || frame.get(34..38)? != [0, 67, 0, 68] {
        return None;
    }
    let message = v4::Message::decode(&mut dhcproto::Decoder::new(frame.get(42..)?)).ok()?;
    Some((MacAddr(frame[..6].try_into().unwrap()), to, message))
}

async fn answer(guest: &Guest) -> (Ipv4Addr, v4::Message) {
    let (mac, to, message) = guest.await_frame("DHCP answer", from_server).await;
    assert_eq!(mac, guest.mac, "not to the guest alone");
    (to, message)
}

fn kind(message: &v4::Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

#[tokio::test]
async fn a_guest_gets_its_lease_and_no_other_guest_hears_of_it() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let (network, server) = serve(&own, &Records::of(&[8, 9])).await;
    let (guest, other) = (Guest::start(&network, 8).await, Guest::start(&network, 9).await);
    while other.receive().is_some() {}

    // The bridge learns no MAC: had the answer to pass it, every port would get it.
    run(own.name(), "ip", &["link", "set", "br0", "type", "bridge", "ageing_time", "0"]);
    guest.send(&unbound(guest.mac, &message(guest.mac, MessageType::Discover)));
    let (to, offer) = answer(&guest).await;
    assert_eq!((to, offer.yiaddr(), kind(&offer)), (address(8), address(8), MessageType::Offer));

    let mut selects = message(guest.mac, MessageType::Request);
    selects.set_flags(Flags::default().set_broadcast());
    selects.opts_mut().insert(DhcpOption::RequestedIpAddress(address(8)));
    selects.opts_mut().insert(DhcpOption::ServerIdentifier(GATEWAY));
    guest.send(&unbound(guest.mac, &selects));
    let (to, ack) = answer(&guest).await;
    assert_eq!((to, ack.yiaddr(), kind(&ack)), (Ipv4Addr::BROADCAST, address(8), MessageType::Ack));
    assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(7200)));

    // Renewing, to the server alone, and rebinding, to all.
    let mut renews = message(guest.mac, MessageType::Request);
    renews.set_ciaddr(address(8));
    for to in [GATEWAY, Ipv4Addr::BROADCAST] {
        guest.send_ip(&frame::udp((address(8), 68), (to, 67), &renews.to_vec().unwrap()));
        let (to, ack) = answer(&guest).await;
        assert_eq!((to, ack.yiaddr(), kind(&ack)), (address(8), address(8), MessageType::Ack));
    }

    // After a reboot with another installation's address.
    let mut reboots = message(guest.mac, MessageType::Request);
    reboots.opts_mut().insert(DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 1, 2, 3)));
    guest.send(&unbound(guest.mac, &reboots));
    let (to, nak) = answer(&guest).await;
    assert_eq!((to, nak.yiaddr(), kind(&nak)), (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, MessageType::Nak));

    other.greet().await;
    assert_eq!(other.receive(), None);
    let expected = BTreeMap::from([("ack", 3), ("nak", 1), ("offer", 1)]);
    assert_eq!(server.status().outcomes, expected);
    let drops = network.firewall().await.unwrap().drops;
    assert!(drops.values().all(|packets| *packets == 0), "{drops:?}");
}

#[tokio::test]
async fn who_has_no_lease_or_asks_for_another_hears_nothing_and_is_counted() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let records = Records::of(&[8]);
    let (network, server) = serve(&own, &records).await;
    let (guest, without) = (Guest::start(&network, 8).await, Guest::start(&network, 9).await);
    let unreadable = Guest::start(&network, 66).await;

    let discover = |mac| message(mac, MessageType::Discover);
    without.send(&unbound(without.mac, &discover(without.mac)));
    unreadable.send(&unbound(unreadable.mac, &discover(unreadable.mac)));
    guest.send(&unbound(guest.mac, &discover(without.mac)));
    let mut other_server = message(guest.mac, MessageType::Request);
    other_server.opts_mut().insert(DhcpOption::RequestedIpAddress(address(8)));
    other_server.opts_mut().insert(DhcpOption::ServerIdentifier(address(9)));
    guest.send(&unbound(guest.mac, &other_server));
    let mut relayed = discover(guest.mac);
    relayed.set_giaddr(address(9));
    guest.send(&unbound(guest.mac, &relayed));
    guest.send(&unbound(guest.mac, &message(guest.mac, MessageType::Release)));
    guest.send(&unbound(guest.mac, &message(guest.mac, MessageType::Decline)));
    guest.send(&unbound(guest.mac, &message(guest.mac, MessageType::Offer)));
    guest.send(&broadcast(guest.mac, b"no message at all"));
    // All of them were dealt with before this one.
    guest.send(&unbound(guest.mac, &discover(guest.mac)));
    assert_eq!(answer(&guest).await.1.yiaddr(), address(8));
    without.greet().await;
    assert!(without.receive().is_none() && guest.receive().is_none());
    let expected = [
        ("declined", 1),
        ("foreign_mac", 1),
        ("lease_unreadable", 1),
        ("malformed", 2),
        ("no_lease", 1),
        ("offer", 1),
        ("other_server", 1),
        ("relayed", 1),
        ("released", 1),
    ];
    assert_eq!(server.status().outcomes, BTreeMap::from(expected));

    // A lease that ends, and one that begins, count from then on.
    *records.0.lock().unwrap() = BTreeSet::from([9]);
    guest.send(&unbound(guest.mac, &discover(guest.mac)));
    without.send(&unbound(without.mac, &discover(without.mac)));
    assert_eq!(answer(&without).await.1.yiaddr(), address(9));
    guest.greet().await;
    assert!(guest.receive().is_none());
    assert_eq!(server.status().outcomes["no_lease"], 2);
}

#[tokio::test]
async fn a_guest_that_plays_the_server_is_dropped_under_a_name() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let (rogue, victim) = (Guest::start(&network, 8).await, Guest::start(&network, 9).await);
    while victim.receive().is_some() {}
    let mut offer = message(victim.mac, MessageType::Offer);
    offer.set_opcode(v4::Opcode::BootReply).set_yiaddr(address(66));
    let offer = offer.to_vec().unwrap();
    for (to, ip) in [
        (victim.mac, address(9)),
        (frame::BROADCAST, Ipv4Addr::BROADCAST),
        (frame::BROADCAST, address(255)),
        (MacAddr::from_lease(GATEWAY), GATEWAY),
    ] {
        let packet = frame::udp((address(8), 67), (ip, 68), &offer);
        rogue.send(&frame::ethernet(rogue.mac, to, frame::IPV4, &packet));
    }
    rogue.greet().await;
    assert_eq!(network.guard(&rogue.tap).await.unwrap().unwrap().drops["dhcp_server"], 4);
    victim.greet().await;
    assert_eq!(victim.receive(), None);
}

#[tokio::test]
async fn hostile_bytes_and_floods_cost_only_their_sender() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let (network, server) = serve(&own, &Records::of(&[8, 9])).await;
    let (hostile, honest) = (Guest::start(&network, 8).await, Guest::start(&network, 9).await);
    let whole = message(hostile.mac, MessageType::Request).to_vec().unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let dealt_with = |status: &DhcpStatus| status.outcomes.values().sum::<u64>();
    for number in 1..=2_000 {
        let mut payload = whole.clone();
        for _ in 0..=next() % 8 {
            let at = next() % payload.len();
            payload[at] = u8::try_from(next() % 256).unwrap();
        }
        payload.truncate(next() % (payload.len() + 1));
        payload.extend((0..next() % 900).map(|_| u8::try_from(next() % 256).unwrap()));
        hostile.send(&broadcast(hostile.mac, &payload));
        if number % 50 == 0 {
            // Every one of them, before the socket's buffer is full.
            await_status(&server, |status| dealt_with(status) == number).await;
        }
    }
    for _ in 0..50 {
        hostile.send(&unbound(hostile.mac, &message(hostile.mac, MessageType::Discover)));
    }
    honest.send(&unbound(honest.mac, &message(honest.mac, MessageType::Discover)));
    assert_eq!(answer(&honest).await.1.yiaddr(), address(9));
    let status = server.status();
    assert!(status.failure.is_none() && dealt_with(&status) == 2_051, "{status:?}");
    assert!(status.outcomes["malformed"] > 1_000 && status.outcomes["too_many"] > 30, "{status:?}");
    let mut answers = 0;
    while let Some(frame) = hostile.receive() {
        if let Some((_, _, message)) = from_server(&frame) {
            answers += 1;
            assert!(message.yiaddr() == address(8) || message.yiaddr().is_unspecified(), "{message}");
        }
    }
    assert!((1..40).contains(&answers), "{answers} answers to a flood");
}

/// Waits until the server says so of itself.
async fn await_status(server: &DhcpServer, wanted: impl Fn(&DhcpStatus) -> bool) -> DhcpStatus {
    let found = async {
        loop {
            let status = server.status();
            if wanted(&status) {
                return status;
            }
            // Nothing announces it.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{:?}", server.status()))
}

#[tokio::test]
async fn what_keeps_it_from_serving_is_told_and_does_not_last() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&spec(&own)).await.unwrap();
    let rival = network.netns().run(|| std::net::UdpSocket::bind("0.0.0.0:67").unwrap()).unwrap();
    let server = network.serve_dhcp(Terms::of(network.spec(), 7200), Records::of(&[8]).holder()).await;
    let status = await_status(&server, |status| status.failure.is_some()).await;
    let failure = status.failure.unwrap();
    assert_eq!(
        error_chain(&*failure),
        [
            format!("bind to UDP port 67 for DHCP on br0 in namespace {}", own.name()),
            "Address already in use (os error 98)".to_owned()
        ]
    );
    assert_eq!(NetworkError::cause(&failure), Some("dhcp_timeout"));
    assert!(failure.remedy().unwrap().contains("other DHCP server"));
    drop(rival);
    await_status(&server, |status| status.failure.is_none()).await;

    // The bridge goes, and with it everything that was bound to it.
    run(own.name(), "ip", &["link", "del", "br0"]);
    let status = await_status(&server, |status| status.failure.is_some()).await;
    assert!(error_chain(&*status.failure.unwrap())[0].contains("br0"));
    network.repair().await.unwrap();
    await_status(&server, |status| status.failure.is_none()).await;
    let guest = Guest::start(&network, 8).await;
    guest.send(&unbound(guest.mac, &message(guest.mac, MessageType::Discover)));
    assert_eq!(answer(&guest).await.1.yiaddr(), address(8));

    // With the handle the port is free again.
    drop(server);
    let freed = async {
        while network.netns().run(|| std::net::UdpSocket::bind("0.0.0.0:67").is_err()).unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}

/// A namespace that is a guest: its link is a port of the bridge, guarded as a TAP would be.
struct Machine {
    netns: TestNetns,
    script: tempfile::TempDir,
}

/// What the client's script is told, one variable a line.
const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = deconfig ] && exit 0\necho \"$1\"\nenv | sort\n";

impl Machine {
    fn start(own: &TestNetns, n: u8) -> Self {
        let netns = TestNetns::new();
        Netns::create(netns.name()).unwrap();
        let guard = guard(n);
        let mac = guard.mac.to_string();
        for args in [
            &["link", "add", &guard.tap, "type", "veth", "peer", "name", "eth0", "netns", netns.name()][..],
            &["link", "set", &guard.tap, "alias", &guard.alias, "master", "br0", "up"],
            &["link", "set", &guard.tap, "type", "bridge_slave", "isolated", "on"],
        ] {
            run(own.name(), "ip", args);
        }
        run(netns.name(), "ip", &["link", "set", "eth0", "address", &mac, "up"]);
        let script = tempfile::tempdir().unwrap();
        let (client, rules) = (script.path().join("script"), script.path().join("guard.nft"));
        std::fs::write(&client, SCRIPT).unwrap();
        std::fs::set_permissions(&client, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(&rules, firewall::guard(own.spec().subnet, &guard)).unwrap();
        run(own.name(), "nft", &["-f", rules.to_str().unwrap()]);
        Self { netns, script }
    }

    /// BusyBox's client, until it has an address or gave up.
    async fn udhcpc(&self, more: &[&str]) -> Output {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let pid_file = self.script.path().join(format!("pid-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns.name(), "busybox", "udhcpc", "-i", "eth0", "-q", "-n", "-f", "-s"]);
        command.arg(self.script.path().join("script")).arg("-p").arg(pid_file);
        command
            .args(["-O", "search", "-O", "mtu", "-O", "hostname"])
            .args(more)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_client_that_others_wrote_is_told_everything() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let (_network, server) = serve(&own, &Records::of(&[8])).await;
    let (machine, stranger) = (Machine::start(&own, 8), Machine::start(&own, 9));
    for more in
        [&["-t", "10", "-T", "1"][..], &["-t", "10", "-T", "1", "-B"], &["-t", "10", "-T", "1", "-r", "192.168.100.9"]]
    {
        let output = machine.udhcpc(more).await;
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{more:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
        for line in [
            "bound",
            "ip=192.168.100.8",
            "subnet=255.255.255.0",
            "router=192.168.100.1",
            "dns=9.9.9.9 10.0.0.53",
            "search=a.example b.example",
            "domain=a.example",
            "mtu=1400",
            "hostname=airlock-00000008",
            "lease=7200",
            "serverid=192.168.100.1",
        ] {
            assert!(told.lines().any(|found| found == line), "{line} is not in {told}");
        }
    }
    let output = stranger.udhcpc(&["-t", "2", "-T", "1"]).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && told.starts_with("leasefail\n") && !told.contains("ip="), "{told}");
    let outcomes = server.status().outcomes;
    assert!(outcomes["no_lease"] >= 2 && outcomes["ack"] == 3, "{outcomes:?}");
}
