use super::*;
use crate::outbox::Outbox;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

fn lease() -> Lease {
    Lease { addr: Ipv4Addr::new(10, 9, 0, 2), prefix: 24, gateway: Some(Ipv4Addr::new(10, 9, 0, 1)) }
}

fn observed(addresses: &[(&str, u8)]) -> Observed {
    Observed {
        index: 2,
        name: "eth0".into(),
        is_up: true,
        has_carrier: true,
        addresses: addresses.iter().map(|(addr, prefix)| (addr.parse().unwrap(), *prefix)).collect(),
        default_route: lease().gateway,
    }
}

#[test]
fn a_change_is_judged_at_once_where_nobody_may_touch_the_interface() {
    let (mut judge, now) = (Judge::new(lease(), true), Instant::now());
    assert_eq!(judge.look(&observed(&[]), now), Verdict::Unsettled, "it was never there");
    let good = observed(&[("10.9.0.2", 24)]);
    assert_eq!(judge.look(&good, now), Verdict::Quiet);
    assert_eq!(judge.look(&observed(&[]), now), Verdict::Conflict(Conflict::AddressGone));
    assert_eq!(judge.look(&observed(&[]), now), Verdict::Unsettled, "it is said once");
    assert_eq!(judge.look(&good, now), Verdict::Quiet);
    let two = observed(&[("10.9.0.2", 24), ("10.9.0.77", 24), ("169.254.3.4", 16)]);
    let foreign = Conflict::Foreign(vec![(Ipv4Addr::new(10, 9, 0, 77), 24)]);
    assert_eq!(judge.look(&two, now), Verdict::Conflict(foreign.clone()));
    assert_eq!(foreign.words("eth0", &lease()), "added 10.9.0.77/24 to eth0");
    let other_prefix = observed(&[("10.9.0.2", 16)]);
    assert!(matches!(judge.look(&other_prefix, now), Verdict::Conflict(Conflict::Foreign(_))));
    let unrouted = Observed { default_route: None, ..good };
    assert_eq!(judge.look(&unrouted, now), Verdict::Conflict(Conflict::RouteGone));
    assert_eq!(judge.look(&Observed::default(), now), Verdict::Conflict(Conflict::LinkGone));
}

#[test]
fn a_link_that_goes_down_may_come_back_under_another_name() {
    let (mut judge, start) = (Judge::new(lease(), true), Instant::now());
    let after = |millis| start + Duration::from_millis(millis);
    let good = observed(&[("10.9.0.2", 24)]);
    assert_eq!(judge.look(&good, start), Verdict::Quiet);
    let down = Observed { is_up: false, default_route: None, ..good.clone() };
    assert_eq!(judge.look(&down, after(100)), Verdict::Unsettled);
    assert!(judge.is_unsettled());
    let renamed_down = Observed { name: "lan0".into(), ..down.clone() };
    assert_eq!(judge.look(&renamed_down, after(200)), Verdict::Unsettled);
    let unrouted = Observed { is_up: true, ..renamed_down.clone() };
    assert_eq!(judge.look(&unrouted, after(300)), Verdict::Renamed { from: "eth0".into() });
    assert_eq!(judge.look(&unrouted, after(300)), Verdict::Conflict(Conflict::RouteGone), "nobody put it back");
    let renamed = Observed { name: "lan0".into(), ..good };
    assert_eq!(judge.look(&renamed, after(400)), Verdict::Quiet);
    // Linux since 6.2 renames an interface that is up.
    let again = Observed { name: "lan1".into(), ..renamed.clone() };
    assert_eq!(judge.look(&again, after(500)), Verdict::Renamed { from: "lan0".into() });
    assert_eq!(judge.look(&again, after(500)), Verdict::Quiet);
    // One that stays down was taken down, and a rename excuses no other address.
    assert_eq!(judge.look(&Observed { is_up: false, ..again.clone() }, after(600)), Verdict::Unsettled);
    let verdict = judge.look(&Observed { is_up: false, ..again }, after(1400));
    assert_eq!(verdict, Verdict::Conflict(Conflict::LinkDown));
    let stolen = Observed { name: "lan2".into(), ..observed(&[("10.66.0.9", 24)]) };
    assert!(matches!(judge.look(&stolen, after(1500)), Verdict::Conflict(Conflict::Foreign(_))));
}

