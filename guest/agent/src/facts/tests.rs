use super::*;
use airlock_protocol::facts::{GuestLink, GuestNeighbour, GuestRoute, Listening};
use airlock_protocol::frame::encode;
use airlock_protocol::health::GuestAddress;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eth0\t00000000\t0164A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
    eth0\t0064A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
    eth1\t00000A0A\t00000000\t0000\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
    192.168.100.1    0x1         0x2         06:00:c0:a8:64:01     *        eth0\n\
    192.168.100.9    0x1         0x0         00:00:00:00:00:00     *        eth0\n";
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
    \u{20}  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0\n\
    \u{20}  1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 777 1 0 100 0 0 10 0\n\
    \u{20}  2: 0864A8C0:1F90 0164A8C0:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 888 1 0 20 4 30 10 -1\n";
const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
    \u{20}  0: 00000000000000000000000001000000:170D 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 999 1 0 100 0 0 10 0\n";

#[test]
fn routes_and_neighbours_are_read() {
    let dev = || "eth0".to_owned();
    let gateway: Ipv4Addr = "192.168.100.1".parse().unwrap();
    let found = net::routes(ROUTE);
    assert_eq!(
        found,
        [
            GuestRoute { to: "0.0.0.0/0".into(), gateway: Some(gateway), dev: dev() },
            GuestRoute { to: "192.168.100.0/24".into(), gateway: None, dev: dev() },
        ]
    );
    assert_eq!(net::default_gateways(&found), [gateway]);
    let nobody = "192.168.100.9".parse().unwrap();
    assert_eq!(
        net::neighbours(ARP),
        [
            GuestNeighbour { address: gateway, mac: "06:00:c0:a8:64:01".parse().ok(), dev: dev() },
            GuestNeighbour { address: nobody, mac: None, dev: dev() },
        ]
    );
}

#[test]
fn a_socket_is_listed_with_what_it_is_bound_to() {
    let found = net::listeners(TCP, false);
    let all: Vec<Listening> = found.iter().map(|socket| socket.with_program(None)).collect();
    let listening = |address: &str, port| Listening { address: address.into(), port, program: None };
    assert_eq!(all, [listening("0.0.0.0", 8080), listening("127.0.0.1", 8081)]);
    assert_eq!(found.iter().map(|socket| socket.inode).collect::<Vec<_>>(), [12345, 777]);
    assert_eq!(net::listeners(TCP6, true).first().unwrap().with_program(None), listening("::1", 5901));
}

#[test]
fn interfaces_are_told_with_their_state() {
    let sys = std::env::temp_dir().join(format!("airlock-facts-sys-{}", std::process::id()));
    let write = |name: &str, files: &[(&str, &str)]| {
        fs::create_dir_all(sys.join(name)).unwrap();
        files.iter().for_each(|(file, text)| fs::write(sys.join(name).join(file), text).unwrap());
    };
    let mac = "06:00:c0:a8:64:08\n";
    write("eth0", &[("flags", "0x1003\n"), ("address", mac), ("carrier", "0\n"), ("device", "")]);
    write("eth1", &[("flags", "0x1002\n"), ("address", mac), ("device", "")]);
    write("docker0", &[("flags", "0x1003\n"), ("address", mac), ("carrier", "0\n")]);
    write("lo", &[("flags", "0x9\n"), ("carrier", "1\n")]);
    fs::write(sys.join("bonding_masters"), "").unwrap();
    let own = GuestAddress { dev: "eth0".into(), mac: mac.trim().parse().unwrap(), addr: "192.168.100.8/24".into() };
    let links = net::links(&sys, &[own]);
    fs::remove_dir_all(&sys).unwrap();
    let link = |name: &str, up, carrier, addresses: &[&str]| GuestLink {
        name: name.into(),
        mac: mac.trim().parse().ok(),
        up: Some(up),
        carrier,
        addresses: Some(addresses.iter().map(|&text| text.to_owned()).collect()),
    };
    let expected = vec![
        link("docker0", true, None, &[]),
        link("eth0", true, Some(false), &["192.168.100.8/24"]),
        link("eth1", false, None, &[]),
    ];
    assert_eq!(links, Some(expected));
}

