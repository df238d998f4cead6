//! Every operation with everything the kernel can say against it, and what changes under our feet between two of them.

use std::net::IpAddr;

use super::*;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Gives all capabilities of this thread away: the raw call changes only the calling thread, unlike setresuid(3).
fn drop_privileges() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: setresuid(2) takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(result, 0);
}

type Operation = fn(&mut Rtnetlink, &Link) -> Result<(), KernelError>;

/// What the boot asks of a link, by name.
const OPERATIONS: [(&str, Operation); 4] = [
    ("set MTU 1400 on g0", |netlink, link| netlink.set_mtu(link, 1400)),
    ("set g0 up", |netlink, link| netlink.set_up(link.index, &link.name)),
    ("set address 10.9.0.2/24 on g0", |netlink, link| netlink.add_address(link, addr("10.9.0.2"), 24)),
    ("set default route via 10.9.0.1 on g0", |netlink, link| netlink.set_default_route(link, addr("10.9.0.1"))),
];

fn refused(outcome: Result<(), KernelError>) -> (Option<Errno>, String) {
    let error = outcome.unwrap_err();
    (error.errno(), chain(&error))
}

#[test]
fn without_permission_every_operation_says_so() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        drop_privileges();
        for (name, operation) in OPERATIONS {
            let (errno, text) = refused(operation(&mut netlink, &link));
            assert_eq!(errno, Some(Errno::EPERM), "{name}");
            assert!(text.starts_with(name) && text.ends_with("Operation not permitted"), "{text}");
        }
        assert_eq!(arp::open(link.index).map(drop), Err(Errno::EPERM));
        // Looking is allowed to everybody: the report can still say what exists.
        assert_eq!(found(&mut Rtnetlink::open().unwrap()).index, link.index);
    });
}

#[test]
fn on_a_link_that_vanished_every_operation_says_so() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        ip("link del g0");
        for (name, operation) in OPERATIONS {
            let (errno, text) = refused(operation(&mut netlink, &link));
            // The kernel looks for a way to the gateway before it looks for the link.
            let expected = if name.contains("route") { Errno::ENETUNREACH } else { Errno::ENODEV };
            assert_eq!(errno, Some(expected), "{name}: {text}");
            assert!(text.starts_with(name), "{text}");
        }
        assert_eq!(arp::open(link.index).map(drop), Err(Errno::ENODEV));
        let started = Instant::now();
        let (errno, text) = refused(netlink.wait_carrier(&link, Duration::from_secs(30)));
        assert_eq!(errno, Some(Errno::ENODEV), "{text}");
        assert!(started.elapsed() < Duration::from_secs(5), "a link that is gone is not waited for");
    });
}

#[test]
fn a_link_renamed_between_the_steps_gets_its_address_all_the_same() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        ip("link set h0 up");
        for (step, (_, operation)) in OPERATIONS.iter().enumerate() {
            // A link that is up keeps its name on older kernels; newer ones let it be changed.
            let name = format!("enp{step}s3");
            let _ = Command::new("ip")
                .args(["link", "set", "dev"])
                .arg(current_name(link.index))
                .args(["name", &name])
                .output();
            operation(&mut netlink, &link).unwrap();
        }
        let name = current_name(link.index);
        assert_ne!(name, "g0");
        netlink.wait_carrier(&link, Duration::from_secs(5)).unwrap();
        assert!(ip_says(&format!("-4 addr show {name}")).contains("mtu 1400"));
        assert!(ip_says("route").contains(&format!("default via 10.9.0.1 dev {name}")));
        assert_eq!(found(&mut netlink).name, name);
    });
}

fn current_name(index: i32) -> String {
    let all = ip_says("-o link");
    let line = all.lines().find(|line| line.starts_with(&format!("{index}: "))).unwrap();
    line.split([':', '@']).nth(1).unwrap().trim().to_owned()
}

