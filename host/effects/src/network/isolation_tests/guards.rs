//! Guards as things: made, made again, changed, seen, removed, in every order.

use airlock_domain::firewall::GuardSpec;

use super::world::{address, guard, run, tap, vm};
use crate::network::{GuardSeen, Network, NetworkError};
use crate::testing::{TestNetns, chain, skip_unless_root};

async fn seen(network: &Network, tap: &str) -> Option<GuardSeen> {
    network.guards().await.unwrap().into_iter().find(|guard| guard.tap == tap)
}

fn is_up(own: &TestNetns, tap: &str) -> bool {
    run(own.name(), "ip", &["-br", "link", "show", tap]).contains(",UP")
}

#[tokio::test]
async fn a_tap_goes_up_with_its_guard_and_down_before_it_loses_it() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let spec = guard(8);
    network.create_tap_port(&tap(8)).await.unwrap();
    let shown = run(own.name(), "ip", &["-d", "link", "show", &spec.tap]);
    assert!(shown.contains("isolated on") && shown.contains("master br0") && !shown.contains(",UP"), "{shown}");

    for _ in 0..2 {
        network.guard_tap(&spec).await.unwrap();
        assert!(seen(&network, &spec.tap).await.unwrap().is(&spec));
        assert_eq!(network.guard(&spec.tap).await.unwrap(), seen(&network, &spec.tap).await);
        assert!(is_up(&own, &spec.tap));
    }
    // A TAP that is made right again stays up.
    network.create_tap_port(&tap(8)).await.unwrap();
    assert!(is_up(&own, &spec.tap));

    for _ in 0..2 {
        network.unguard_tap(&spec.tap).await.unwrap();
        assert_eq!(seen(&network, &spec.tap).await, None);
        assert_eq!(network.guard(&spec.tap).await.unwrap(), None);
        assert!(!is_up(&own, &spec.tap));
    }
    network.delete_tap(&tap(8)).await.unwrap();
    network.unguard_tap(&spec.tap).await.unwrap();
}

#[tokio::test]
async fn a_guard_takes_the_values_of_another_lease() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    network.create_tap_port(&tap(8)).await.unwrap();
    network.guard_tap(&guard(8)).await.unwrap();
    let next = GuardSpec::of_vm(vm(8), address(77));
    assert!(!seen(&network, &next.tap).await.unwrap().is(&next));
    network.guard_tap(&next).await.unwrap();
    let seen = seen(&network, &next.tap).await.unwrap();
    assert!(seen.is(&next) && !seen.is(&guard(8)), "{seen:?}");
}

#[tokio::test]
async fn a_guard_that_somebody_changed_is_seen_and_replaced() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let spec = guard(8);
    network.create_tap_port(&tap(8)).await.unwrap();
    let chain = ["netdev", "airlock", spec.tap.as_str()];
    let nft = |args: &[&str]| run(own.name(), "nft", args);
    let breakages: [&dyn Fn(); 4] = [
        // Half a chain: without hook, device and rules.
        &|| drop(nft(&[&["add", "chain"][..], &chain].concat())),
        &|| drop(nft(&[&["flush", "chain"][..], &chain].concat())),
        &|| drop(nft(&[&["insert", "rule"][..], &chain, &["accept"]].concat())),
        &|| drop(nft(&[&["add", "rule"][..], &chain, &["ip", "saddr", "10.0.0.1", "accept"]].concat())),
    ];
    for (number, breaks) in breakages.into_iter().enumerate() {
        breaks();
        let broken = seen(&network, &spec.tap).await.unwrap();
        assert!(!broken.is(&spec), "{number}: {broken:?}");
        network.guard_tap(&spec).await.unwrap();
        assert!(seen(&network, &spec.tap).await.unwrap().is(&spec), "{number}");
    }
}

