//! Against the real kernel, in a network namespace of each test: links, addresses, routes, ARP.
//!
//! A test's thread leaves its namespace behind when it ends, and the kernel removes everything in it; nothing has to be
//! cleaned up. It needs CAP_NET_ADMIN, as the rest of this project's own setup does.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::arp::{self, Question, probe};
use super::rtnetlink::Rtnetlink;
use crate::kernel::{KernelError, Link, WantedLink, chain};
use airlock_protocol::MacAddr;

const OURS: &str = "06:00:0a:09:00:02";

/// Runs `body` on a thread in a network namespace of its own.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// iproute2 inside the thread's namespace, which its children inherit.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip_says(args: &str) -> String {
    String::from_utf8(Command::new("ip").args(args.split(' ')).output().unwrap().stdout).unwrap()
}

fn by_mac() -> WantedLink {
    WantedLink::Mac(OURS.parse().unwrap())
}

fn found(netlink: &mut Rtnetlink) -> Link {
    netlink.find(&by_mac(), Duration::from_secs(5)).unwrap()
}

/// A link `g0` with our MAC whose other end `h0` is in the same namespace, and an open socket.
fn with_link() -> (Rtnetlink, Link) {
    ip(&format!("link add g0 address {OURS} type veth peer name h0"));
    let mut netlink = Rtnetlink::open().unwrap();
    let link = found(&mut netlink);
    (netlink, link)
}

#[test]
fn a_missing_link_is_named_with_what_exists() {
    in_namespace(|| {
        ip("link add ens3 address 06:00:0a:09:00:63 type bridge");
        let mut netlink = Rtnetlink::open().unwrap();
        let error = netlink.find(&by_mac(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENODEV));
        assert_eq!(
            chain(&error),
            "no interface with MAC 06:00:0a:09:00:02; there are: lo 00:00:00:00:00:00, ens3 06:00:0a:09:00:63"
        );
    });
}

#[test]
fn a_link_that_appears_later_wakes_the_wait() {
    in_namespace(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let started = Instant::now();
        // The namespace is the thread's, so the other thread has to be told which one.
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let adding = std::thread::spawn(move || {
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            ip(&format!("link add late0 address {OURS} type bridge"));
        });
        let link = netlink.find(&by_mac(), Duration::from_secs(30)).unwrap();
        adding.join().unwrap();
        assert_eq!(link.name, "late0");
        assert!(started.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn a_renamed_link_is_found_by_its_mac() {
    in_namespace(|| {
        ip("link add other0 address 06:00:0a:09:00:63 type bridge");
        ip(&format!("link add eth0 address {OURS} type bridge"));
        ip("link set eth0 name enp0s3");
        assert_eq!(found(&mut Rtnetlink::open().unwrap()).name, "enp0s3");
    });
}

#[test]
fn a_link_renamed_while_we_listen_is_known_by_its_new_name() {
    in_namespace(|| {
        let (mut netlink, _) = with_link();
        ip("link set g0 name ens3");
        netlink.set_up(1, "lo").unwrap();
        assert_eq!(found(&mut netlink).name, "ens3");
    });
}

#[test]
fn without_a_mac_the_name_or_the_only_link_counts() {
    in_namespace(|| {
        // A bridge stands for any interface here: it needs no driver that a test machine may lack.
        ip("link add a0 type bridge");
        let find = |wanted| Rtnetlink::open().unwrap().find(&wanted, Duration::from_millis(50)).map(|link| link.name);
        assert_eq!(find(WantedLink::Only).unwrap(), "a0");
        assert_eq!(find(WantedLink::Name("eth0".into())).unwrap(), "a0", "the only one, whatever its name");
        ip("link add b0 type bridge");
        assert_eq!(find(WantedLink::Name("b0".into())).unwrap(), "b0");
        for ambiguous in [WantedLink::Only, WantedLink::Name("eth0".into())] {
            assert!(matches!(find(ambiguous), Err(KernelError::LinkMissing { present, .. }) if present.len() == 3));
        }
    });
}

#[test]
fn the_carrier_is_waited_for_by_event() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.set_up(link.index, &link.name).unwrap();
        let error = netlink.wait_carrier(&link, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENETDOWN));
        assert!(chain(&error).contains("NO-CARRIER"));
        ip("link set h0 up");
        netlink.wait_carrier(&link, Duration::from_secs(5)).unwrap();
    });
}

#[test]
fn address_and_route_are_really_there() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.set_up(link.index, &link.name).unwrap();
        ip("link set h0 up");
        netlink.add_address(&link, "10.9.0.2".parse().unwrap(), 24).unwrap();
        netlink.set_default_route(&link, "10.9.0.1".parse().unwrap()).unwrap();
        assert!(ip_says("-4 addr show g0").contains("inet 10.9.0.2/24 brd 10.9.0.255 scope global g0"));
        assert!(ip_says("route").contains("default via 10.9.0.1 dev g0"));
    });
}