#[test]
fn the_kernel_s_reasons_are_quoted() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        let (errno, text) = refused(netlink.set_mtu(&link, 67));
        assert_eq!((errno, text.contains("mtu less than device minimum")), (Some(Errno::EINVAL), true), "{text}");
        let (errno, text) = refused(netlink.add_address(&link, addr("10.9.0.2"), 33));
        assert_eq!(errno, Some(Errno::EINVAL), "{text}");
        // No address yet: the gateway is outside of every subnet.
        netlink.set_up(link.index, &link.name).unwrap();
        let (errno, text) = refused(netlink.set_default_route(&link, addr("10.9.0.1")));
        assert_eq!(errno, Some(Errno::ENETUNREACH), "{text}");
        netlink.add_address(&link, addr("10.9.0.2"), 24).unwrap();
        // The subnet's broadcast address is no gateway.
        let (errno, text) = refused(netlink.set_default_route(&link, addr("10.9.0.255")));
        assert_eq!((errno, text.contains("Nexthop has invalid gateway")), (Some(Errno::EINVAL), true), "{text}");
        // On a link that is down the subnet's own route is missing.
        ip("addr flush dev g0");
        ip("link set g0 down");
        netlink.add_address(&link, addr("10.9.0.2"), 24).unwrap();
        let (errno, text) = refused(netlink.set_default_route(&link, addr("10.9.0.1")));
        assert_eq!(errno, Some(Errno::ENETUNREACH), "{text}");
        // With a /32 everything is outside.
        ip("link set g0 up");
        ip("addr flush dev g0");
        netlink.add_address(&link, addr("10.9.0.2"), 32).unwrap();
        let (errno, text) = refused(netlink.set_default_route(&link, addr("10.9.0.1")));
        assert_eq!(errno, Some(Errno::ENETUNREACH), "{text}");
    });
}

/// A driver may refuse to go up: a macvlan whose hardware address another one on the same device uses.
#[test]
fn a_driver_that_refuses_to_go_up_is_named_with_its_errno() {
    in_namespace(|| {
        ip("link add low0 type veth peer name low1");
        ip("link set low0 up");
        for name in ["mac0", "mac1"] {
            ip(&format!("link add {name} link low0 address {OURS} type macvlan"));
        }
        let mut netlink = Rtnetlink::open().unwrap();
        let links: Vec<Link> = netlink.links().filter(|link| link.name.starts_with("mac")).cloned().collect();
        netlink.set_up(links[0].index, &links[0].name).unwrap();
        let (errno, text) = refused(netlink.set_up(links[1].index, &links[1].name));
        assert_eq!((errno, text.starts_with("set mac1 up")), (Some(Errno::EADDRINUSE), true), "{text}");
    });
}

#[test]
fn an_address_under_another_mask_or_on_another_link_is_no_obstacle() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        netlink.set_up(link.index, &link.name).unwrap();
        ip("link set h0 up");
        ip("addr add 10.9.0.2/16 dev g0");
        ip("addr add 10.9.0.2/24 dev h0");
        netlink.add_address(&link, addr("10.9.0.2"), 24).unwrap();
        let says = ip_says("-4 addr show g0");
        assert!(says.contains("10.9.0.2/16") && says.contains("10.9.0.2/24"), "{says}");
    });
}

#[test]
fn of_two_interfaces_the_one_with_our_mac_is_taken_under_any_name() {
    for name in ["eth0", "ens3", "enp0s3", "enx06000a090002"] {
        in_namespace(move || {
            ip("link add eth9 address 06:00:0a:09:00:63 type veth peer name p0");
            ip(&format!("link add {name} address {OURS} type veth peer name p1"));
            let mut netlink = Rtnetlink::open().unwrap();
            let link = found(&mut netlink);
            assert_eq!(link.name, name);
            netlink.set_up(link.index, &link.name).unwrap();
            netlink.add_address(&link, addr("10.9.0.2"), 24).unwrap();
            assert!(ip_says(&format!("-4 addr show {name}")).contains("inet 10.9.0.2/24"));
            assert!(!ip_says("-4 addr show eth9").contains("inet "));
        });
    }
}

#[test]
fn the_other_family_takes_the_same_path() {
    in_namespace(|| {
        let (mut netlink, link) = with_link();
        ip("link set h0 up");
        netlink.set_up(link.index, &link.name).unwrap();
        for _ in 0..2 {
            netlink.add_address(&link, addr("2001:db8::8"), 64).unwrap();
        }
        assert!(ip_says("-6 addr show g0").contains("inet6 2001:db8::8/64 scope global"));
        let (errno, text) = refused(netlink.add_address(&link, addr("2001:db8::9"), 129));
        assert_eq!(errno, Some(Errno::EINVAL), "{text}");
        netlink.set_default_route(&link, addr("2001:db8::1")).unwrap();
        assert!(ip_says("-6 route").contains("default via 2001:db8::1 dev g0"));
    });
}
