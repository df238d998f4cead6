//! What host and guest say of a real VM: everything while it is well, and what is wrong when something is.
//!
//! The engine runs in this process, as the daemon has it: its answers are seen whole, not as a verdict.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use airlock_domain::config::Config;
use airlock_domain::diagnosis::facts::Probe;
use airlock_domain::session::SessionState;
use airlock_domain::{Cause, VmId};
use airlock_engine::{Engine, Facts, StartSession};
use airlock_protocol::paths::HEALTH_PORT;
use airlock_protocol::{MacAddr, Stage};
use serde_json::Value;
use support::{Installation, Wanted};

const BOOT: Duration = Duration::from_secs(90);
/// Both sides at once, on a machine that others use too.
const LOOK: Duration = Duration::from_secs(3);

async fn boot(engine: &Engine) -> VmId {
    let request = StartSession { user_id: "u1".into(), provider: "shell".into(), idempotency_key: None };
    let session = engine.start_session(request).await.unwrap();
    let mut watch = engine.watch(session.id).await.unwrap();
    let ready = async {
        loop {
            let seen = engine.session(session.id).await.unwrap();
            match seen.state {
                SessionState::AwaitingUser => return,
                state if state.is_terminal() => panic!("{state}: {:?}", seen.failure),
                _ => drop(watch.events.recv().await),
            }
        }
    };
    tokio::time::timeout(BOOT, ready).await.expect("the VM is ready in time");
    session.vm_id
}

