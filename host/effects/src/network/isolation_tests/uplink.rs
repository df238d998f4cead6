//! The way out as a thing: made, repaired, moved, refused, removed.

use std::net::Ipv4Addr;

use airlock_domain::firewall::uplink_table;
use airlock_domain::network::{NetworkSpec, UPLINK_LINK, Uplink, uplink_peer};

use super::frame;
use super::world::{Guest, Internet, PUBLIC, listen, run};
use crate::netns::Netns;
use crate::network::{Network, NetworkError, examine_uplink};
use crate::testing::{TestNetns, chain, skip_unless_root};

fn links(netns: &str) -> String {
    run(netns, "ip", &["-br", "link"])
}

fn tables(netns: &str) -> String {
    run(netns, "nft", &["list", "tables"])
}

/// Whether a guest gets an answer from the internet.
async fn works(network: &Network, world: &Internet, n: u8) {
    let guest = Guest::start(network, n).await;
    guest.greet().await;
    let _listener = listen(&world.netns(&world.inet), PUBLIC, 443).await;
    guest.connect(40_000, (PUBLIC, 443)).await;
}

fn nothing_left(world: &Internet, own: &TestNetns) {
    let isp = world.isp.name();
    assert!(!links(isp).contains(&uplink_peer(own.name())), "{}", links(isp));
    assert_eq!(tables(isp), "");
}

#[tokio::test]
async fn it_is_found_again_repaired_and_removed() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&["203.0.113.10"]));
    let spec = world.spec(&own, &[]);
    let network = Network::open(&spec).await.unwrap();
    works(&network, &world, 8).await;
    let peer = uplink_peer(own.name());
    let index =
        |netns: &str, link: &str| run(netns, "ip", &["-o", "link", "show", link]).split(':').next().unwrap().to_owned();
    let before = (index(own.name(), UPLINK_LINK), index(world.isp.name(), &peer));
    let shown = run(world.isp.name(), "ip", &["link", "show", &peer]);
    assert!(shown.contains(&format!("alias airlock uplink of {}", own.name())), "{shown}");

    let again = Network::open(&spec).await.unwrap();
    assert_eq!((index(own.name(), UPLINK_LINK), index(world.isp.name(), &peer)), before);
    assert!(again.firewall().await.unwrap().is(&spec));

    // Each is taken away by hand, and comes back.
    let damages: [&dyn Fn(); 4] = [
        &|| drop(run(world.isp.name(), "ip", &["link", "del", &peer])),
        &|| drop(run(world.isp.name(), "nft", &["delete", "table", "inet", &uplink_table(own.name())])),
        &|| drop(run(own.name(), "ip", &["route", "del", "default"])),
        &|| drop(run(own.name(), "nft", &["flush", "table", "inet", "airlock"])),
    ];
    for (n, damage) in (9..).zip(damages) {
        damage();
        again.repair().await.unwrap();
        works(&again, &world, n).await;
    }

    again.delete().await.unwrap();
    nothing_left(&world, &own);
}

#[tokio::test]
async fn another_configuration_removes_what_the_former_made() {
    if skip_unless_root() {
        return;
    }
    let (own, first, second) = (TestNetns::new(), Internet::new(&["203.0.113.10"]), Internet::new(&["203.0.113.10"]));
    works(&Network::open(&first.spec(&own, &[])).await.unwrap(), &first, 8).await;
    let moved = Network::open(&second.spec(&own, &[])).await.unwrap();
    nothing_left(&first, &own);
    works(&moved, &second, 9).await;

    let none = Network::open(&own.spec()).await.unwrap();
    nothing_left(&second, &own);
    assert!(!links(own.name()).contains(UPLINK_LINK));
    assert!(none.firewall().await.unwrap().is(&own.spec()));
    assert_eq!(run(own.name(), "sysctl", &["-n", "net.ipv4.ip_forward"]).trim(), "0");
}

#[tokio::test]
async fn two_installations_on_one_transit_are_refused() {
    if skip_unless_root() {
        return;
    }
    let (own, other, world) = (TestNetns::new(), TestNetns::new(), Internet::new(&["203.0.113.10"]));
    let network = Network::open(&world.spec(&own, &[])).await.unwrap();
    let mut spec = world.spec(&other, &[]);
    let error = Network::open(&spec).await.unwrap_err();
    assert_eq!(error.cause(), Some("subnet_overlap"));
    let (peer, uplink) = (uplink_peer(own.name()), spec.egress.uplink.to_string());
    assert_eq!(chain(&error), [format!("transit 198.18.77.0/30 overlaps an address of {peer} at uplink {uplink}")]);
    assert!(error.remedy().unwrap().contains("network.egress.transit"));
    assert!(!links(world.isp.name()).contains(&uplink_peer(other.name())));
    works(&network, &world, 8).await;

    spec.egress.transit = "198.18.77.4/30".parse().unwrap();
    works(&Network::open(&spec).await.unwrap(), &world, 8).await;
    works(&network, &world, 9).await;
}