#[tokio::test]
async fn a_guard_without_its_tap() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let spec = guard(8);
    let error = network.guard_tap(&spec).await.unwrap_err();
    assert_eq!(error.cause(), Some("tap_missing"));
    assert_eq!(chain(&error), [format!("namespace {} has no TAP {}", own.name(), spec.tap)]);
    assert_eq!(network.guards().await.unwrap(), []);
    assert_eq!(network.guard("fc-1; flush ruleset").await.unwrap(), None);
    assert!(network.firewall().await.unwrap().is(&own.spec()));
    // Something else of that name is not guarded either.
    run(own.name(), "ip", &["link", "add", &spec.tap, "type", "bridge"]);
    assert!(matches!(network.guard_tap(&spec).await, Err(NetworkError::NotA { wanted: "TAP", .. })));
    run(own.name(), "ip", &["link", "del", &spec.tap]);

    // The device goes first: the kernel may or may not take the chain along.
    network.create_tap_port(&tap(8)).await.unwrap();
    network.guard_tap(&spec).await.unwrap();
    run(own.name(), "ip", &["link", "del", &spec.tap]);
    network.unguard_tap(&spec.tap).await.unwrap();
    assert_eq!(network.guards().await.unwrap(), []);

    // And the way back, over a guard that may have been left.
    network.create_tap_port(&tap(8)).await.unwrap();
    network.guard_tap(&spec).await.unwrap();
    run(own.name(), "ip", &["link", "del", &spec.tap]);
    network.create_tap_port(&tap(8)).await.unwrap();
    network.guard_tap(&spec).await.unwrap();
    assert!(seen(&network, &spec.tap).await.unwrap().is(&spec));
}

#[tokio::test]
async fn a_tap_of_somebody_else_is_neither_guarded_nor_taken_down() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let spec = guard(8);
    for args in [
        &["tuntap", "add", &spec.tap, "mode", "tap", "vnet_hdr"][..],
        &["link", "set", &spec.tap, "alias", "somebody", "up"],
    ] {
        run(own.name(), "ip", args);
    }
    assert_eq!(network.guard_tap(&spec).await.unwrap_err().cause(), Some("tap_name_collision"));
    assert_eq!(network.guards().await.unwrap(), []);
    network.unguard_tap(&spec.tap).await.unwrap();
    assert!(is_up(&own, &spec.tap));
}

#[tokio::test]
async fn twenty_five_at_once_of_which_one_fails() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    // A chain without hook that another one jumps to: neither can it become a guard nor be replaced.
    let victim = guard(17).tap;
    for args in [
        &["add", "chain", "netdev", "airlock", &victim][..],
        &["add", "chain", "netdev", "airlock", "foreign"],
        &["add", "rule", "netdev", "airlock", "foreign", "jump", &victim],
    ] {
        run(own.name(), "nft", args);
    }
    for n in 2..27 {
        network.create_tap_port(&tap(n)).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 2..27 {
        let network = network.clone();
        tasks.spawn(async move { (n, network.guard_tap(&guard(n)).await) });
    }
    let failed: Vec<(u8, NetworkError)> =
        tasks.join_all().await.into_iter().filter_map(|(n, result)| Some((n, result.err()?))).collect();
    assert_eq!(failed.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [17]);
    let printed = chain(&failed[0].1);
    assert_eq!(printed[0], format!("guard TAP {victim} in namespace {}", own.name()));
    assert!(printed[1].starts_with("nft says ") && printed[1].contains("busy"), "{printed:?}");
    assert!(!is_up(&own, &victim));
    let guards = network.guards().await.unwrap();
    assert_eq!((2..27).filter(|n| guards.iter().any(|seen| seen.is(&guard(*n)))).count(), 24);

    let mut tasks = tokio::task::JoinSet::new();
    for n in (2..27).filter(|n| *n != 17) {
        let network = network.clone();
        tasks.spawn(async move { network.unguard_tap(&guard(n).tap).await });
    }
    tasks.join_all().await.into_iter().for_each(|result| result.unwrap());
    let mut left: Vec<String> = network.guards().await.unwrap().into_iter().map(|guard| guard.tap).collect();
    left.sort();
    assert_eq!(left, [victim, "foreign".to_owned()]);
}

#[tokio::test]
async fn of_many_changes_to_one_tap_the_last_counts() {
    if skip_unless_root() {
        return;
    }
    let own = TestNetns::new();
    let network = Network::open(&own.spec()).await.unwrap();
    let spec = guard(8);
    network.create_tap_port(&tap(8)).await.unwrap();
    let (first, second) = (GuardSpec::of_vm(vm(8), address(20)), GuardSpec::of_vm(vm(8), address(21)));
    let results = tokio::join!(
        network.guard_tap(&spec),
        network.unguard_tap(&spec.tap),
        network.guard_tap(&first),
        network.guard_tap(&second),
    );
    assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok() && results.3.is_ok(), "{results:?}");
    assert!(seen(&network, &spec.tap).await.is_none_or(|seen| seen.whole));
    network.guard_tap(&second).await.unwrap();
    assert!(seen(&network, &spec.tap).await.unwrap().is(&second));
}
