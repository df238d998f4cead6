//! Ethernet frames by hand: what an honest guest never sends, and what it does.

use std::net::{Ipv4Addr, Ipv6Addr};

use airlock_protocol::MacAddr;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const PSH: u8 = 0x08;

pub fn ethernet(from: MacAddr, to: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// The frame with a VLAN tag put into it.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &VLAN.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

/// An ARP request for `target`, or (RFC 826, opcode 2) an answer to it.
pub fn arp(opcode: u8, mac: MacAddr, address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, opcode];
    [&fixed[..], &mac.0, &address.octets(), &[0; 6], &target.octets()].concat()
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let fixed = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    let mut packet = [&fixed[..], &from.octets(), &to.octets(), payload].concat();
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// A packet with an empty payload of no known protocol.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &from.octets(), &to.octets()].concat()
}

/// One TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub from: (Ipv4Addr, u16),
    pub to: (Ipv4Addr, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
}

pub fn tcp(segment: Segment, data: &[u8]) -> Vec<u8> {
    let Segment { from, to, seq, ack, flags } = segment;
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let rest = [5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    let mut bytes = [&ports[..], &seq.to_be_bytes(), &ack.to_be_bytes(), &rest, data].concat();
    seal(&mut bytes, from.0, to.0, TCP, 16);
    ipv4(from.0, to.0, TCP, &bytes)
}

pub fn syn(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    tcp(Segment { from, to, seq: 1000, ack: 0, flags: SYN }, b"")
}

pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
    let mut bytes = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &length, &[0, 0], data].concat();
    seal(&mut bytes, from.0, to.0, UDP, 6);
    ipv4(from.0, to.0, UDP, &bytes)
}

pub fn echo_request(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = [8, 0, 0, 0, 0, 7, 0, 1];
    let sum = checksum(&bytes).to_be_bytes();
    bytes[2..4].copy_from_slice(&sum);
    ipv4(from, to, ICMP, &bytes)
}

/// What a received frame carries, if it is TCP over IPv4.
pub fn segment_of(frame: &[u8]) -> Option<Segment> {
    let packet = packet_of(frame, TCP)?;
    let segment = packet.get(20..)?;
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let number = |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    let (source, target) = addresses_of(frame)?;
    let (from, to) = ((source, port(0)), (target, port(2)));
    Some(Segment { from, to, seq: number(4), ack: number(8), flags: *segment.get(13)? })
}

/// Source and destination of a received frame, if it is IPv4.
pub fn addresses_of(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if ethertype_of(frame)? != IPV4 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    Some((address(26)?, address(30)?))
}

pub fn is_echo_reply(frame: &[u8]) -> bool {
    packet_of(frame, ICMP).is_some_and(|packet| packet.get(20) == Some(&0))
}

pub fn is_arp_reply(frame: &[u8]) -> bool {
    ethertype_of(frame) == Some(ARP) && frame.get(21) == Some(&2)
}

pub fn ethertype_of(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]))
}

fn packet_of(frame: &[u8], protocol: u8) -> Option<&[u8]> {
    (ethertype_of(frame)? == IPV4 && *frame.get(23)? == protocol).then(|| &frame[14..])
}

/// Writes the checksum over the pseudo header (RFC 9293) at `at`.
fn seal(bytes: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, protocol: u8, at: usize) {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, protocol], &length, bytes].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&sum);
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
