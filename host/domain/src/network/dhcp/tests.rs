//! Every message in every state of its client, as tables; then whatever anybody may send.

use proptest::prelude::*;

use super::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 8);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 9);

fn vm() -> VmId {
    "01234567-89ab-4def-8123-456789abcdef".parse().unwrap()
}

fn terms() -> Terms {
    let guest = GuestNetwork {
        dns: vec!["9.9.9.9".parse().unwrap(), "2001:db8::53".parse().unwrap(), "10.0.0.53".parse().unwrap()],
        search: vec!["a.example".into(), "b.example".into()],
        mtu: Some(1400),
    };
    Terms::of(&NetworkSpec { guest, ..NetworkSpec::default() }, 7200)
}

fn request(wish: Wish) -> Request {
    let mac = MacAddr::from_lease(OURS);
    Request {
        wish,
        source: mac,
        client: mac,
        xid: 7,
        broadcast: false,
        has: None,
        wants: None,
        server: None,
        relay: None,
        client_id: None,
    }
}

fn leased() -> Option<Lease> {
    Some(Lease { vm_id: vm(), address: OURS })
}

/// Kind, `yiaddr` and destination of the answer.
fn outcome(request: &Request) -> Result<(Kind, Option<Ipv4Addr>, Ipv4Addr), Silence> {
    decide(&terms(), request, leased()).map(|answer| (answer.kind, answer.gives, answer.to))
}

#[test]
fn every_message_is_answered_with_the_lease_or_not_at_all() {
    let all = Ipv4Addr::BROADCAST;
    let ack = Ok((Kind::Ack, Some(OURS), OURS));
    let nak = Ok((Kind::Nak, None, all));
    let discover = request(Wish::Discover);
    let asks = request(Wish::Request);
    for (what, request, expected) in [
        ("discover", discover.clone(), Ok((Kind::Offer, Some(OURS), OURS))),
        (
            "discover of one that takes broadcasts only",
            Request { broadcast: true, ..discover.clone() },
            Ok((Kind::Offer, Some(OURS), all)),
        ),
        (
            "discover that would like another address",
            Request { wants: Some(OTHER), ..discover.clone() },
            Ok((Kind::Offer, Some(OURS), OURS)),
        ),
        (
            "discover that says it has one",
            Request { has: Some(OTHER), ..discover },
            Ok((Kind::Offer, Some(OURS), OURS)),
        ),
        ("selecting", Request { server: Some(GATEWAY), wants: Some(OURS), ..asks.clone() }, ack),
        (
            "selecting, broadcast",
            Request { server: Some(GATEWAY), wants: Some(OURS), broadcast: true, ..asks.clone() },
            Ok((Kind::Ack, Some(OURS), all)),
        ),
        ("selecting what was not offered", Request { server: Some(GATEWAY), wants: Some(OTHER), ..asks.clone() }, nak),
        (
            "selecting another server",
            Request { server: Some(OTHER), wants: Some(OURS), ..asks.clone() },
            Err(Silence::OtherServer),
        ),
        ("after a reboot", Request { wants: Some(OURS), ..asks.clone() }, ack),
        ("after a reboot, of another net", Request { wants: Some(Ipv4Addr::new(10, 1, 2, 3)), ..asks.clone() }, nak),
        ("after a reboot, another guest's", Request { wants: Some(OTHER), ..asks.clone() }, nak),
        ("after a reboot, the gateway's", Request { wants: Some(GATEWAY), ..asks.clone() }, nak),
        ("renewing", Request { has: Some(OURS), ..asks.clone() }, ack),
        ("rebinding", Request { has: Some(OURS), broadcast: true, ..asks.clone() }, ack),
        ("renewing what it never had", Request { has: Some(OTHER), ..asks.clone() }, nak),
        ("having one and wanting another", Request { has: Some(OURS), wants: Some(OTHER), ..asks.clone() }, nak),
        ("naming no address", asks.clone(), Err(Silence::Malformed)),
        ("informing", Request { has: Some(OURS), ..request(Wish::Inform) }, Ok((Kind::Ack, None, OURS))),
        (
            "informing of another's address",
            Request { has: Some(OTHER), ..request(Wish::Inform) },
            Err(Silence::ForeignAddress),
        ),
        ("informing of none", request(Wish::Inform), Err(Silence::ForeignAddress)),
        ("decline", Request { wants: Some(OURS), ..request(Wish::Decline) }, Err(Silence::Declined)),
        ("release", Request { has: Some(OURS), ..request(Wish::Release) }, Err(Silence::Released)),
        (
            "release to another server",
            Request { server: Some(OTHER), ..request(Wish::Release) },
            Err(Silence::OtherServer),
        ),
        ("through a relay", Request { relay: Some(OTHER), ..asks.clone() }, Err(Silence::Relayed)),
        (
            "for another guest",
            Request { client: MacAddr::from_lease(OTHER), wants: Some(OTHER), ..asks.clone() },
            Err(Silence::ForeignMac),
        ),
        (
            "in another's name",
            Request { source: MacAddr::from_lease(OTHER), wants: Some(OURS), ..asks },
            Err(Silence::ForeignMac),
        ),
    ] {
        assert_eq!(outcome(&request), expected, "{what}");
    }
}

