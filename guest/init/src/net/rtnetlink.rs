//! One rtnetlink socket that makes requests and hears link events.
//!
//! It subscribes to link events before its first dump, so no link can appear unseen between the two; every link message,
//! from a dump or an event, updates one table. A failure carries what was asked, the errno and the kernel's own words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use super::readable_before;
use super::wire::{self, Answer, Request};
use crate::kernel::{KernelError, Link, WantedLink};

/// How long the kernel may take to acknowledge a request. It answers synchronously; this only bounds a kernel bug.
const ACK_WITHIN: Duration = Duration::from_secs(5);
/// Messages are at most a page or 32 KiB (netlink(7)).
const DATAGRAM: usize = 32 * 1024;

/// The socket and the links as last heard.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: OwnedFd,
    seq: u32,
    links: BTreeMap<i32, Link>,
    buffer: Vec<u8>,
}

impl Rtnetlink {
    /// Opens the socket, subscribes to link events and reads all links.
    pub fn open() -> Result<Self, KernelError> {
        let socket = open_socket().map_err(|source| KernelError::Netlink {
            doing: "open an rtnetlink socket".to_owned(),
            note: None,
            source,
        })?;
        let mut this = Self { socket, seq: 0, links: BTreeMap::new(), buffer: vec![0; DATAGRAM] };
        this.request("list links", wire::dump_links())?;
        Ok(this)
    }

    /// The links as last heard.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// Waits until the link exists. A name that nobody has when the time is over means the only link there is: names are
    /// given by whoever comes first, and a guest with one interface has no other to mean.
    pub fn find(&mut self, wanted: &WantedLink, within: Duration) -> Result<Link, KernelError> {
        let found = self.wait(within, |links| pick(links, wanted))?;
        let other = || matches!(wanted, WantedLink::Name(_)).then(|| pick(&self.links, &WantedLink::Only)).flatten();
        found.or_else(other).ok_or_else(|| KernelError::LinkMissing {
            wanted: wanted.clone(),
            present: self.links.values().cloned().collect(),
        })
    }

    /// Gives the link a name; another link that has it gets this one's. Both must be down.
    pub fn exchange_names(&mut self, link: &Link, name: &str) -> Result<(), KernelError> {
        let other = self.links.values().find(|other| other.name == name && other.index != link.index).cloned();
        if let Some(other) = &other {
            self.rename(other, "airlock-renamed")?;
        }
        self.rename(link, name)?;
        other.map_or(Ok(()), |other| self.rename(&other, &link.name))
    }

    fn rename(&mut self, link: &Link, name: &str) -> Result<(), KernelError> {
        self.request(&format!("rename {} to {name}", link.name), wire::rename(link.index, name))
    }

    /// Sets the MTU of a link.
    pub fn set_mtu(&mut self, link: &Link, mtu: u16) -> Result<(), KernelError> {
        self.request(&format!("set MTU {mtu} on {}", link.name), wire::set_mtu(link.index, mtu))
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: i32, name: &str) -> Result<(), KernelError> {
        self.request(&format!("set {name} up"), wire::set_up(index))
    }

    /// Waits until the link has a carrier. A link that goes away ends the wait at once.
    pub fn wait_carrier(&mut self, link: &Link, within: Duration) -> Result<(), KernelError> {
        let (gone, carrier) = (Some(false), Some(true));
        let state = self.wait(within, |links| match links.get(&link.index) {
            Some(link) if link.has_carrier() => carrier,
            Some(_) => None,
            None => gone,
        })?;
        match state {
            Some(true) => Ok(()),
            Some(false) => Err(KernelError::Netlink {
                doing: format!("wait for the carrier of {}, which went away", link.name),
                note: None,
                source: Errno::ENODEV,
            }),
            None => Err(KernelError::NoCarrier { dev: link.name.clone() }),
        }
    }

