//! Probes against real sockets: on loopback, and through a router in network namespaces of the test.
//!
//! The namespaces belong to threads: the kernel removes them, and everything in them, when the threads end. They need
//! CAP_SYS_ADMIN, as the rest of this project's own setup does.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use airlock_protocol::message::{GuestMessage, ReachOutcome, ReachTarget};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use super::probe::{reach, resolve};
use super::{MAX_PROBES, Probes, dns, wait};
use crate::outbox::Outbox;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn tcp(address: impl Into<SocketAddr>) -> ReachTarget {
    ReachTarget::Tcp { address: address.into() }
}

fn udp(address: impl Into<SocketAddr>) -> ReachTarget {
    ReachTarget::Udp { address: address.into() }
}

fn ping(address: impl Into<Ipv4Addr>) -> ReachTarget {
    ReachTarget::Ping { address: address.into() }
}

fn within(target: &ReachTarget, time: Duration) -> ReachOutcome {
    reach(target, Instant::now() + time)
}

fn unreachable(errno: &str) -> ReachOutcome {
    ReachOutcome::Unreachable { errno: errno.to_owned() }
}

/// The same to a TCP port, a UDP port and by echo.
fn each_way(address: [u8; 4]) -> [ReachTarget; 3] {
    [tcp((address, 9)), udp((address, 9)), ping(address)]
}

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

/// Answers every datagram with `answer` until the test's process ends.
fn udp_server(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 600];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            if let Some(answer) = answer(&bytes[..len]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    address
}

fn closed_udp_port() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// The other end of a guest's only link, with routes that lead nowhere in three ways. Ends when dropped.
struct Router(#[expect(dead_code, reason = "held")] Sender<()>);

/// Guest 10.9.0.2, router 10.9.0.1 with an open TCP port 80 and a UDP port 80 that answers.
fn behind_a_router() -> Router {
    let (up, (end, ended)) = (channel(), channel());
    let (linked, link) = channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        up.0.send(gettid()).unwrap();
        let () = link.recv().unwrap();
        for line in [
            "link set lo up",
            "addr add 10.9.0.1/24 dev h0",
            "link set h0 up",
            "route add blackhole 10.7.0.0/24",
            "route add unreachable 10.8.0.0/24",
            "route add prohibit 10.6.0.0/24",
        ] {
            ip(line);
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
        let _listener = TcpListener::bind("10.9.0.1:80").unwrap();
        let answering = UdpSocket::bind("10.9.0.1:80").unwrap();
        answering.set_nonblocking(false).unwrap();
        let echo = answering.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 100];
            while let Ok((len, from)) = echo.recv_from(&mut bytes) {
                let _ = echo.send_to(&bytes[..len], from);
            }
        });
        up.0.send(gettid()).unwrap();
        let _: Result<(), _> = ended.recv();
    });
    let router = up.1.recv().unwrap();
    ip("link add g0 type veth peer name h0");
    ip(&format!("link set h0 netns {router}"));
    for line in ["link set lo up", "addr add 10.9.0.2/24 dev g0", "link set g0 up", "route add default via 10.9.0.1"] {
        ip(line);
    }
    linked.send(()).unwrap();
    up.1.recv().expect("the router is up");
    Router(end)
}

#[test]
fn loopback_answers_or_refuses() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = listener.local_addr().unwrap();
    assert_eq!(within(&tcp(open), LONG), ReachOutcome::Connected);
    drop(listener);
    assert_eq!(within(&tcp(open), LONG), ReachOutcome::Refused);

    let echo = udp_server(|bytes| Some(bytes.to_vec()));
    assert_eq!(within(&udp(echo), LONG), ReachOutcome::Answered);
    assert_eq!(within(&udp(closed_udp_port()), LONG), ReachOutcome::Refused);
}

#[test]
fn ipv6_is_probed_too() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let open = listener.local_addr().unwrap();
    assert_eq!(within(&tcp(open), LONG), ReachOutcome::Connected);
    let closed = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    assert_eq!(within(&udp(closed), LONG), ReachOutcome::Refused);
}

#[test]
fn without_a_route_there_is_no_way() {
    in_namespace(|| {
        for target in each_way([10, 9, 0, 1]) {
            assert_eq!(within(&target, LONG), unreachable("ENETUNREACH"), "{target:?}");
        }
    });
}

#[test]
fn a_router_is_reached() {
    in_namespace(|| {
        let _router = behind_a_router();
        assert_eq!(within(&tcp(([10, 9, 0, 1], 80)), LONG), ReachOutcome::Connected);
        assert_eq!(within(&udp(([10, 9, 0, 1], 80)), LONG), ReachOutcome::Answered);
        assert_eq!(within(&ping([10, 9, 0, 1]), LONG), ReachOutcome::Answered);
        assert_eq!(within(&tcp(([10, 9, 0, 1], 9)), LONG), ReachOutcome::Refused);
        assert_eq!(within(&udp(([10, 9, 0, 1], 9)), LONG), ReachOutcome::Refused);
    });
}

#[test]
fn a_router_s_no_is_told_from_silence() {
    in_namespace(|| {
        let _router = behind_a_router();
        for (network, expected) in [(8, unreachable("EHOSTUNREACH")), (6, unreachable("EHOSTUNREACH"))] {
            for target in each_way([10, network, 0, 1]) {
                assert_eq!(within(&target, LONG), expected, "{target:?}");
            }
        }
        for target in each_way([10, 7, 0, 1]) {
            let started = Instant::now();
            assert_eq!(within(&target, SHORT), ReachOutcome::TimedOut, "{target:?}");
            let took = started.elapsed();
            assert!(took >= SHORT && took < LONG, "{target:?} took {took:?}");
        }
    });
}

