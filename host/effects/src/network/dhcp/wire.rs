//! DHCP messages in UDP in IPv4 in Ethernet: frames in, [`Request`]s out; [`Answer`]s in, frames out.
//!
//! What comes in is a guest's: every length and every number in it may be wrong, and then it is no request. Checksums are not
//! looked at: a frame of a TAP crossed memory and no wire, and a guest whose driver offloads them leaves them unfinished.

use std::net::Ipv4Addr;

use airlock_domain::network::dhcp::{Answer, CLIENT_PORT, Kind, Request, SERVER_PORT, Wish};
use airlock_protocol::MacAddr;
use airlock_protocol::ip_param::Netmask;
use dhcproto::v4::{self, DhcpOption, Flags, HType, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, Name};

/// Type of a frame that carries IPv4.
pub const IPV4: u16 = 0x0800;
const UDP: u8 = 17;

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP_HEADER: usize = 8;
/// Clients of BOOTP's time drop what is shorter (RFC 1542, 2.1).
const SHORTEST: usize = 300;
/// The longest client identifier that is repeated: what any client uses.
const LONGEST_ID: usize = 64;

/// The request in a frame to `server` or to all hosts; none if it is no whole request of a client.
pub fn read(frame: &[u8], server: Ipv4Addr) -> Option<Request> {
    let source = MacAddr(frame.get(6..12)?.try_into().ok()?);
    if u16_at(frame, 12)? != IPV4 {
        return None;
    }
    let message = payload(frame.get(ETHERNET..)?, server)?;
    let message = v4::borrowed::Message::new(message).ok()?;
    let is_ethernet = message.htype() == HType::Eth && message.hlen() == 6;
    if message.opcode() != Opcode::BootRequest || !is_ethernet {
        return None;
    }
    let mut request = Request {
        wish: Wish::Discover,
        source,
        client: MacAddr(message.chaddr().try_into().ok()?),
        xid: message.xid(),
        broadcast: message.flags().broadcast(),
        has: specified(message.ciaddr()),
        wants: None,
        server: None,
        relay: specified(message.giaddr()),
        client_id: None,
    };
    let mut wish = None;
    // Of other options nothing depends: they are not even looked at.
    for option in message.opts() {
        let address = || <[u8; 4]>::try_from(option.data()).ok().map(Ipv4Addr::from);
        match option.code() {
            OptionCode::MessageType => wish = Some(*option.data().first()?),
            OptionCode::RequestedIpAddress => request.wants = specified(address()?),
            OptionCode::ServerIdentifier => request.server = Some(address()?),
            OptionCode::ClientIdentifier if (1..=LONGEST_ID).contains(&option.len()) => {
                request.client_id = Some(option.data().to_vec());
            }
            _ => {}
        }
    }
    request.wish = match MessageType::from(wish?) {
        MessageType::Discover => Wish::Discover,
        MessageType::Request => Wish::Request,
        MessageType::Decline => Wish::Decline,
        MessageType::Release => Wish::Release,
        MessageType::Inform => Wish::Inform,
        _ => return None,
    };
    Some(request)
}