#[test]
fn who_is_not_recorded_hears_nothing() {
    let of = |mac: MacAddr| Request { source: mac, client: mac, ..request(Wish::Discover) };
    let decided = |mac, lease| decide(&terms(), &of(mac), lease).map(|answer| answer.gives);
    assert_eq!(decided(MacAddr::from_lease(OURS), leased()), Ok(Some(OURS)));
    assert_eq!(decided(MacAddr::from_lease(OURS), None), Err(Silence::NoLease));
    // The record's answer to another question gives nobody an address.
    assert_eq!(decided(MacAddr::from_lease(OTHER), leased()), Err(Silence::NoLease));
    for stranger in [
        MacAddr([0x06, 0x01, 192, 168, 100, 8]),
        MacAddr([0x02, 0, 0, 0, 0, 1]),
        MacAddr::from_lease(GATEWAY),
        MacAddr::from_lease(Ipv4Addr::new(192, 168, 100, 0)),
        MacAddr::from_lease(Ipv4Addr::new(192, 168, 100, 255)),
        MacAddr::from_lease(Ipv4Addr::new(10, 0, 0, 2)),
    ] {
        assert_eq!(decided(stranger, leased()), Err(Silence::UnknownMac), "{stranger}");
    }
}

#[test]
fn everything_of_the_network_is_told_with_the_address() {
    let ask = Request { has: Some(OURS), client_id: Some(vec![1, 2]), ..request(Wish::Request) };
    let answer = decide(&terms(), &ask, leased()).unwrap();
    let told = Told {
        prefix: 24,
        gateway: GATEWAY,
        dns: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 0, 0, 53)],
        search: vec!["a.example".into(), "b.example".into()],
        mtu: Some(1400),
        hostname: "airlock-01234567".into(),
    };
    assert_eq!(answer.told, Some(told.clone()));
    assert_eq!(answer.times, Some(Times { lease_s: 7200, renew_s: 3600, rebind_s: 6300 }));
    assert_eq!((answer.xid, answer.client_id), (7, Some(vec![1, 2])));

    let informed = decide(&terms(), &Request { wish: Wish::Inform, ..ask.clone() }, leased()).unwrap();
    assert_eq!((informed.told, informed.times), (Some(told), None));
    let refused = decide(&terms(), &Request { has: Some(OTHER), ..ask }, leased()).unwrap();
    assert_eq!((refused.told, refused.times, refused.because.is_some()), (None, None, true));
    assert_eq!(Terms::of(&NetworkSpec::default(), 10).lease_s, MIN_LEASE_S);
}

fn anyone() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        (2u8..12).prop_map(|last| MacAddr::from_lease(Ipv4Addr::new(192, 168, 100, last))),
        any::<[u8; 6]>().prop_map(MacAddr),
    ]
}

fn anywhere() -> impl Strategy<Value = Option<Ipv4Addr>> {
    proptest::option::of(prop_oneof![
        (0u8..=255).prop_map(|last| Ipv4Addr::new(192, 168, 100, last)),
        any::<Ipv4Addr>(),
    ])
}

fn any_request() -> impl Strategy<Value = Request> {
    let wish = prop_oneof![
        Just(Wish::Discover),
        Just(Wish::Request),
        Just(Wish::Decline),
        Just(Wish::Release),
        Just(Wish::Inform)
    ];
    let names = (anyone(), proptest::option::weighted(0.2, anyone()));
    (
        wish,
        names,
        any::<(u32, bool)>(),
        (anywhere(), anywhere(), anywhere()),
        proptest::option::weighted(0.1, any::<Ipv4Addr>()),
    )
        .prop_map(|(wish, (source, other), (xid, broadcast), (has, wants, server), relay)| Request {
            wish,
            source,
            client: other.unwrap_or(source),
            xid,
            broadcast,
            has,
            wants,
            server,
            relay,
            client_id: None,
        })
}

proptest! {
    /// Leases come and go between the requests; whatever is asked, an address is given to its holder and to nobody else.
    #[test]
    fn no_sequence_of_requests_yields_an_address_that_is_not_the_client_s_lease(
        sequence in proptest::collection::vec((any_request(), proptest::collection::btree_set(2u8..12, 0..6)), 1..40),
    ) {
        let terms = terms();
        for (request, live) in sequence {
            let record = |address: Ipv4Addr| {
                live.contains(&address.octets()[3]).then_some(Lease { vm_id: vm(), address })
            };
            let lease = address_of(terms.subnet, &request).ok().and_then(record);
            match decide(&terms, &request, lease) {
                Ok(answer) => {
                    prop_assert_eq!(answer.client, request.source);
                    let lease = lease.unwrap();
                    for address in [answer.gives, answer.has].into_iter().flatten() {
                        prop_assert_eq!(address, lease.address);
                        prop_assert_eq!(MacAddr::from_lease(address), answer.client);
                    }
                    prop_assert!(answer.to == lease.address || answer.to == Ipv4Addr::BROADCAST);
                    prop_assert_eq!(answer.kind == Kind::Nak, answer.told.is_none());
                }
                Err(silence) => prop_assert!(!silence.name().is_empty()),
            }
        }
    }
}