#[test]
fn the_kernel_is_heard_and_programs_that_write_there_are_not() {
    let mut said = kernel::Said::default();
    for record in [
        "6,339,5140900,-;NET: Registered protocol family 10\n",
        "30,340,5690716,-;udevd[80]: started with --secret=abc\n",
        "3,341,7000001,-;Out of memory: Killed process 812 (firefox-esr) total-vm:2048kB, anon-rss:1kB, UID:1000\n",
        "3,342,7000002,-;Memory cgroup out of memory: Killed process 9 (Web) Content) total-vm:1kB, anon-rss:1kB\n",
        "4,343,7000003,c;token=abcd1234EFGH5678ijklMNOP\n SUBSYSTEM=net\n DEVICE=n2\n",
        "6,344,7000004,-;  with environment:\n",
        "7,345,7000005,-;    TOKEN=abc\n",
        "5,346,7000006,-;Kernel command line: console=ttyS0 secret=1\n",
        "no record",
    ] {
        said.take(record.as_bytes());
    }
    assert_eq!(said.oom_killed, ["firefox-esr", "Web) Content"]);
    assert_eq!(said.tail.len(), 4);
    assert_eq!(said.tail[0], "[5.140900] NET: Registered protocol family 10");
    assert_eq!(said.tail[3], "[7.000003] token=[token]");
    for n in 0..1000 {
        said.take(format!("6,{n},{n},-;{}", "x".repeat(n)).as_bytes());
    }
    assert_eq!(said.tail.len(), 40);
    assert!(said.tail.iter().all(|line| line.len() < 230));
}

#[test]
fn memory_is_read() {
    let text = "MemTotal:        1006456 kB\nMemFree:  1 kB\nMemAvailable:     524288 kB\n";
    assert_eq!((kernel::mib(text, "MemTotal"), kernel::mib(text, "MemAvailable")), (Some(982), Some(512)));
    assert_eq!(kernel::mib("MemTotal: many kB", "MemTotal"), None);
    let psi = "some avg10=12.90 avg60=0.00 avg300=0.00 total=0\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n";
    assert_eq!(kernel::stall_percent(psi), Some(12));
    assert_eq!(kernel::stall_percent("some avg10=999.0"), None);
}

#[test]
fn units_are_named_with_and_without_a_dot_before_them() {
    let text = "network-setup.service loaded failed failed Network from \u{1b}[31mkernel parameters\n\
        ● dev-sdb1.device loaded failed failed /dev/sdb1\n\n0 loaded units listed\n";
    assert_eq!(units::names(text), ["network-setup.service", "dev-sdb1.device"]);
}

#[test]
fn a_program_that_does_not_end_or_says_too_much_is_not_waited_for() {
    let started = Instant::now();
    let soon = || Instant::now() + Duration::from_millis(200);
    assert_eq!(units::ask(Command::new("sleep").arg("30"), soon()), None);
    assert_eq!(units::ask(Command::new("yes").arg("no"), soon() + Duration::from_secs(20)), None);
    assert_eq!(units::ask(Command::new("false").arg(""), soon() + Duration::from_secs(5)), None);
    assert_eq!(units::ask(&mut Command::new("/no/such/program"), soon()), None);
    assert_eq!(units::ask(Command::new("echo").arg("a.b"), soon() + Duration::from_secs(5)).as_deref(), Some("a.b\n"));
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_socket_has_an_owner_and_a_service_without_a_process_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let found = processes::scan(Path::new("/proc"), until);
    let port = listener.local_addr().unwrap().port();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = net::listeners(&table, false).into_iter().find(|socket| socket.port == port).unwrap();
    assert_eq!(
        found.owner(ours.inode),
        fs::read_to_string("/proc/self/comm").ok().map(|name| name.trim_end().to_owned())
    );
    assert!(found.complete);
    let wanted = BTreeSet::from(["no-such-service".to_owned()]);
    assert_eq!(found.stopped(&wanted), ["no-such-service"]);
    assert!(!processes::scan(Path::new("/proc"), Instant::now()).complete, "no time, no proof");
}