/// What a datagram to the server's port carries.
fn payload(packet: &[u8], server: Ipv4Addr) -> Option<&[u8]> {
    let first = *packet.first()?;
    let (header, whole) = (usize::from(first & 0x0f) * 4, usize::from(u16_at(packet, 2)?));
    // A part of a datagram: the offset, or the flag that says that more follows.
    let is_part = u16_at(packet, 6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < IP || is_part || *packet.get(9)? != UDP {
        return None;
    }
    let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    if to != server && !to.is_broadcast() {
        return None;
    }
    let datagram = packet.get(header..whole)?;
    if u16_at(datagram, 2)? != SERVER_PORT {
        return None;
    }
    datagram.get(UDP_HEADER..usize::from(u16_at(datagram, 4)?))
}

fn specified(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_unspecified()).then_some(address)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The frame that carries an answer of `server` to the one client that it is for. None if it does not fit into a datagram, as the
/// configuration's search domains might not.
pub fn write(answer: &Answer, server: Ipv4Addr) -> Option<Vec<u8>> {
    let mut payload = message(answer, server)?.to_vec().ok()?;
    payload.resize(payload.len().max(SHORTEST), 0);
    let datagram = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let ports = [SERVER_PORT.to_be_bytes(), CLIENT_PORT.to_be_bytes()].concat();
    let mut udp = [&ports[..], &datagram.to_be_bytes(), &[0, 0], &payload].concat();
    let pseudo = [&server.octets()[..], &answer.to.octets(), &[0, UDP], &datagram.to_be_bytes(), &udp].concat();
    // All zero would say that there is none (RFC 768).
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    let whole = u16::try_from(IP + udp.len()).ok()?.to_be_bytes();
    let mut ip = [0x45, 0x10, whole[0], whole[1], 0, 0, 0x40, 0, 64, UDP, 0, 0].to_vec();
    ip.extend(server.octets());
    ip.extend(answer.to.octets());
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let sender = MacAddr::from_lease(server);
    Some([&answer.client.0[..], &sender.0, &IPV4.to_be_bytes(), &ip, &udp].concat())
}

fn message(answer: &Answer, server: Ipv4Addr) -> Option<v4::Message> {
    let mut message = v4::Message::default();
    let flags = if answer.broadcast { Flags::default().set_broadcast() } else { Flags::default() };
    let address = |address: Option<Ipv4Addr>| address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    message.set_opcode(Opcode::BootReply).set_xid(answer.xid).set_flags(flags).set_chaddr(&answer.client.0);
    message.set_ciaddr(address(answer.has)).set_yiaddr(address(answer.gives));
    let kind = match answer.kind {
        Kind::Offer => MessageType::Offer,
        Kind::Ack => MessageType::Ack,
        Kind::Nak => MessageType::Nak,
    };
    let mut options = vec![DhcpOption::MessageType(kind), DhcpOption::ServerIdentifier(server)];
    options.extend(answer.client_id.clone().map(DhcpOption::ClientIdentifier));
    options.extend(answer.because.clone().map(DhcpOption::Message));
    if let Some(times) = answer.times {
        options.push(DhcpOption::AddressLeaseTime(times.lease_s));
        options.push(DhcpOption::Renewal(times.renew_s));
        options.push(DhcpOption::Rebinding(times.rebind_s));
    }
    if let Some(told) = &answer.told {
        let mask = Netmask::from_prefix(told.prefix)?.mask();
        options.push(DhcpOption::SubnetMask(mask));
        options.push(DhcpOption::Router(vec![told.gateway]));
        options.push(DhcpOption::Hostname(told.hostname.clone()));
        options.extend((!told.dns.is_empty()).then(|| DhcpOption::DomainNameServer(told.dns.clone())));
        options.extend(told.mtu.map(DhcpOption::InterfaceMtu));
        options.extend(told.search.first().cloned().map(DhcpOption::DomainName));
        // RFC 3397; a name has its root, or it would be completed.
        let names = told.search.iter().map(|domain| Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))));
        let names: Vec<Name> = names.collect::<Result<_, _>>().ok()?;
        options.extend((!names.is_empty()).then_some(DhcpOption::DomainSearch(names)));
    }
    for option in options {
        message.opts_mut().insert(option);
    }
    Some(message)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
    let sum = bytes.chunks(2).map(word).fold(0u32, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use airlock_domain::network::dhcp::{Times, Told};
    use dhcproto::Decodable;

    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
    const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 8);

    fn answer() -> Answer {
        Answer {
            kind: Kind::Ack,
            xid: 0x1234_5678,
            client: MacAddr::from_lease(OURS),
            to: OURS,
            broadcast: true,
            has: None,
            gives: Some(OURS),
            client_id: Some(vec![1, 2, 3]),
            told: Some(Told {
                prefix: 20,
                gateway: SERVER,
                dns: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 0, 0, 53)],
                search: vec!["a.example".into(), "b.example.".into()],
                mtu: Some(1400),
                hostname: "airlock-01234567".into(),
            }),
            times: Some(Times { lease_s: 7200, renew_s: 3600, rebind_s: 6300 }),
            because: None,
        }
    }

    #[test]
    fn an_answer_says_everything_on_the_wire() {
        let frame = write(&answer(), SERVER).unwrap();
        assert_eq!(frame[..14], [6, 0, 192, 168, 100, 8, 6, 0, 192, 168, 100, 1, 8, 0]);
        assert_eq!(checksum(&frame[14..34]), 0);
        let udp = &frame[34..];
        let pseudo = [&frame[26..34], &[0, UDP], &udp[4..6], udp].concat();
        assert_eq!((checksum(&pseudo), &udp[..4]), (0, &[0, 67, 0, 68][..]));
        let message = v4::Message::decode(&mut dhcproto::Decoder::new(&udp[8..])).unwrap();
        assert_eq!((message.xid(), message.yiaddr(), message.flags().broadcast()), (0x1234_5678, OURS, true));
        let option = |code| message.opts().get(code).cloned();
        for expected in [
            DhcpOption::MessageType(MessageType::Ack),
            DhcpOption::ServerIdentifier(SERVER),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 240, 0)),
            DhcpOption::Router(vec![SERVER]),
            DhcpOption::DomainNameServer(vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 0, 0, 53)]),
            DhcpOption::DomainName("a.example".into()),
            DhcpOption::DomainSearch(vec![
                Name::from_ascii("a.example.").unwrap(),
                Name::from_ascii("b.example.").unwrap(),
            ]),
            DhcpOption::InterfaceMtu(1400),
            DhcpOption::Hostname("airlock-01234567".into()),
            DhcpOption::AddressLeaseTime(7200),
            DhcpOption::Renewal(3600),
            DhcpOption::Rebinding(6300),
            DhcpOption::ClientIdentifier(vec![1, 2, 3]),
        ] {
            assert_eq!(option(OptionCode::from(&expected)), Some(expected));
        }
        let nak =
            Answer { kind: Kind::Nak, told: None, times: None, gives: None, because: Some("no".into()), ..answer() };
        assert_eq!(write(&nak, SERVER).unwrap().len(), ETHERNET + IP + UDP_HEADER + SHORTEST);
    }

    /// A renewal as a client sends it, to be broken at every place.
    fn renewal() -> Vec<u8> {
        let mut message = v4::Message::default();
        message.set_xid(9).set_chaddr(&MacAddr::from_lease(OURS).0).set_ciaddr(OURS);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
        message.opts_mut().insert(DhcpOption::ClientIdentifier(vec![1, 6]));
        let data = message.to_vec().unwrap();
        let length = |header: usize| u16::try_from(header + data.len()).unwrap().to_be_bytes();
        let (ip, udp) = (length(28), length(8));
        let fixed = [0x45, 0, ip[0], ip[1], 0, 0, 0x40, 0, 64, UDP, 0, 0];
        let ports = [0, 68, 0, 67, udp[0], udp[1], 0, 0];
        let macs = [MacAddr::from_lease(SERVER).0, MacAddr::from_lease(OURS).0].concat();
        [&macs[..], &[8, 0], &fixed, &OURS.octets(), &SERVER.octets(), &ports, &data].concat()
    }

    #[test]
    fn a_request_is_read_and_what_is_none_is_not() {
        let frame = renewal();
        let request = read(&frame, SERVER).unwrap();
        let mac = MacAddr::from_lease(OURS);
        assert_eq!((request.wish, request.source, request.client, request.xid), (Wish::Request, mac, mac, 9));
        assert_eq!((request.has, request.wants, request.client_id), (Some(OURS), None, Some(vec![1, 6])));

        let broken = |at: usize, value: u8| {
            let mut frame = frame.clone();
            frame[at] = value;
            read(&frame, SERVER)
        };
        for (what, at, value) in [
            ("no IPv4", 12, 0x86),
            ("no IP of version 4", 14, 0x65),
            ("a header that is too short", 14, 0x44),
            ("the first part of more", 20, 0x20),
            ("a later part", 21, 1),
            ("no UDP", 23, 6),
            ("to another machine", 33, 77),
            ("to another port", 37, 53),
            ("an answer", 42, 2),
            ("another kind of hardware", 43, 6),
            ("a hardware address longer than its field", 44, 255),
            ("no magic cookie", 278, 0),
        ] {
            assert_eq!(broken(at, value), None, "{what}");
        }
        // No matter where it is cut off: it is what it says, or nothing.
        assert!((0..frame.len()).all(|cut| read(&frame[..cut], SERVER).is_none()));
    }

    #[test]
    fn no_bytes_break_it() {
        // A generator of its own (xorshift): the same bytes every time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap()
        };
        let good = renewal();
        let mut read_after_all = 0;
        for _ in 0..200_000 {
            let mut frame = good.clone();
            for _ in 0..=next() % 4 {
                let at = next() % frame.len();
                frame[at] = u8::try_from(next() % 256).unwrap();
            }
            frame.truncate(frame.len() - next() % 3 * (next() % frame.len()) / 2);
            // Options without end, of every code and length.
            let tail: Vec<u8> = (0..next() % 400).map(|_| u8::try_from(next() % 256).unwrap()).collect();
            frame.extend(tail);
            read_after_all += usize::from(read(&frame, SERVER).is_some());
        }
        assert!(read_after_all > 10_000, "{read_after_all}: the bytes were broken too much to show anything");
    }
}
