//! rtnetlink: hears of changes and puts back what was taken. Formats: netlink(7), rtnetlink(7); integers in host byte order.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use super::Lease;
use super::interface::Observed;

const HEADER: usize = 16;
const IFADDR: usize = 8;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_CACHEINFO: u16 = 6;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
/// Messages are at most a page or 32 KiB (netlink(7)).
const DATAGRAM: usize = 32 * 1024;

/// An IPv4 address came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Port id of the socket that asked for it: as a rule its process. 0: an ioctl, or the kernel itself.
    pub port: u32,
    /// Number of the interface.
    pub index: usize,
    /// Whether it ends by itself, as a DHCP client's does.
    pub expires: bool,
}

/// A socket that hears of links, IPv4 addresses and routes, and neighbours.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens it.
    pub fn subscribe() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_NEIGH;
        let socket = open(groups.cast_unsigned())?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Waits for changes, at most `pause`. Nothing is lost when the kernel drops events: whoever waits looks anew.
    pub fn wait(&mut self, pause: Option<Duration>) -> io::Result<Vec<Change>> {
        let millis = pause.map(|pause| u16::try_from(pause.as_millis()).unwrap_or(u16::MAX));
        let timeout = millis.map_or(PollTimeout::NONE, PollTimeout::from);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut heard = Vec::new();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => heard.extend(changes(self.buffer.get(..len).unwrap_or_default())),
                Err(Errno::EAGAIN) => return Ok(heard),
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn open(groups: u32) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// The changes of IPv4 addresses in a datagram. A message that is cut short ends it.
fn changes(datagram: &[u8]) -> Vec<Change> {
    let (mut rest, mut found) = (datagram, Vec::new());
    while let (Some(len), Some(kind), Some(port)) = (u32_at(rest, 0), u16_at(rest, 4), u32_at(rest, 12)) {
        let len = usize::try_from(len).unwrap_or(0);
        let Some(body) = rest.get(HEADER..len) else { break };
        if matches!(kind, libc::RTM_NEWADDR | libc::RTM_DELADDR) && body.first() == Some(&AF_INET) {
            let index = u32_at(body, 4).and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
            // struct ifa_cacheinfo: preferred, then valid seconds; all ones is for ever.
            let cache = attribute(body.get(IFADDR..).unwrap_or_default(), IFA_CACHEINFO);
            let valid = cache.and_then(|cache| u32_at(cache, 4));
            found.push(Change { port, index, expires: valid.is_some_and(|valid| valid != u32::MAX) });
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let payload = bytes.get(4..len)?;
        if kind == wanted {
            return Some(payload);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// Makes the interface have its lease and nothing else: foreign addresses go first, since their going may take ours along.
pub fn restore(observed: &Observed, lease: &Lease) -> nix::Result<()> {
    let index = u32::try_from(observed.index).map_err(|_| Errno::ENODEV)?;
    if index == 0 {
        return Err(Errno::ENODEV);
    }
    let socket = open(0)?;
    for (addr, prefix) in observed.foreign(lease) {
        request(&socket, libc::RTM_DELADDR, 0, &address(index, addr, prefix), &[Errno::EADDRNOTAVAIL])?;
    }
    if !observed.is_up {
        request(&socket, libc::RTM_NEWLINK, 0, &up(index), &[])?;
    }
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    request(&socket, libc::RTM_NEWADDR, create, &address(index, lease.addr, lease.prefix), &[Errno::EEXIST])?;
    if let Some(gateway) = lease.gateway {
        let replace = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        request(&socket, libc::RTM_NEWROUTE, replace, &default_route(index, gateway), &[])?;
    }
    Ok(())
}

/// Sends one request and takes its answer; an errno of `fine` is what was wanted.
fn request(socket: &OwnedFd, kind: u16, flags: i32, body: &[u8], fine: &[Errno]) -> nix::Result<()> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).map_err(|_| Errno::EINVAL)?;
    let len = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 1024];
    // The kernel answers before send returns.
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let code = u32_at(answer.get(..len).unwrap_or_default(), HEADER).ok_or(Errno::EBADMSG)?;
    let errno = Errno::from_raw(code.cast_signed().wrapping_neg());
    if code == 0 || fine.contains(&errno) { Ok(()) } else { Err(errno) }
}

/// struct ifaddrmsg and the address.
fn address(index: u32, addr: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    attach(&mut body, IFA_LOCAL, &addr.octets());
    attach(&mut body, IFA_ADDRESS, &addr.octets());
    body
}

/// struct ifinfomsg that sets the link up.
fn up(index: u32) -> Vec<u8> {
    let up = libc::IFF_UP.to_ne_bytes();
    [[0; 4], index.to_ne_bytes(), up, up].concat()
}

/// struct rtmsg of the default route.
fn default_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
    let mut body = vec![AF_INET, 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST, 0, 0, 0, 0];
    attach(&mut body, RTA_GATEWAY, &gateway.octets());
    attach(&mut body, RTA_OIF, &index.to_ne_bytes());
    body
}

fn attach(body: &mut Vec<u8>, kind: u16, payload: &[u8; 4]) {
    body.extend(8u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(payload);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, port: u32, valid: u32) -> Vec<u8> {
        let mut body = address(7, Ipv4Addr::new(10, 0, 0, 2), 24);
        body.extend(20u16.to_ne_bytes());
        body.extend(IFA_CACHEINFO.to_ne_bytes());
        body.extend([valid, valid, 0, 0].map(u32::to_ne_bytes).concat());
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn says_who_changed_an_address_and_whether_it_ends() {
        let both = [message(libc::RTM_NEWADDR, 812, 3600), message(libc::RTM_DELADDR, 0, u32::MAX)].concat();
        let change = |port, expires| Change { port, index: 7, expires };
        assert_eq!(changes(&both), [change(812, true), change(0, false)]);
        assert_eq!(changes(&message(libc::RTM_NEWLINK, 812, 1)), []);
        let whole = message(libc::RTM_NEWADDR, 812, 3600);
        assert!((0..whole.len()).all(|cut| changes(&whole[..cut]).is_empty()));
    }
}