#[test]
fn what_is_already_there_is_no_failure() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.set_up(link.index, &link.name).unwrap();
        for _ in 0..2 {
            netlink.add_address(&link, "10.9.0.2".parse().unwrap(), 24).unwrap();
            netlink.set_default_route(&link, "10.9.0.1".parse().unwrap()).unwrap();
        }
        assert_eq!(ip_says("-4 addr show g0").matches("inet ").count(), 1);
        assert_eq!(ip_says("route").matches("default").count(), 1);
    });
}

#[test]
fn a_gateway_outside_the_subnet_is_refused_in_the_kernel_s_words() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.set_up(link.index, &link.name).unwrap();
        netlink.add_address(&link, "10.9.0.2".parse().unwrap(), 24).unwrap();
        let error = netlink.set_default_route(&link, "10.8.0.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENETUNREACH));
        assert_eq!(
            chain(&error),
            "set default route via 10.8.0.1 on g0 (kernel: Nexthop has invalid gateway): ENETUNREACH: Network is unreachable"
        );
    });
}

#[test]
fn a_link_that_vanished_is_refused() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        ip("link del g0");
        assert_eq!(netlink.set_up(link.index, &link.name).unwrap_err().errno(), Some(Errno::ENODEV));
        assert_eq!(
            netlink.add_address(&link, "10.9.0.2".parse().unwrap(), 24).unwrap_err().errno(),
            Some(Errno::ENODEV)
        );
        assert!(netlink.find(&by_mac(), Duration::ZERO).is_err());
    });
}

/// A peer in a namespace of its own, entered only to set it up and kept by the link's `netns` argument.
fn with_peer(peer_addr: &str) -> (Rtnetlink, Link, std::process::Child) {
    // A process that does nothing holds the peer's namespace; it ends when its input closes.
    let holder = hold_namespace();
    let (mut netlink, link) = with_link();
    let pid = holder.id();
    ip(&format!("link set h0 netns {pid}"));
    let inside = |args: &str| {
        let status =
            Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "ip"]).args(args.split(' ')).status().unwrap();
        assert!(status.success(), "{args}");
    };
    inside("link set h0 address 06:00:0a:09:00:01");
    inside(&format!("addr add {peer_addr} dev h0"));
    inside("link set h0 up");
    netlink.set_up(link.index, &link.name).unwrap();
    netlink.wait_carrier(&link, Duration::from_secs(5)).unwrap();
    (netlink, link, holder)
}

fn hold_namespace() -> std::process::Child {
    use std::io::BufRead;
    use std::process::Stdio;
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "echo ready; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn ask(link: &Link, target: &str) -> Option<MacAddr> {
    let question = Question {
        index: link.index,
        mac: link.mac.unwrap(),
        addr: "10.9.0.2".parse().unwrap(),
        target: target.parse().unwrap(),
    };
    probe(&arp::open(link.index).unwrap(), question, 3, Duration::from_millis(100)).unwrap()
}

#[test]
fn arp_is_answered_by_the_gateway_and_by_nobody_else() {
    in_namespace(|| {
        let (mut netlink, link, mut holder) = with_peer("10.9.0.1/24");
        netlink.add_address(&link, "10.9.0.2".parse().unwrap(), 24).unwrap();
        let (gateway, nobody) = (ask(&link, "10.9.0.1"), ask(&link, "10.9.0.77"));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert_eq!(gateway, Some("06:00:0a:09:00:01".parse().unwrap()));
        assert_eq!(nobody, None);
    });
}

#[test]
fn arp_on_a_link_that_is_down_says_so() {
    in_namespace(|| {
        let (_, link) = with_link();
        let question = Question {
            index: link.index,
            mac: link.mac.unwrap(),
            addr: [10, 9, 0, 2].into(),
            target: [10, 9, 0, 1].into(),
        };
        let socket = arp::open(link.index).unwrap();
        assert_eq!(probe(&socket, question, 1, Duration::from_millis(10)), Err(Errno::ENETDOWN));
    });
}

mod refusals;

#[test]
fn two_links_exchange_their_names() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.exchange_names(&link, "h0").unwrap();
        assert_eq!(found(&mut netlink).name, "h0");
        let mac_of = |dev: &str| ip_says(&format!("-brief link show {dev}"));
        assert!(mac_of("h0").contains(OURS) && !mac_of("g0").contains(OURS), "{}{}", mac_of("h0"), mac_of("g0"));
        let link = found(&mut netlink);
        netlink.exchange_names(&link, "ens7").unwrap();
        assert!(mac_of("ens7").contains(OURS));
        ip("link set ens7 up");
        let link = found(&mut netlink);
        match netlink.exchange_names(&link, "g0") {
            // Newer kernels rename links that are up (6.2).
            Ok(()) => assert!(mac_of("g0").contains(OURS)),
            Err(error) => assert_eq!(error.errno(), Some(Errno::EBUSY)),
        }
    });
}