    /// Puts an address on the link. EEXIST means that the equal address and prefix are on this very link already
    /// (net/ipv4/devinet.c: `__inet_insert_ifa`), which is what was wanted.
    pub fn add_address(&mut self, link: &Link, addr: IpAddr, prefix: u8) -> Result<(), KernelError> {
        let doing = format!("set address {addr}/{prefix} on {}", link.name);
        match self.request(&doing, wire::add_address(link.index, addr, prefix)) {
            Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes `gateway` the default route.
    pub fn set_default_route(&mut self, link: &Link, gateway: IpAddr) -> Result<(), KernelError> {
        let doing = format!("set default route via {gateway} on {}", link.name);
        self.request(&doing, wire::set_default_route(link.index, gateway))
    }

    /// Waits for link events until `ready` finds what it looks for; `None` when the time is over.
    fn wait<T>(
        &mut self,
        within: Duration,
        ready: impl Fn(&BTreeMap<i32, Link>) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = ready(&self.links) {
                return Ok(Some(found));
            }
            let error = |source| KernelError::Netlink { doing: "wait for link events".to_owned(), note: None, source };
            if !readable_before(self.socket.as_fd(), deadline).map_err(error)? {
                return Ok(None);
            }
            match self.receive() {
                Ok(_) => {}
                // The kernel dropped events because we were slow: read everything again.
                Err(Errno::ENOBUFS) => self.request("list links", wire::dump_links())?,
                Err(errno) => return Err(error(errno)),
            }
        }
    }

    /// Sends a request and takes messages in until it ended.
    fn request(&mut self, doing: &str, request: Request) -> Result<(), KernelError> {
        let error = |note, source| KernelError::Netlink { doing: doing.to_owned(), note, source };
        self.seq += 1;
        let seq = self.seq;
        send(self.socket.as_raw_fd(), &request.bytes(seq), MsgFlags::empty()).map_err(|errno| error(None, errno))?;
        let deadline = Instant::now() + ACK_WITHIN;
        loop {
            if !readable_before(self.socket.as_fd(), deadline).map_err(|errno| error(None, errno))? {
                return Err(error(None, Errno::ETIMEDOUT));
            }
            let ends = match self.receive() {
                Ok(ends) => ends,
                Err(Errno::ENOBUFS | Errno::EINTR) => continue,
                Err(errno) => return Err(error(None, errno)),
            };
            match ends.into_iter().find(|end| end.0 == seq) {
                Some((_, 0, _)) => return Ok(()),
                Some((_, errno, note)) => return Err(error(note, Errno::from_raw(errno))),
                None => {}
            }
        }
    }

    /// Takes one datagram in: links into the table, the ends of requests (seq, errno, note) returned.
    fn receive(&mut self) -> Result<Vec<(u32, i32, Option<String>)>, Errno> {
        let len = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        let mut ends = Vec::new();
        for answer in wire::answers(self.buffer.get(..len).unwrap_or_default()) {
            match answer {
                Answer::Link(link) => drop(self.links.insert(link.index, link)),
                Answer::LinkGone(index) => drop(self.links.remove(&index)),
                Answer::Ended { seq, errno, note } => ends.push((seq, errno, note)),
                Answer::Other => {}
            }
        }
        Ok(ends)
    }
}

fn pick(links: &BTreeMap<i32, Link>, wanted: &WantedLink) -> Option<Link> {
    let mut others = links.values().filter(|link| !link.is_loopback());
    match wanted {
        WantedLink::Mac(mac) => others.find(|link| link.mac == Some(*mac)).cloned(),
        WantedLink::Name(name) => others.find(|link| link.name == *name).cloned(),
        WantedLink::Only => others.next().filter(|_| others.next().is_none()).cloned(),
    }
}

fn open_socket() -> Result<OwnedFd, Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    // Without these two options errors come without the kernel's words; everything else works the same.
    #[expect(clippy::cast_possible_truncation, reason = "the size of an int fits a socklen_t")]
    const LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and length describe `on`, which lives through the call; the descriptor is open.
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), LEN) };
    }
    let link_events = libc::RTMGRP_LINK as u32;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, link_events))?;
    Ok(socket)
}
