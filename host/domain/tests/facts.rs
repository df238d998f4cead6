//! What probes found out, and what it is diagnosed as: for each rule the fact that proves it and one that looks like it and must
//! not, both beside everything else of a healthy machine; and what holds for any part of a healthy machine's facts.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use airlock_domain::Cause;
use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::diagnosis::facts::{
    BridgeFacts, GuestLink, GuestNeighbour, GuestRoute, Listening, NeighbourFacts, Probe, TapFacts,
};
use airlock_domain::diagnosis::{Case, Expected, GuestFacts, HostFacts, Verdict, classify, diagnose};
use airlock_protocol::Stage;
use proptest::prelude::*;

const ADDRESS: &str = "192.168.100.8/24";
const MAC: &str = "06:00:c0:a8:64:08";
const FOREIGN: &str = "02:00:00:00:00:99";

/// Both sides of a healthy machine with a display and a way out.
#[derive(Debug, Clone)]
struct Facts {
    host: HostFacts,
    guest: GuestFacts,
}

impl Facts {
    fn tap(&mut self) -> &mut TapFacts {
        self.host.tap.as_mut().unwrap().as_mut().unwrap()
    }

    fn bridge(&mut self) -> &mut BridgeFacts {
        self.host.bridge.as_mut().unwrap().as_mut().unwrap()
    }

    fn link(&mut self) -> &mut GuestLink {
        &mut self.guest.links.as_mut().unwrap()[0]
    }

    fn bind(&mut self, port: u16, addresses: &[&str]) {
        let listening = self.guest.listening.as_mut().unwrap();
        listening.retain(|socket| socket.port != port);
        listening.extend(addresses.iter().map(|address| listens(address, port, "airlock-agent")));
    }

    fn drop(&mut self, rule: &str, count: u64) {
        self.host.drops.as_mut().unwrap().insert(rule.to_owned(), count);
    }

    /// ARP works, and nothing above it.
    fn cut_above_arp(&mut self) {
        (self.host.ping, self.host.tcp) = (Some(Probe::TimedOut), Some(Probe::TimedOut));
        (self.host.http, self.host.rfb, self.host.painted) = (Some(Probe::TimedOut), Some(Probe::TimedOut), None);
    }

    fn mute(&mut self) {
        self.cut_above_arp();
        self.host.neighbour = Some(NeighbourFacts { answered: Some(false), mac: None, ours: None });
    }

    fn refuse(&mut self, port: u16) {
        match port {
            8080 => (self.host.tcp, self.host.http) = (Some(Probe::Refused), Some(Probe::Refused)),
            _ => (self.host.rfb, self.host.painted) = (Some(Probe::Refused), None),
        }
    }

    fn says_rfb(&mut self, detail: &str) {
        self.host.rfb = Some(Probe::Wrong { detail: detail.to_owned() });
        self.host.painted = None;
    }

    fn closed_out(&mut self) {
        (self.guest.egress, self.guest.dns) = (Some(false), Some(false));
    }

    /// The machine may not get out.
    fn without_uplink(&mut self) {
        (self.host.nat, self.guest.egress, self.guest.dns) = (None, None, None);
    }
}

fn listens(address: &str, port: u16, program: &str) -> Listening {
    Listening { address: address.to_owned(), port, program: Some(program.to_owned()) }
}