/// The answer to a question.
fn answer(outbox: &Outbox) -> (u64, GuestFacts) {
    loop {
        outbox.clear_wake();
        if let Some(GuestMessage::Facts { id, facts }) = outbox.pop() {
            return (id, *facts);
        }
        assert_eq!(poll(&mut [PollFd::new(outbox.wake_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000u16)), Ok(1));
    }
}

#[test]
fn a_question_is_answered_in_time_with_what_is_known() {
    let outbox = Arc::new(Outbox::new().unwrap());
    outbox.host_came(Vec::new);
    let facts = Facts::new(outbox.clone());
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = ReachTarget::Udp { address: silent.local_addr().unwrap() };
    let started = Instant::now();
    facts.start(7, clock::wall_ms() + 5_000, vec![nobody], 1_200);
    assert!(started.elapsed() < Duration::from_millis(500), "the channel's thread does not wait");
    let (id, found) = answer(&outbox);
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    assert_eq!((id, found.egress), (7, Some(false)));
    assert!(found.clock_skew_ms.is_some_and(|ms| (-5_100..=-4_900).contains(&ms)), "{found:?}");
    assert!(found.links.is_some() && found.routes.is_some() && found.listening.is_some(), "{found:?}");
    assert!(found.available_mib.is_some_and(|mib| mib > 0), "{found:?}");
    assert!(encode(&GuestMessage::Facts { id, facts: Box::new(found) }).unwrap().len() < 64 * 1024);
    // A refusal is contact.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    facts.start(8, 0, vec![ReachTarget::Tcp { address: closed }], 1_000);
    assert_eq!(answer(&outbox).1.egress, Some(true));
}

#[test]
fn one_question_too_many_is_answered_at_once() {
    let outbox = Arc::new(Outbox::new().unwrap());
    outbox.host_came(Vec::new);
    let facts = Facts::new(outbox.clone());
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = || vec![ReachTarget::Udp { address: silent.local_addr().unwrap() }];
    for id in 0..3 {
        facts.start(id, 0, nobody(), u64::MAX);
    }
    let (id, found) = answer(&outbox);
    assert_eq!((id, found.links, found.egress), (2, None, None));
    let mut rest = [answer(&outbox).0, answer(&outbox).0];
    rest.sort_unstable();
    assert_eq!(rest, [0, 1]);
}

#[test]
fn a_ring_buffer_without_an_end_is_left_in_time() {
    let dir = std::env::temp_dir().join(format!("airlock-facts-kmsg-{}", std::process::id()));
    let mut file = fs::File::create(&dir).unwrap();
    (0..4000).for_each(|n| writeln!(file, "6,{n},1,-;x").unwrap());
    let said = kernel::read(&dir, Instant::now() + Duration::from_secs(5)).unwrap();
    fs::remove_file(&dir).unwrap();
    assert!(!said.tail.is_empty());
    let started = Instant::now();
    kernel::read(Path::new("/dev/zero"), Instant::now() + Duration::from_millis(100)).unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(kernel::read(Path::new("/no/such/device"), Instant::now()), None);
}

proptest! {
    #[test]
    fn hostile_tables_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..2000), text in "([0-9A-Fa-f:x \t]{0,40}\n){0,100}") {
        for text in [String::from_utf8_lossy(&bytes).into_owned(), text, format!("{ROUTE}{}", String::from_utf8_lossy(&bytes))] {
            prop_assert!(net::routes(&text).len() <= net::MAX_LISTED);
            prop_assert!(net::neighbours(&text).len() <= net::MAX_LISTED);
            prop_assert!(net::listeners(&text, false).len() <= net::MAX_LISTED && net::listeners(&text, true).len() <= net::MAX_LISTED);
            prop_assert!(units::names(&text).iter().all(|name| name.len() <= net::MAX_NAME));
            let _ = (kernel::mib(&text, "MemTotal"), kernel::stall_percent(&text));
        }
        let mut said = kernel::Said::default();
        said.take(&bytes);
        said.take(&[b"6,1,2,-;", bytes.as_slice()].concat());
        said.take(&[b"6,1,2,-;Killed process 7 (", bytes.as_slice()].concat());
        prop_assert!(said.tail.iter().all(|line| line.len() < 230 && !line.contains('\n')));
    }
}