#[test]
fn a_manager_may_take_its_own_address_for_a_moment() {
    let (mut judge, start) = (Judge::new(lease(), false), Instant::now());
    let after = |millis| start + Duration::from_millis(millis);
    let good = observed(&[("10.9.0.2", 24)]);
    judge.look(&good, start);
    assert_eq!(judge.look(&observed(&[]), start), Verdict::Unsettled);
    assert!(judge.is_unsettled());
    assert_eq!(judge.look(&good, after(500)), Verdict::Quiet);
    assert_eq!(judge.look(&observed(&[]), after(600)), Verdict::Unsettled);
    assert_eq!(judge.look(&observed(&[]), after(2700)), Verdict::Conflict(Conflict::AddressGone));
    assert!(!judge.is_unsettled());
}

#[test]
fn another_address_in_the_place_of_ours_is_a_mismatch_in_the_end() {
    let (mut judge, start) = (Judge::new(lease(), false), Instant::now());
    let fallback = observed(&[("10.9.0.10", 24)]);
    assert_eq!(judge.look(&fallback, start), Verdict::Unsettled);
    let has = vec!["10.9.0.10/24".to_owned()];
    assert_eq!(judge.look(&fallback, start + Duration::from_secs(21)), Verdict::Mismatch { has });
}

#[test]
fn who_takes_it_again_and_again_is_not_answered() {
    let (mut judge, now) = (Judge::new(lease(), true), Instant::now());
    assert!((0..20).all(|_| judge.may_restore(now)));
    assert!(!judge.may_restore(now));
    assert!(judge.may_restore(now + Duration::from_secs(11)));
}

fn ip(args: &str) {
    let out = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Runs `body` with an interface `eth0` (10.9.0.2/24, gateway in another namespace's place) in a network namespace that ends
/// with its thread.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return println!("skipped: no network namespace without root");
        }
        ip("link add eth0 address 06:00:0a:09:00:02 type veth peer name peer");
        ip("link set peer up");
        body();
    });
    thread.join().unwrap();
}

fn boot() -> BootConfig {
    BootConfig::parse("ip=10.9.0.2::10.9.0.1:255.255.255.0::eth0:off airlock.mac=06:00:0a:09:00:02").unwrap()
}

#[test]
fn what_was_taken_is_put_back_on_real_links() {
    in_namespace(|| {
        ip("link set eth0 up");
        for damage in [
            "addr add 10.9.0.2/24 dev eth0",
            "addr del 10.9.0.2/24 dev eth0",
            "addr add 10.9.0.77/16 dev eth0",
            "link set eth0 down",
            "route del default",
            "addr flush dev eth0",
        ] {
            ip(damage);
            let before = Observed::now(&boot(), 0);
            netlink::restore(&before, &lease()).unwrap();
            let after = Observed::now(&boot(), 0);
            assert_eq!(after.addresses, [(lease().addr, 24)], "after {damage}");
            assert_eq!((after.is_up, after.default_route), (true, lease().gateway), "after {damage}");
        }
    });
}

/// The timeline of a watch over the calling thread's namespace, kept in `dir`.
fn watched(dir: &std::path::Path, owner: NetworkOwner) -> Arc<Timeline> {
    let outbox = Arc::new(Outbox::new().unwrap());
    let timeline = Arc::new(Timeline::open(&dir.join("t"), &dir.join("c"), outbox));
    let watched = timeline.clone();
    let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        let _ = watch(&boot(), owner, OnConflict::Restore, &watched);
    });
    timeline
}