fn healthy() -> Facts {
    let tap = TapFacts {
        alias: Some("vm".into()),
        ours: Some(true),
        up: Some(true),
        carrier: Some(true),
        master: Some(Some("br0".into())),
        vnet_hdr: Some(true),
        from_guest_packets: Some(40),
        to_guest_packets: Some(50),
    };
    let bridge = BridgeFacts {
        name: "br0".into(),
        up: Some(true),
        addresses: Some(vec!["192.168.100.1/24".into()]),
        has_gateway: Some(true),
    };
    let drops = ["foreign_address", "foreign_arp", "ipv6", "guest_to_gateway", "rp_filter"].map(|rule| {
        // Every guest asks for IPv6 routers.
        (rule.to_owned(), u64::from(rule == "ipv6") * 7)
    });
    let host = HostFacts {
        tap: Some(Some(tap)),
        bridge: Some(Some(bridge)),
        neighbour: Some(NeighbourFacts { answered: Some(true), mac: MAC.parse().ok(), ours: Some(true) }),
        ping: Some(Probe::Ok),
        tcp: Some(Probe::Ok),
        http: Some(Probe::Ok),
        rfb: Some(Probe::Ok),
        painted: Some(true),
        guarded: Some(true),
        drops: Some(BTreeMap::from(drops)),
        forward_drops: Some(Vec::new()),
        nat: Some(true),
        rp_filter: Some(1),
        overlap: None,
        vmm_alive: Some(true),
        vmm_oom_killed: Some(false),
        free_bytes: Some(20 << 30),
    };
    let eth0 = GuestLink {
        name: "eth0".into(),
        mac: MAC.parse().ok(),
        up: Some(true),
        carrier: Some(true),
        addresses: Some(vec![ADDRESS.into()]),
    };
    let docker0 = GuestLink {
        name: "docker0".into(),
        mac: "02:42:00:00:00:01".parse().ok(),
        up: Some(true),
        carrier: None,
        addresses: Some(vec!["172.17.0.1/16".into()]),
    };
    let gateway = "192.168.100.1".parse().unwrap();
    let guest = GuestFacts {
        links: Some(vec![eth0, docker0]),
        default_gateways: Some(vec![gateway]),
        routes: Some(vec![GuestRoute { to: "0.0.0.0/0".into(), gateway: Some(gateway), dev: "eth0".into() }]),
        neighbours: Some(vec![GuestNeighbour { address: gateway, mac: FOREIGN.parse().ok(), dev: "eth0".into() }]),
        gateway_answers: Some(true),
        listening: Some(vec![
            listens("0.0.0.0", 8080, "airlock-agent"),
            listens("0.0.0.0", 5901, "Xvnc"),
            listens("127.0.0.1", 631, "cupsd"),
        ]),
        failed_units: Some(Vec::new()),
        total_mib: Some(2048),
        available_mib: Some(1024),
        memory_stall_percent: Some(0),
        oom_killed: Some(Vec::new()),
        clock_skew_ms: Some(12),
        dns: Some(true),
        egress: Some(true),
        kernel_tail: Some(vec!["[1.0] eth0: link is up".into()]),
    };
    Facts { host, guest }
}

/// How far the machine is.
#[derive(Debug, Clone, Copy)]
enum Stand {
    Ready,
    /// It boots, and this was its last stage.
    Boots(Stage),
    /// This stage was not reached in time.
    Overdue(Stage),
    /// Its VMM ended when this stage was next.
    Exited(Stage),
    /// Nobody knows.
    Unknown,
}

fn timeline_until(is_reached: impl Fn(Stage) -> bool) -> Vec<TimelineEntry> {
    let reached = Stage::ALL.iter().filter(|stage| is_reached(**stage));
    let entry = |stage: &Stage| TimelineEntry {
        stage: *stage,
        ok: true,
        at_ms: f64::from(u8::try_from(Stage::ALL.iter().position(|known| known == stage).unwrap()).unwrap()),
        guest_us: None,
        errno: None,
        detail: None,
    };
    reached.map(entry).collect()
}

fn judge(facts: &Facts, stand: Stand) -> Verdict {
    let late =
        |stage: Stage| Failure::new(cause_of(stage), Some(stage), format!("{stage} was not reached within 60 s"));
    let (timeline, failure) = match stand {
        Stand::Ready => (timeline_until(|_| true), None),
        Stand::Boots(last) => (timeline_until(|stage| stage <= last), None),
        Stand::Overdue(next) => (timeline_until(|stage| stage < next), Some(late(next))),
        Stand::Exited(next) => {
            let failure = Failure::new(Cause::VmmExited, Some(next), "the VMM was killed by SIGKILL");
            (timeline_until(|stage| stage < next), Some(failure))
        }
        Stand::Unknown => (Vec::new(), None),
    };
    diagnose(&Case {
        timeline: &timeline,
        failure: failure.as_ref(),
        host: Some(&facts.host),
        guest: Some(&facts.guest),
        expected: Expected { address: Some(ADDRESS.into()), ..Expected::default() },
        ..Case::default()
    })
}