async fn look(engine: &Engine, vm: VmId) -> Facts {
    let started = Instant::now();
    let facts = engine.probe_vm(vm).await.unwrap();
    println!("looked for {:?}: {}", started.elapsed(), serde_json::to_string(&facts).unwrap());
    assert!(started.elapsed() < LOOK, "{:?}", started.elapsed());
    facts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_vm_is_known_from_both_sides_and_a_tap_that_goes_down_shows() {
    need_vms!();
    let at = Installation::new(&Wanted::default());
    let config = Config::parse(&std::fs::read_to_string(&at.config).unwrap()).unwrap();
    let engine = Engine::open(config).await.unwrap();
    let vm = boot(&engine).await;
    let address = engine.vm(vm).await.unwrap().address;

    let Facts { host, guest } = look(&engine, vm).await;
    let host = host.expect("the host looks");
    let tap = host.tap.unwrap().expect("there is a TAP");
    assert_eq!((tap.ours, tap.up, tap.carrier, tap.vnet_hdr), (Some(true), Some(true), Some(true), Some(true)));
    assert_eq!(tap.master, Some(Some("br0".to_owned())));
    assert!(tap.from_guest_packets.unwrap() > 0 && tap.to_guest_packets.unwrap() > 0);
    assert_eq!(host.bridge.unwrap().unwrap().has_gateway, Some(true));
    let neighbour = host.neighbour.unwrap();
    assert_eq!((neighbour.mac, neighbour.ours), (Some(MacAddr::from_lease(address)), Some(true)));
    assert_eq!((host.ping, host.tcp, host.http), (Some(Probe::Ok), Some(Probe::Ok), Some(Probe::Ok)));
    assert_eq!((host.rfb, host.painted), (None, None), "the image has no display");
    assert_eq!((host.guarded, host.forward_drops, host.nat), (Some(true), Some(vec![]), None));
    assert_eq!((host.vmm_alive, host.vmm_oom_killed, host.overlap), (Some(true), Some(false), None));
    assert!(host.free_bytes.unwrap() > 0 && host.drops.unwrap().contains_key("foreign_mac"));

    let guest = guest.expect("the agent answers");
    let links = guest.links.unwrap();
    let ours = links.iter().find(|link| link.mac == Some(MacAddr::from_lease(address))).unwrap();
    assert_eq!((ours.up, ours.carrier), (Some(true), Some(true)));
    assert_eq!(ours.addresses, Some(vec![format!("{address}/24")]));
    assert_eq!(guest.default_gateways, Some(vec!["192.168.100.1".parse().unwrap()]));
    assert!(guest.routes.unwrap().iter().any(|route| route.to == "192.168.100.0/24"));
    assert!(guest.neighbours.unwrap().iter().any(|neighbour| neighbour.mac.is_some()));
    assert_eq!(guest.gateway_answers, Some(true));
    let agent = guest.listening.unwrap().into_iter().find(|socket| socket.port == HEALTH_PORT).unwrap();
    assert_eq!((agent.address.as_str(), agent.program.as_deref()), ("0.0.0.0", Some("airlock-agent")));
    assert_eq!((guest.failed_units, guest.oom_killed), (Some(vec![]), Some(vec![])));
    assert!(guest.available_mib.unwrap() > 0 && guest.total_mib > guest.available_mib);
    assert!(guest.clock_skew_ms.unwrap().abs() < 5_000);
    assert!(!guest.kernel_tail.unwrap().is_empty());
    assert_eq!((guest.dns, guest.egress), (None, None), "it has no way out");

    // The guest keeps its carrier and its address; only the host sees why nobody hears it.
    at.ip(&["link", "set", &vm.tap_name(), "down"]);
    let Facts { host, guest } = look(&engine, vm).await;
    let host = host.unwrap();
    assert_eq!(host.tap.unwrap().unwrap().up, Some(false));
    assert_eq!(host.neighbour.unwrap().answered, Some(false));
    assert!(matches!(host.ping, Some(Probe::TimedOut | Probe::Unreachable { .. })), "{:?}", host.ping);
    assert!(matches!(host.http, Some(Probe::TimedOut | Probe::Unreachable { .. })), "{:?}", host.http);
    let guest = guest.expect("the control channel needs no network");
    assert_ne!(guest.gateway_answers, Some(true));

    engine.destroy_vm(vm).await.unwrap();
    assert_eq!(engine.probe_vm(vm).await.unwrap(), Facts::default(), "of what is over nothing is said");
    engine.shutdown().await;
    at.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_fails_is_looked_at_before_anything_of_it_is_undone() {
    need_vms!();
    let at = Installation::new(&Wanted::default());
    let config = Config::parse(&std::fs::read_to_string(&at.config).unwrap()).unwrap();
    let engine = Engine::open(config).await.unwrap();
    let request = StartSession { user_id: "u1".into(), provider: "shell".into(), idempotency_key: None };
    let session = engine.start_session(request).await.unwrap();
    let mut watch = engine.watch(session.id).await.unwrap();
    let failure = async {
        let mut is_cut = false;
        loop {
            let reached = engine.timeline(session.vm_id).await.unwrap();
            if !is_cut && reached.iter().any(|entry| entry.stage == Stage::VmmStarted) {
                at.ip(&["link", "set", &session.vm_id.tap_name(), "down"]);
                is_cut = true;
            }
            let seen = engine.session(session.id).await.unwrap();
            match seen.state {
                SessionState::AwaitingUser => panic!("it became ready without a TAP"),
                state if state.is_terminal() => return seen.failure.expect("it failed"),
                _ => drop(watch.events.recv().await),
            }
        }
    };
    let failure = tokio::time::timeout(BOOT, failure).await.expect("the VM fails in time");
    assert_eq!(failure.cause, Cause::TapDown, "{failure:?}");
    let kept = at.state.path().join("evidence").join(failure.evidence_id.expect("evidence is kept"));
    let host: Value = serde_json::from_slice(&std::fs::read(kept.join("host.json")).unwrap()).unwrap();
    let probes = &host["probes"]["host"];
    assert_eq!((&probes["tap"]["up"], &probes["vmmAlive"]), (&Value::Bool(false), &Value::Bool(true)), "{host}");
    assert_eq!(probes["neighbour"]["answered"], false, "{host}");
    engine.shutdown().await;
    at.assert_nothing_left();
}
