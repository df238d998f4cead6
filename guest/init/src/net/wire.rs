//! rtnetlink messages as bytes: the few requests that init makes, and a bounds-checked reader of the answers.
//!
//! Formats: netlink(7), rtnetlink(7), `include/uapi/linux/rtnetlink.h`. All integers are in host byte order.

#![expect(clippy::cast_possible_truncation, reason = "libc types the kernel's 8 and 16 bit constants as c_int")]

use std::net::{IpAddr, Ipv4Addr};

use airlock_protocol::MacAddr;

use crate::kernel::Link;

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NLMSGERR_ATTR_MSG: u16 = 1;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;

/// A request under construction. The sequence number is filled in when it is sent.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attr(mut self, kind: u16, payload: &[u8]) -> Self {
        let len = u16::try_from(4 + payload.len()).unwrap_or(4);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// The bytes to send under sequence number `seq`.
    pub fn bytes(mut self, seq: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(0);
        self.0[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.0
    }
}

/// Asks for all links.
pub fn dump_links() -> Request {
    Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, &[0; IFINFO])
}

/// Sets a link up.
pub fn set_up(index: i32) -> Request {
    let mut body = [0; IFINFO];
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&up);
    body[12..16].copy_from_slice(&up);
    Request::new(libc::RTM_NEWLINK, ACK, &body)
}

/// Gives a link another name.
pub fn rename(index: i32, name: &str) -> Request {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(libc::RTM_NEWLINK, ACK, &body).attr(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
}

/// Sets the MTU of a link.
pub fn set_mtu(index: i32, mtu: u16) -> Request {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(libc::RTM_NEWLINK, ACK, &body).attr(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
}

/// Family and bytes of an address.
fn parts(addr: &IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(addr) => (libc::AF_INET as u8, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6 as u8, addr.octets().to_vec()),
    }
}

/// Adds an address; fails with EEXIST if the equal one is there.
pub fn add_address(index: i32, addr: IpAddr, prefix: u8) -> Request {
    let (family, octets) = parts(&addr);
    let mut body = [0; IFADDR];
    body[0] = family;
    body[1] = prefix;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let request = Request::new(libc::RTM_NEWADDR, ACK | CREATE | libc::NLM_F_EXCL as u16, &body)
        .attr(IFA_LOCAL, &octets)
        .attr(IFA_ADDRESS, &octets);
    match addr {
        IpAddr::V4(addr) if prefix < 31 => request.attr(IFA_BROADCAST, &broadcast(addr, prefix).octets()),
        _ => request,
    }
}

fn broadcast(addr: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(addr) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0))
}

/// Makes `gateway` the default route, in place of one that is there.
pub fn set_default_route(index: i32, gateway: IpAddr) -> Request {
    let (family, octets) = parts(&gateway);
    let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
    let body = [family, 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST, 0, 0, 0, 0];
    Request::new(libc::RTM_NEWROUTE, ACK | CREATE | libc::NLM_F_REPLACE as u16, &body)
        .attr(RTA_GATEWAY, &octets)
        .attr(RTA_OIF, &index.to_ne_bytes())
}

/// What the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A link exists or changed.
    Link(Link),
    /// A link is gone.
    LinkGone(i32),
    /// A request ended; 0 is success. Carries the kernel's own words, if any.
    Ended {
        /// Sequence number of the request.
        seq: u32,
        /// Errno, 0 on success.
        errno: i32,
        /// Extended acknowledgement.
        note: Option<String>,
    },
    /// Something else.
    Other,
}

/// Cuts one datagram into answers. A message that is cut short ends it.
pub fn answers(datagram: &[u8]) -> Vec<Answer> {
    let mut rest = datagram;
    let mut found = Vec::new();
    while let (Some(len), Some(kind), Some(flags), Some(seq)) =
        (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u32_at(rest, 8))
    {
        let len = len as usize;
        let Some(body) = rest.get(HEADER..len) else { break };
        found.push(answer(kind, flags, seq, body));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn answer(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Answer {
    match kind {
        libc::RTM_NEWLINK => link(body).map_or(Answer::Other, Answer::Link),
        libc::RTM_DELLINK => i32_at(body, 4).map_or(Answer::Other, Answer::LinkGone),
        k if k == libc::NLMSG_DONE as u16 => {
            Answer::Ended { seq, errno: i32_at(body, 0).unwrap_or(0).wrapping_neg(), note: None }
        }
        k if k == libc::NLMSG_ERROR as u16 => {
            // struct nlmsgerr: the error, the header of the request (all of it without NETLINK_CAP_ACK), then attributes.
            const NLM_F_CAPPED: u16 = 0x100;
            let echoed = if flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(body, 4).unwrap_or(0) as usize };
            let tail = body.get(4 + echoed.next_multiple_of(4)..).unwrap_or_default();
            let note = attrs(tail)
                .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
                .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            Answer::Ended { seq, errno: i32_at(body, 0).unwrap_or(0).wrapping_neg(), note }
        }
        _ => Answer::Other,
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let (index, flags) = (i32_at(body, 4)?, u32_at(body, 8)?);
    let mut link = Link { index, name: String::new(), mac: None, flags };
    for (kind, payload) in attrs(body.get(IFINFO..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned(),
            IFLA_ADDRESS => link.mac = payload.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    Some(link)
}

fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (u16_at(bytes, 0)? as usize, u16_at(bytes, 2)?);
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & libc::NLA_TYPE_MASK as u16, payload))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_answers_are_dropped_not_misread() {
        let whole = set_up(7).bytes(1);
        for cut in 0..whole.len() {
            assert_eq!(answers(&whole[..cut]), vec![]);
        }
        assert!(matches!(&answers(&whole)[..], [Answer::Link(link)] if link.index == 7));
        let mut zero_len = whole;
        zero_len[0..4].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(answers(&zero_len), vec![]);
    }

    #[test]
    fn broadcast_follows_the_prefix() {
        let broadcast = |prefix| {
            let bytes = add_address(1, Ipv4Addr::new(10, 1, 2, 3).into(), prefix).bytes(1);
            attrs(&bytes[HEADER + IFADDR..]).find(|(kind, _)| *kind == IFA_BROADCAST).map(|(_, b)| b.to_vec())
        };
        assert_eq!(broadcast(24), Some(vec![10, 1, 2, 255]));
        assert_eq!(broadcast(0), Some(vec![255; 4]));
        assert_eq!(broadcast(32), None);
    }
}