fn cause_of(stage: Stage) -> Cause {
    match stage {
        Stage::DisplayUp => Cause::DisplayFailed,
        _ => Cause::Inconclusive,
    }
}

/// What is done to a healthy machine's facts.
type Change = fn(&mut Facts);

/// Where it stands, what is changed, the verdict and its stage.
type Row = (Stand, Change, &'static str, Option<Stage>);

/// For each rule what proves it.
#[rustfmt::skip]
const PROVES: &[Row] = &[
    (Stand::Ready, |f| f.host.bridge = Some(None), "bridge_missing", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.bridge().up = Some(false), "bridge_missing", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.bridge().has_gateway = Some(false), "bridge_address_mismatch", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.host.tap = Some(None), "tap_missing", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().ours = Some(false), "tap_name_collision", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().up = Some(false), "tap_down", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().master = Some(None), "tap_not_in_bridge", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().master = Some(Some("docker0".into())), "tap_not_in_bridge", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().vnet_hdr = Some(false), "tap_no_vnet_hdr", Some(Stage::TapUp)),
    (Stand::Ready, |f| { f.tap().vnet_hdr = Some(false); f.cut_above_arp(); }, "tap_no_vnet_hdr", Some(Stage::TapUp)),
    (Stand::Boots(Stage::LinkUp), |f| f.tap().up = Some(false), "tap_down", Some(Stage::TapUp)),
    (Stand::Ready, |f| f.tap().carrier = Some(false), "link_no_carrier", Some(Stage::LinkUp)),
    (Stand::Ready, |f| f.host.overlap = Some("192.168.100.8/32 dev up0".into()), "subnet_overlap", Some(Stage::Leased)),
    (Stand::Exited(Stage::HandedOver), |f| { f.host.vmm_oom_killed = Some(true); f.host.vmm_alive = Some(false); f.host.tap = Some(None); },
        "memory_insufficient", Some(Stage::HandedOver)),
    (Stand::Exited(Stage::VmmStarted), |f| f.host.vmm_oom_killed = Some(true), "memory_insufficient", Some(Stage::VmmStarted)),
    (Stand::Overdue(Stage::DiskReady), |f| f.host.free_bytes = Some(0), "disk_full", Some(Stage::DiskReady)),
    (Stand::Ready, |f| f.host.free_bytes = Some(0), "disk_full", Some(Stage::DiskReady)),
    (Stand::Ready, |f| f.guest.links = Some(Vec::new()), "link_missing", Some(Stage::LinkFound)),
    (Stand::Ready, |f| f.link().carrier = Some(false), "link_no_carrier", Some(Stage::LinkUp)),
    (Stand::Ready, |f| f.link().up = Some(false), "address_owner_conflict", Some(Stage::LinkUp)),
    (Stand::Overdue(Stage::LinkUp), |f| f.link().up = Some(false), "link_up_failed", Some(Stage::LinkUp)),
    (Stand::Ready, |f| f.link().addresses = Some(Vec::new()), "address_owner_conflict", Some(Stage::AddressSet)),
    (Stand::Ready, |f| f.link().addresses = Some(vec!["192.168.100.10/24".into()]), "address_mismatch", Some(Stage::AddressSet)),
    (Stand::Overdue(Stage::Reachable), |f| { f.mute(); f.guest = GuestFacts::default(); f.drop("foreign_address", 9); },
        "address_mismatch", Some(Stage::AddressSet)),
    (Stand::Ready, |f| f.host.neighbour = Some(NeighbourFacts { answered: Some(true), mac: FOREIGN.parse().ok(), ours: Some(false) }),
        "address_conflict", Some(Stage::AddressSet)),
    (Stand::Ready, |f| f.guest.gateway_answers = Some(false), "gateway_unreachable", Some(Stage::GatewayReachable)),
    (Stand::Ready, |f| f.cut_above_arp(), "l2_ok_l3_dead", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::Reachable), |f| f.cut_above_arp(), "l2_ok_l3_dead", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.cut_above_arp(); f.drop("rp_filter", 12); }, "rp_filter_drop", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.closed_out(); f.drop("rp_filter", 12); }, "rp_filter_drop", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.closed_out(); f.host.nat = Some(false); }, "nat_missing", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.host.nat = Some(false); f.guest.egress = None; f.guest.dns = None; }, "nat_missing", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.closed_out(); f.host.forward_drops = Some(vec!["ip evil way".into()]); }, "forward_policy_drop", Some(Stage::Reachable)),
    (Stand::Ready, |f| f.guest.dns = Some(false), "dns_failed", Some(Stage::Reachable)),
    (Stand::Ready, |f| f.guest.clock_skew_ms = Some(-31_536_000_000), "clock_wrong", Some(Stage::Reachable)),
    (Stand::Ready, |f| f.guest.clock_skew_ms = Some(i64::MIN), "clock_wrong", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::Reachable), |f| { f.refuse(8080); f.bind(8080, &["127.0.0.1"]); }, "ipv6_only_bind", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::Reachable), |f| { f.refuse(8080); f.bind(8080, &["::1", "127.0.0.1"]); }, "ipv6_only_bind", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::Reachable), |f| { f.refuse(8080); f.bind(8080, &["::ffff:127.0.0.1"]); }, "ipv6_only_bind", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::Reachable), |f| { f.refuse(8080); f.bind(8080, &["::"]); }, "ipv6_only_bind", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::AgentUp), |f| { f.bind(8080, &[]); f.host.http = Some(Probe::Wrong { detail: "no JSON".into() });
        f.guest.listening.as_mut().unwrap().push(listens("0.0.0.0", 8080, "nc")); }, "agent_port_conflict", Some(Stage::AgentUp)),
    (Stand::Overdue(Stage::BrowserUp), |f| f.guest.oom_killed = Some(vec!["firefox-esr".into()]), "browser_oom", Some(Stage::BrowserUp)),
    (Stand::Overdue(Stage::Reachable), |f| f.guest.oom_killed = Some(vec!["node".into(), "node".into()]), "guest_oom", Some(Stage::Reachable)),
    (Stand::Ready, |f| f.guest.oom_killed = Some(vec!["Web Content".into()]), "browser_oom", Some(Stage::BrowserUp)),
    (Stand::Ready, |f| { f.refuse(5901); f.bind(5901, &["127.0.0.1", "::1"]); }, "vnc_bound_to_loopback", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| { f.refuse(5901); f.bind(5901, &[]); }, "vnc_refused", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| f.says_rfb("it is no RFB server: it begins with \"HTTP/1.1 400\""), "vnc_refused", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| f.says_rfb("it refuses the password: \"Authentication failure\""), "vnc_auth_mismatch", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| f.says_rfb("it asks for a login (security types [19])"), "vnc_auth_mismatch", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| f.host.painted = Some(false), "screen_black", Some(Stage::PagePainted)),
    (Stand::Overdue(Stage::PagePainted), |f| f.host.painted = Some(false), "screen_black", Some(Stage::PagePainted)),
    // The earliest broken stage wins.
    (Stand::Ready, |f| { f.tap().master = Some(None); f.mute(); f.guest.gateway_answers = Some(false); f.closed_out(); },
        "tap_not_in_bridge", Some(Stage::TapUp)),
    (Stand::Ready, |f| { f.host.nat = Some(false); f.closed_out(); f.refuse(5901); }, "vnc_refused", Some(Stage::DisplayUp)),
    (Stand::Ready, |f| { f.drop("rp_filter", 3); f.cut_above_arp(); f.host.overlap = Some("192.168.100.8/32 dev up0".into()); },
        "subnet_overlap", Some(Stage::Leased)),
];