#[tokio::test]
async fn an_uplink_that_does_not_route_is_refused_and_left_as_it_is() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&[]));
    run(world.isp.name(), "sysctl", &["-qw", "net.ipv4.ip_forward=0"]);
    let spec = world.spec(&own, &[]);
    let error = Network::open(&spec).await.unwrap_err();
    assert!(matches!(error, NetworkError::UplinkNotForwarding { .. }));
    assert_eq!(error.cause(), Some("forward_policy_drop"));
    assert!(error.remedy().unwrap().contains("sysctl -w net.ipv4.ip_forward=1"));
    nothing_left(&world, &own);
    assert_eq!(run(world.isp.name(), "sysctl", &["-n", "net.ipv4.ip_forward"]).trim(), "0");

    let gone = Uplink::Namespace(format!("{}-gone", own.name()));
    let mut spec = world.spec(&own, &[]);
    spec.egress.uplink = gone;
    let error = Network::open(&spec).await.unwrap_err();
    assert!(matches!(error, NetworkError::Uplink { .. }));
    assert_eq!(chain(&error).last().unwrap(), "No such file or directory (os error 2)");
}

#[tokio::test]
async fn a_foreign_link_of_our_name_is_not_taken() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&[]));
    let peer = uplink_peer(own.name());
    run(world.isp.name(), "ip", &["link", "add", &peer, "type", "bridge"]);
    let error = Network::open(&world.spec(&own, &[])).await.unwrap_err();
    assert_eq!(chain(&error)[0], format!("link {peer} at uplink namespace:{} belongs to \"\"", world.isp.name()));
    assert!(run(world.isp.name(), "ip", &["-d", "link", "show", &peer]).contains("bridge"));
    assert_eq!(tables(world.isp.name()), "");
}

#[tokio::test]
async fn a_pair_that_a_crash_left_half_made_is_finished_or_removed() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&["203.0.113.10"]));
    let (spec, peer) = (world.spec(&own, &[]), uplink_peer(own.name()));
    let half = || {
        let made = ["link", "add", &peer, "type", "veth", "peer", "name", UPLINK_LINK, "netns", own.name()];
        run(world.isp.name(), "ip", &made);
    };
    Netns::create(own.name()).unwrap();
    half();
    let network = Network::open(&spec).await.unwrap();
    works(&network, &world, 8).await;
    network.delete().await.unwrap();

    Netns::create(own.name()).unwrap();
    half();
    Network::open(&own.spec()).await.unwrap();
    nothing_left(&world, &own);
}

#[tokio::test]
async fn what_a_dead_namespace_of_ours_left_is_replaced() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&["203.0.113.10"]));
    let spec = world.spec(&own, &[]);
    let network = Network::open(&spec).await.unwrap();
    // The handle keeps the namespace alive, as a VMM would; only its name goes.
    Netns::delete(own.name()).unwrap();
    let next = Network::open(&spec).await.unwrap();
    works(&next, &world, 8).await;
    drop(network);
}

#[tokio::test]
async fn a_chain_of_others_that_drops_what_is_forwarded_is_named() {
    if skip_unless_root() {
        return;
    }
    let (own, world) = (TestNetns::new(), Internet::new(&[]));
    let spec = world.spec(&own, &[]);
    let _network = Network::open(&spec).await.unwrap();
    assert_eq!(examine_uplink(&spec).await.unwrap(), Vec::<String>::new());
    for args in [
        &["add", "table", "ip", "filter"][..],
        &["add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }"],
    ] {
        run(world.isp.name(), "nft", args);
    }
    assert_eq!(examine_uplink(&spec).await.unwrap(), ["ip filter FORWARD"]);
    let fact = crate::doctor::egress(&spec).await;
    assert!(!fact.ok && !fact.required && fact.detail.contains("ip filter FORWARD"), "{fact:?}");
}

/// `uplink = "host"` leads into the namespace of the process: the test is run once more, inside one of its own.
#[tokio::test]
async fn the_host_itself_can_lend_its_uplink() {
    const INSIDE: &str = "AIRLOCK_TEST_HOST_NETNS";
    if skip_unless_root() {
        return;
    }
    let Ok(inet) = std::env::var(INSIDE) else {
        let world = Internet::new(&["203.0.113.10"]);
        let name = std::thread::current().name().unwrap().to_owned();
        let output = std::process::Command::new("ip")
            .args(["netns", "exec", world.isp.name()])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(INSIDE, world.inet.name())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && printed.contains("1 passed"),
            "{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(tables(world.isp.name()), "");
        return;
    };
    let own = TestNetns::new();
    let egress = airlock_domain::network::EgressSpec { uplink: Uplink::Host, ..Default::default() };
    let network = Network::open(&NetworkSpec { egress, ..own.spec() }).await.unwrap();
    let guest = Guest::start(&network, 8).await;
    guest.greet().await;
    let _listener = listen(&Netns::open(&inet).unwrap(), PUBLIC, 443).await;
    let _host = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 22)).await.unwrap();
    guest.send_ip(&frame::syn((guest.address, 40_000), (super::world::ISP, 22)));
    guest.connect(40_001, (PUBLIC, 443)).await;
    assert!(
        std::iter::from_fn(|| guest.receive()).all(|frame| frame::segment_of(&frame).is_none_or(|s| s.from.1 != 22))
    );
    network.delete().await.unwrap();
}
