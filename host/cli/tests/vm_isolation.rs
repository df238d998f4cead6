//! What a real guest reaches: its gateway's services for guests and, where the operator gave it a way out, the world. Nothing else.
//!
//! Two namespaces of the test stand for the host's side and for the internet (RFC 5737 addresses) behind it; the probes run inside the guest
//! (`airlock vm reach`) over its control channel.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use airlock_effects::netns::Netns;
use serde_json::Value;
use support::outside::Internet;
use support::{Daemon, Wanted, text};

const BOOT: Duration = Duration::from_secs(60);

/// What becomes of a probe inside the guest.
fn reach(daemon: &Daemon, vm: &str, target: &str) -> String {
    let out = daemon.cli(&["vm", "reach", vm, target, "--timeout-s", "2", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"));
    assert_eq!(out.status.success(), matches!(text(&answer, "outcome"), "connected" | "answered"), "{answer}");
    text(&answer, "outcome").to_owned()
}

async fn two_guests(daemon: &Daemon) -> [(String, String); 2] {
    let mut guests = Vec::new();
    for user in ["u1", "u2"] {
        let started = daemon.start_session(user, "shell").await;
        let session = daemon.wait_for(text(&started, "sessionId"), &["awaiting_user"], BOOT).await;
        guests.push((text(&session, "vmId").to_owned(), text(&session, "browserIP").to_owned()));
    }
    guests.try_into().unwrap()
}

#[tokio::test]
async fn a_guest_reaches_the_allowed_outside_and_nothing_else() {
    need_vms!();
    let internet = Internet::new();
    let egress = format!("[network.egress]\nuplink = \"namespace:{}\"\n", internet.host);
    let wanted = Wanted { config: &egress, demo_password: Some("long-enough-secret"), ..Wanted::default() };
    let mut daemon = Daemon::start(&wanted).await;
    let gateway = Netns::open(&daemon.at.namespace).unwrap();
    let _host_service = gateway.run(|| TcpListener::bind("0.0.0.0:5432").unwrap()).unwrap();
    let [(vm, own), (_, other)] = two_guests(&daemon).await;

    assert_eq!(reach(&daemon, &vm, &format!("tcp:{own}:8080")), "connected", "the probe itself works");
    assert_eq!(reach(&daemon, &vm, "tcp:203.0.113.10:7"), "connected", "the world");
    assert_eq!(reach(&daemon, &vm, "tcp:192.168.100.1:4080"), "connected", "what the gateway serves to guests");
    let transit = daemon.at.ip_json(&["route", "show", "default"])[0]["gateway"].as_str().unwrap().to_owned();
    for closed in [
        "tcp:192.168.100.1:5432".to_owned(),
        format!("tcp:{other}:8080"),
        format!("ping:{other}"),
        "tcp:10.20.30.40:7".to_owned(),
        "tcp:169.254.169.254:7".to_owned(),
        format!("tcp:{transit}:7"),
        "tcp:203.0.113.1:7".to_owned(),
    ] {
        let outcome = reach(&daemon, &vm, &closed);
        assert!(matches!(outcome.as_str(), "timed_out" | "unreachable"), "{closed} is {outcome}");
    }
    assert_eq!(daemon.leaked().await, 0);
    daemon.stop();
    daemon.at.assert_nothing_left();
}

#[tokio::test]
async fn without_a_way_out_a_guest_reaches_only_its_gateway() {
    need_vms!();
    let daemon = Daemon::start(&Wanted { demo_password: Some("long-enough-secret"), ..Wanted::default() }).await;
    let [(vm, _), _] = two_guests(&daemon).await;
    assert_eq!(reach(&daemon, &vm, "tcp:192.168.100.1:4080"), "connected");
    for closed in ["tcp:203.0.113.10:7", "tcp:169.254.169.254:80", "udp:192.0.2.53:53"] {
        let outcome = reach(&daemon, &vm, closed);
        assert!(matches!(outcome.as_str(), "timed_out" | "unreachable"), "{closed} is {outcome}");
    }
}