#[test]
fn a_neighbour_that_is_not_there_is_no_silence() {
    in_namespace(|| {
        let _router = behind_a_router();
        // Three ARP requests, a second apart unless told otherwise (arp(7)).
        std::fs::write("/proc/sys/net/ipv4/neigh/g0/retrans_time_ms", "50").unwrap();
        for target in each_way([10, 9, 0, 77]) {
            assert_eq!(within(&target, LONG), unreachable("EHOSTUNREACH"), "{target:?}");
        }
    });
}

/// A name server that knows every name, as 10.1.2.3, or says `rcode`.
fn name_server(rcode: u8) -> SocketAddr {
    udp_server(move |question| {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[3] |= rcode;
        answer[7] = u8::from(rcode == 0);
        if rcode == 0 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        }
        Some(answer)
    })
}

#[test]
fn a_name_is_asked_of_one_server_after_the_other() {
    let (good, unknown, broken, dead) = (name_server(0), name_server(3), name_server(2), closed_udp_port());
    let silent = udp_server(|_| None);
    let ask = |servers: &[SocketAddr]| resolve("www.example.org", servers, Instant::now() + SHORT);
    let found = ReachOutcome::Resolved { addresses: vec![Ipv4Addr::new(10, 1, 2, 3)] };
    let no = |detail: &str| ReachOutcome::Failed { errno: None, detail: detail.to_owned() };
    assert_eq!(ask(&[good]), found);
    assert_eq!(ask(&[dead, broken, good]), found);
    assert_eq!(ask(&[silent, good]), found, "the silent one has only its share of the time");
    let no_such_name = no("the name server says no such name");
    assert_eq!(ask(&[unknown, good]), no_such_name, "what one server knows not to exist is not asked of the next");
    assert_eq!(ask(&[broken]), no("the name server says server failure"));
    assert_eq!(ask(&[dead]), ReachOutcome::Refused);
    assert_eq!(ask(&[silent]), ReachOutcome::TimedOut);
    assert_eq!(ask(&[]), no("/etc/resolv.conf names no server"));
    let spaced = resolve("no host", &[good], Instant::now() + SHORT);
    assert_eq!(spaced, no("\"no host\" is no host name"));
    assert!(dns::question(1, "no host").is_err());
}

/// The next answer: the probe's id and its outcome.
fn answer(outbox: &Outbox) -> (u64, ReachOutcome, f64) {
    loop {
        outbox.clear_wake();
        match outbox.pop() {
            Some(GuestMessage::Reached { id, outcome, ms }) => return (id, outcome, ms),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        let timeout = PollTimeout::try_from(LONG).unwrap();
        assert_eq!(poll(&mut [PollFd::new(outbox.wake_fd(), PollFlags::POLLIN)], timeout), Ok(1));
    }
}

#[test]
fn probes_run_beside_each_other_and_one_too_many_fails() {
    let outbox = Arc::new(Outbox::new().unwrap());
    outbox.host_came(Vec::new);
    let probes = Probes::new(outbox.clone());
    let silent = udp_server(|_| None);
    let all = MAX_PROBES as u64;
    let started = Instant::now();
    for id in 0..=all {
        probes.start(id, udp(silent), 1000);
    }
    assert!(started.elapsed() < Duration::from_millis(1000), "starting does not wait");
    let (id, outcome, _) = answer(&outbox);
    let detail = "start a probe while 16 others run".to_owned();
    assert_eq!((id, outcome), (all, ReachOutcome::Failed { errno: None, detail }));
    let mut ids: Vec<u64> = (0..all)
        .map(|_| {
            let (id, outcome, ms) = answer(&outbox);
            assert_eq!(outcome, ReachOutcome::TimedOut);
            assert!((1000.0..20_000.0).contains(&ms), "{ms}");
            id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..all).collect::<Vec<_>>());
    probes.start(99, udp(closed_udp_port()), 1000);
    let (id, outcome, _) = answer(&outbox);
    assert_eq!((id, outcome), (99, ReachOutcome::Refused), "the places are free again");
}

#[test]
fn an_answer_is_for_the_host_that_asked() {
    let outbox = Arc::new(Outbox::new().unwrap());
    outbox.host_came(Vec::new);
    let probes = Probes::new(outbox.clone());
    probes.start(1, udp(udp_server(|_| None)), 200);
    // The daemon is restarted while the probe runs, and asks under the same id.
    outbox.host_came(Vec::new);
    probes.start(1, udp(udp_server(|_| None)), 600);
    let (id, outcome, ms) = answer(&outbox);
    assert_eq!((id, outcome), (1, ReachOutcome::TimedOut));
    assert!(ms >= 600.0, "{ms}");
    assert_eq!(outbox.pop(), None);
}

#[test]
fn no_wait_is_longer_than_half_a_minute() {
    assert_eq!(wait(u64::MAX), Duration::from_secs(30));
    assert_eq!(wait(1500), Duration::from_millis(1500));
    assert_eq!(within(&tcp(([127, 0, 0, 1], 1)), Duration::ZERO), ReachOutcome::Refused, "a wait of zero is no error");
}