fn wait(timeline: &Timeline, what: &str, ready: &dyn Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", timeline.reports());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stages_are_reported_as_they_are_seen_and_a_thief_is_named() {
    in_namespace(|| {
        // The peer is the gateway: it answers ARP from here, on the other end of the cable.
        let dir = std::env::temp_dir().join(format!("airlock-owner-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let timeline = watched(&dir, NetworkOwner::Dhcpcd);
        let wait = |what: &str, ready: &dyn Fn() -> bool| wait(&timeline, what, ready);
        ip("link set eth0 up");
        wait("link_up", &|| timeline.has(Stage::LinkUp));
        assert!(!timeline.has(Stage::AddressSet));
        ip("addr add 10.9.0.2/24 dev eth0");
        wait("address_set", &|| timeline.has(Stage::AddressSet));
        ip("route add default via 10.9.0.1");
        wait("route_set", &|| timeline.has(Stage::RouteSet));
        assert!(!timeline.has(Stage::GatewayReachable));
        ip("neigh replace 10.9.0.1 lladdr 06:00:0a:09:00:01 dev eth0 nud reachable");
        wait("gateway_reachable", &|| timeline.has(Stage::GatewayReachable));
        ip("addr del 10.9.0.2/24 dev eth0");
        let conflict = || {
            let reports = timeline.reports();
            reports.into_iter().find(|report| report.facts.get("cause") == Some(&"address_owner_conflict".into()))
        };
        wait("a conflict", &|| conflict().is_some());
        let report = conflict().unwrap();
        let detail = report.detail.unwrap();
        assert!(report.ok && detail.contains("removed 10.9.0.2/24 from eth0; put back"), "{detail}");
        assert!(Observed::now(&boot(), 0).has(&lease()));
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

/// What a DHCP client does: an address that ends some day, given again before it does.
#[test]
fn an_address_that_ends_some_day_is_the_lease_and_another_one_is_none() {
    in_namespace(|| {
        let dir = std::env::temp_dir().join(format!("airlock-expires-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let timeline = watched(&dir, NetworkOwner::Ifupdown);
        let wait = |what: &str, ready: &dyn Fn() -> bool| wait(&timeline, what, ready);
        ip("link set eth0 up");
        ip("addr add 10.9.0.2/24 dev eth0 valid_lft 600 preferred_lft 600");
        ip("route add default via 10.9.0.1");
        ip("neigh replace 10.9.0.1 lladdr 06:00:0a:09:00:01 dev eth0 nud reachable");
        wait("gateway_reachable", &|| timeline.has(Stage::GatewayReachable));
        ip("addr change 10.9.0.2/24 dev eth0 valid_lft 7200 preferred_lft 7200");
        ip("addr add 10.9.0.77/24 dev eth0 valid_lft 600 preferred_lft 600");
        let conflicts = || {
            let reports = timeline.reports().into_iter();
            reports.filter(|report| report.facts.contains_key("cause")).filter_map(|report| report.detail)
        };
        wait("a conflict", &|| conflicts().next().is_some());
        let told: Vec<String> = conflicts().collect();
        // A client that is still there would be named; here it was a command.
        assert!(told.len() == 1 && told[0].contains("added 10.9.0.77/24 to eth0; put back"), "{told:?}");
        assert_eq!(Observed::now(&boot(), 0).addresses, [(lease().addr, 24)]);
        let shown = Command::new("ip").args(["addr", "show", "dev", "eth0"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let ours = shown.lines().skip_while(|line| !line.contains("10.9.0.2/24")).nth(1).unwrap();
        assert!(ours.contains("valid_lft 7") && !ours.contains("forever"), "{shown}");
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn a_renamed_interface_is_followed_and_nobody_is_accused() {
    in_namespace(|| {
        let dir = std::env::temp_dir().join(format!("airlock-renamed-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        ip("link set eth0 up");
        ip("addr add 10.9.0.2/24 dev eth0");
        ip("route add default via 10.9.0.1");
        for (number, boot) in [boot(), by_name()].into_iter().enumerate() {
            let outbox = Arc::new(Outbox::new().unwrap());
            let timeline = Arc::new(Timeline::open(&dir.join("t"), &dir.join("c"), outbox));
            let (watched, known) = (timeline.clone(), Observed::now(&boot, 0).index);
            let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            let (config, (started, ready)) = (boot.clone(), std::sync::mpsc::channel());
            std::thread::spawn(move || {
                nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                started.send(()).unwrap();
                let _ = watch(&config, NetworkOwner::Airlock, OnConflict::Fail, &watched);
            });
            ready.recv().unwrap();
            // What it does first is look; it must have seen the old name.
            std::thread::sleep(Duration::from_millis(200));
            let name = format!("lan{number}");
            let was = Observed::now(&boot, known).name;
            ip(&format!("link set {was} down"));
            ip(&format!("link set {was} name {name}"));
            ip(&format!("link set {name} up"));
            let start = Instant::now();
            let noted =
                || timeline.reports().into_iter().find(|report| report.facts.get("was") == Some(&was.clone().into()));
            while noted().is_none() || Observed::now(&boot, known).default_route != lease().gateway {
                assert!(start.elapsed() < Duration::from_secs(10), "{:?}", timeline.reports());
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(noted().unwrap().detail.unwrap(), format!("{was} is called {name} now"));
            assert!(timeline.reports().iter().all(|report| report.ok), "{:?}", timeline.reports());
            // The next one is to be found by the name that stands there.
            ip(&format!("link set {name} down"));
            ip(&format!("link set {name} name eth0"));
            ip("link set eth0 up");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

fn by_name() -> BootConfig {
    BootConfig::parse("ip=10.9.0.2::10.9.0.1:255.255.255.0::eth0:off").unwrap()
}