/// What looks like a fault and is none, or not this one.
#[rustfmt::skip]
const PROVES_NOTHING: &[Row] = &[
    (Stand::Ready, |_| {}, "healthy", None),
    (Stand::Ready, |f| f.without_uplink(), "healthy", None),
    // Our own setting.
    (Stand::Ready, |f| f.host.rp_filter = Some(2), "healthy", None),
    (Stand::Ready, |f| { f.without_uplink(); f.host.forward_drops = Some(vec!["ip evil way".into()]); }, "healthy", None),
    // What others forbid others: this guest gets out.
    (Stand::Ready, |f| f.host.forward_drops = Some(vec!["ip filter FORWARD at host".into()]), "healthy", None),
    (Stand::Ready, |f| { f.host.forward_drops = Some(vec!["ip evil way".into()]); f.guest.egress = None; }, "healthy", None),
    (Stand::Ready, |f| f.host.nat = Some(false), "healthy", None),
    (Stand::Ready, |f| f.drop("rp_filter", 3), "healthy", None),
    (Stand::Ready, |f| { f.cut_above_arp(); f.drop("rp_filter", 3); f.host.rp_filter = Some(0); }, "l2_ok_l3_dead", Some(Stage::Reachable)),
    (Stand::Ready, |f| f.drop("foreign_arp", 50), "healthy", None),
    // The VM is healthy, and its way out is told apart.
    (Stand::Ready, |f| f.closed_out(), "healthy", None),
    (Stand::Ready, |f| { f.guest.clock_skew_ms = Some(60_000); }, "healthy", None),
    (Stand::Ready, |f| { f.guest.clock_skew_ms = Some(-59_000); }, "healthy", None),
    (Stand::Ready, |f| f.host.ping = Some(Probe::TimedOut), "healthy", None),
    (Stand::Ready, |f| { f.cut_above_arp(); f.host.neighbour = None; }, "healthy", None),
    (Stand::Ready, |f| f.mute(), "inconclusive", Some(Stage::Reachable)),
    (Stand::Ready, |f| { f.mute(); f.host.http = Some(Probe::Ok); }, "healthy", None),
    (Stand::Ready, |f| { f.host.vmm_alive = Some(false); f.host.tap = Some(None); }, "healthy", None),
    (Stand::Ready, |f| { f.link().mac = None; }, "healthy", None),
    (Stand::Ready, |f| f.link().addresses = Some(vec!["169.254.7.7/16".into(), ADDRESS.into()]), "healthy", None),
    (Stand::Ready, |f| f.bind(8080, &["::"]), "healthy", None),
    (Stand::Ready, |f| f.bind(8080, &["127.0.0.1"]), "healthy", None),
    (Stand::Ready, |f| f.bind(8080, &["127.0.0.1", "192.168.100.8"]), "healthy", None),
    (Stand::Ready, |f| { f.bind(8080, &[]); f.guest.listening.as_mut().unwrap().push(listens("0.0.0.0", 8080, "nginx")); }, "healthy", None),
    (Stand::Ready, |f| { f.host.free_bytes = Some(300 << 20); }, "healthy", None),
    (Stand::Ready, |f| f.guest.available_mib = Some(40), "healthy", None),
    (Stand::Ready, |f| f.guest.memory_stall_percent = Some(90), "healthy", None),
    // No display is expected: nobody asked for its port, and what listens on loopback is somebody's own business.
    (Stand::Ready, |f| { (f.host.rfb, f.host.painted) = (None, None); f.bind(5901, &["127.0.0.1"]); }, "healthy", None),
    (Stand::Ready, |f| { (f.host.rfb, f.host.painted) = (Some(Probe::TimedOut), None); }, "healthy", None),
    (Stand::Ready, |f| { f.host.rfb = None; f.host.painted = Some(false); }, "healthy", None),
    // A boot that goes on: what comes later is missed by nobody.
    (Stand::Boots(Stage::Leased), |f| { f.host.tap = Some(None); f.mute(); f.guest = GuestFacts::default(); }, "reachable_but_pending", Some(Stage::TapUp)),
    (Stand::Boots(Stage::InitStarted), |f| { f.mute(); f.guest = GuestFacts::default(); }, "reachable_but_pending", Some(Stage::ConfigRead)),
    (Stand::Boots(Stage::ModulesLoaded), |f| f.guest.links = Some(Vec::new()), "reachable_but_pending", Some(Stage::LinkFound)),
    (Stand::Boots(Stage::LinkFound), |f| { f.link().up = Some(false); f.link().carrier = Some(false); f.link().addresses = Some(vec![]); },
        "reachable_but_pending", Some(Stage::LinkUp)),
    (Stand::Boots(Stage::AddressSet), |f| { f.cut_above_arp(); f.closed_out(); }, "reachable_but_pending", Some(Stage::RouteSet)),
    (Stand::Boots(Stage::HandedOver), |f| { f.refuse(8080); f.refuse(5901); f.bind(8080, &[]); f.bind(5901, &[]); f.guest.clock_skew_ms = Some(-90_000); },
        "reachable_but_pending", Some(Stage::AgentUp)),
    (Stand::Boots(Stage::AgentUp), |f| { f.refuse(5901); f.bind(5901, &[]); f.guest.dns = Some(false); }, "reachable_but_pending", Some(Stage::Reachable)),
    (Stand::Boots(Stage::DisplayUp), |f| { f.host.painted = Some(false); f.guest.available_mib = Some(9); }, "reachable_but_pending", Some(Stage::Reachable)),
    // A display that did not come up has a better name than its port; so has what failed later than the page.
    (Stand::Overdue(Stage::DisplayUp), |f| { f.refuse(5901); f.bind(5901, &[]); }, "display_failed", Some(Stage::DisplayUp)),
    (Stand::Overdue(Stage::Reachable), |f| { f.host.painted = Some(false); f.refuse(8080); }, "inconclusive", Some(Stage::Reachable)),
    (Stand::Overdue(Stage::AgentUp), |f| f.host.free_bytes = Some(1 << 20), "inconclusive", Some(Stage::AgentUp)),
    (Stand::Exited(Stage::HandedOver), |f| { f.host.vmm_alive = Some(false); f.host.tap = Some(None); }, "vmm_exited", Some(Stage::HandedOver)),
];

fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for (number, (stand, change, code, stage)) in rows.iter().enumerate() {
        let mut facts = healthy();
        change(&mut facts);
        let seen = judge(&facts, *stand);
        if (seen.verdict.code(), seen.stage) != (*code, *stage) {
            let seen = serde_json::to_string_pretty(&seen).unwrap();
            wrong.push(format!("row {number}, {stand:?}: wanted {code} at {stage:?}\n{seen}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn each_fact_that_proves_a_fault_names_it() {
    check(PROVES);
}

#[test]
fn what_only_looks_like_a_fault_is_none() {
    check(PROVES_NOTHING);
}

fn also(stand: Stand, change: Change) -> Vec<&'static str> {
    let mut facts = healthy();
    change(&mut facts);
    judge(&facts, stand).also.iter().map(|cause| cause.code()).collect()
}

#[test]
fn what_follows_from_the_first_fault_or_is_worth_knowing_is_told_beside_it() {
    let cut = also(Stand::Ready, |f| {
        f.tap().vnet_hdr = Some(false);
        f.cut_above_arp();
    });
    assert_eq!(cut, ["l2_ok_l3_dead"]);
    let filtered = also(Stand::Ready, |f| {
        f.cut_above_arp();
        f.drop("rp_filter", 2);
    });
    assert_eq!(filtered, ["l2_ok_l3_dead"]);
    assert_eq!(also(Stand::Ready, Facts::closed_out), ["egress_blocked"]);
    assert_eq!(also(Stand::Ready, |f| f.host.free_bytes = Some(9 << 20)), ["disk_full"]);
    assert_eq!(also(Stand::Ready, |f| f.guest.available_mib = Some(9)), ["guest_oom"]);
    assert_eq!(also(Stand::Ready, |f| f.guest.failed_units = Some(vec!["cups.service".into()])), ["unit_failed"]);
    let closed = also(Stand::Ready, |f| {
        f.closed_out();
        f.host.nat = Some(false);
    });
    assert_eq!(closed, ["egress_blocked"]);
    assert_eq!(also(Stand::Ready, |_| {}), [""; 0]);
    assert_eq!(also(Stand::Boots(Stage::BrowserUp), |f| f.guest.dns = Some(false)), ["dns_failed"]);
}

#[test]
fn facts_alone_name_a_fault_and_no_health() {
    let mut facts = healthy();
    assert_eq!(judge(&facts, Stand::Unknown).verdict.code(), "inconclusive");
    facts.tap().up = Some(false);
    assert_eq!(judge(&facts, Stand::Unknown).verdict.code(), "tap_down");
    facts = healthy();
    facts.refuse(5901);
    assert_eq!(judge(&facts, Stand::Unknown).verdict.code(), "vnc_refused");
}

/// What somebody waited for in vain is there, under another name.
#[test]
fn an_interface_that_is_missed_and_has_another_name_was_renamed() {
    let missed = Failure::new(Cause::LinkMissing, Some(Stage::LinkFound), "ERROR: Device eth0 not found");
    let judge = |name: &str| {
        let mut facts = healthy();
        facts.link().name = name.to_owned();
        let timeline = timeline_until(|stage| stage < Stage::ConfigRead || stage == Stage::HandedOver);
        let expected = Expected { address: Some(ADDRESS.into()), ..Expected::default() };
        let case = Case { failure: Some(&missed), guest: Some(&facts.guest), expected, ..Case::default() };
        diagnose(&Case { timeline: &timeline, ..case }).verdict.code()
    };
    assert_eq!(judge("lan0"), "link_renamed");
    assert_eq!(judge("eth1"), "link_missing");
}

/// What somebody put in the place of the leased address is the end of that story and not its name.
#[test]
fn an_address_that_was_seen_to_be_replaced_has_another_owner() {
    let mut facts = healthy();
    facts.link().addresses = Some(vec!["192.168.100.10/24".into()]);
    let replaced = Failure::new(Cause::AddressOwnerConflict, None, "192.168.100.8/24 is gone");
    let timeline = timeline_until(|_| true);
    let expected = Expected { address: Some(ADDRESS.into()), ..Expected::default() };
    let case = Case { failure: Some(&replaced), guest: Some(&facts.guest), expected, ..Case::default() };
    let seen = diagnose(&Case { timeline: &timeline, ..case });
    assert_eq!((seen.verdict.code(), seen.stage), ("address_owner_conflict", None), "{seen:?}");
}

/// Who asks for an address, and has none when time is over, was not answered.
#[test]
fn an_address_that_is_asked_for_in_vain_is_named_so() {
    let late =
        Failure::new(Cause::AddressSetFailed, Some(Stage::AddressSet), "address_set was not reached within 45 s");
    let timeline = timeline_until(|stage| stage < Stage::AddressSet || stage == Stage::HandedOver);
    let judge = |by_dhcp| {
        let expected = Expected { address: Some(ADDRESS.into()), by_dhcp, ..Expected::default() };
        diagnose(&Case { timeline: &timeline, failure: Some(&late), expected, ..Case::default() }).verdict.code()
    };
    assert_eq!((judge(true), judge(false)), ("dhcp_timeout", "address_set_failed"));
}

/// That the interface is down is all that the guest can see of a unit whose words are lost.
#[test]
fn an_interface_that_is_still_down_at_the_end_of_a_slow_boot_proves_nothing_by_itself() {
    let mut facts = healthy();
    facts.link().up = Some(false);
    let timeline = timeline_until(|stage| stage < Stage::LinkUp || stage == Stage::HandedOver);
    let late = Failure::new(Cause::Inconclusive, Some(Stage::LinkUp), "link_up was not reached within 45 s");
    let judge = |console: &[u8]| {
        diagnose(&Case {
            timeline: &timeline,
            failure: Some(&late),
            console: Some(&classify(console)),
            host: Some(&facts.host),
            guest: Some(&facts.guest),
            expected: Expected { address: Some(ADDRESS.into()), by_unit: true, ..Expected::default() },
            ..Case::default()
        })
    };
    let silent = judge(
        b"[  OK  ] Finished network-setup.ser\xe2\x80\xa6up Network from Kernel Parameters.\n\
          [  OK  ] Reached target multi-user.target - Multi-User System.\n",
    );
    assert_eq!(
        (silent.verdict.code(), silent.stage),
        ("unit_output_not_on_console", Some(Stage::LinkUp)),
        "{silent:?}"
    );
    let slow = judge(b"[  OK  ] Started systemd-udevd.service - Rule-based Manager for Device Events and Files.\n");
    assert_eq!((slow.verdict.code(), slow.stage), ("inconclusive", Some(Stage::LinkUp)), "{slow:?}");
}

#[test]
fn what_was_dropped_goes_with_dead_layers() {
    let mut facts = healthy();
    facts.cut_above_arp();
    facts.drop("guest_to_gateway", 4);
    facts.host.forward_drops = Some(vec!["inet odd pre".into()]);
    let seen = judge(&facts, Stand::Ready);
    let said: Vec<&str> = seen.evidence.iter().map(|evidence| evidence.text.as_str()).collect();
    assert!(said.iter().any(|text| text.contains("guest_to_gateway 4")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("inet odd pre")), "{said:?}");
}

/// A healthy machine's facts, of which only those are known whose bit is set.
fn partly(known: u64) -> Facts {
    fn keep<T>(fact: &mut Option<T>, known: &mut u64) {
        if *known & 1 == 0 {
            *fact = None;
        }
        *known >>= 1;
    }
    let (mut facts, mut bits) = (healthy(), known);
    let b = &mut bits;
    let tap = facts.tap();
    keep(&mut tap.alias, b);
    keep(&mut tap.ours, b);
    keep(&mut tap.up, b);
    keep(&mut tap.carrier, b);
    keep(&mut tap.master, b);
    keep(&mut tap.vnet_hdr, b);
    let bridge = facts.bridge();
    keep(&mut bridge.up, b);
    keep(&mut bridge.addresses, b);
    keep(&mut bridge.has_gateway, b);
    let link = facts.link();
    keep(&mut link.mac, b);
    keep(&mut link.up, b);
    keep(&mut link.carrier, b);
    keep(&mut link.addresses, b);
    for socket in facts.guest.listening.iter_mut().flatten() {
        keep(&mut socket.program, b);
    }
    let Facts { host, guest } = &mut facts;
    keep(&mut host.tap, b);
    keep(&mut host.bridge, b);
    keep(&mut host.neighbour, b);
    keep(&mut host.ping, b);
    keep(&mut host.tcp, b);
    keep(&mut host.http, b);
    keep(&mut host.rfb, b);
    keep(&mut host.painted, b);
    keep(&mut host.guarded, b);
    keep(&mut host.drops, b);
    keep(&mut host.forward_drops, b);
    keep(&mut host.nat, b);
    keep(&mut host.rp_filter, b);
    keep(&mut host.vmm_alive, b);
    keep(&mut host.vmm_oom_killed, b);
    keep(&mut host.free_bytes, b);
    keep(&mut guest.links, b);
    keep(&mut guest.default_gateways, b);
    keep(&mut guest.routes, b);
    keep(&mut guest.neighbours, b);
    keep(&mut guest.gateway_answers, b);
    keep(&mut guest.listening, b);
    keep(&mut guest.failed_units, b);
    keep(&mut guest.total_mib, b);
    keep(&mut guest.available_mib, b);
    keep(&mut guest.memory_stall_percent, b);
    keep(&mut guest.oom_killed, b);
    keep(&mut guest.clock_skew_ms, b);
    keep(&mut guest.dns, b);
    keep(&mut guest.egress, b);
    keep(&mut guest.kernel_tail, b);
    facts
}

fn any_stand() -> impl Strategy<Value = Stand> {
    let stage = || proptest::sample::select(Stage::ALL);
    prop_oneof![
        2 => Just(Stand::Ready),
        3 => stage().prop_filter("is over", |stage| *stage != Stage::Ready).prop_map(Stand::Boots),
        2 => stage().prop_filter("has its own name", |stage| *stage != Stage::DisplayUp).prop_map(Stand::Overdue),
        1 => Just(Stand::Unknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is not known makes no fault of a healthy machine, wherever it stands.
    #[test]
    fn no_part_of_a_healthy_machines_facts_is_a_fault(known in any::<u64>(), stand in any_stand(), has_uplink in any::<bool>()) {
        let mut facts = partly(known);
        if !has_uplink {
            facts.without_uplink();
            facts.host.forward_drops = Some(vec!["ip evil way".into()]);
        }
        let seen = judge(&facts, stand);
        let wanted = match stand {
            Stand::Ready => "healthy",
            Stand::Boots(_) => "reachable_but_pending",
            Stand::Overdue(_) | Stand::Exited(_) | Stand::Unknown => "inconclusive",
        };
        prop_assert_eq!(seen.verdict.code(), wanted, "{:?}\n{:?}\n{}", stand, facts, serde_json::to_string_pretty(&seen).unwrap());
        prop_assert!(seen.also.is_empty(), "{:?}", seen.also);
    }
}
