//! What the DHCP server answers (RFC 2131). Pure: a request and the lease of its sender in, an answer or silence with its reason out.
//!
//! Nothing is chosen here. A guest's MAC is made of its address ([`MacAddr::from_lease`]), and the address is its own only while
//! the lease is recorded: so every request has at most one address that it can be told, and everything else is refused or left
//! without an answer. Leases begin and end with their VM; no message of a guest changes one.

mod throttle;

use std::net::{IpAddr, Ipv4Addr};

use airlock_protocol::MacAddr;

use super::{GuestNetwork, NetworkSpec, Subnet, host_name};
use crate::ids::VmId;

pub use throttle::Throttle;

/// UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

/// The shortest time that an address is given for, in seconds.
const MIN_LEASE_S: u32 = 3600;

/// What clients ask for (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Which address there is for it.
    Discover,
    /// One address: the one offered, the one it had before, or the one it has, for longer.
    Request,
    /// Another one: somebody else has this.
    Decline,
    /// No address any more.
    Release,
    /// Everything but an address.
    Inform,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub wish: Wish,
    /// Who sent the frame; the port's guard lets no other MAC pass.
    pub source: MacAddr,
    /// `chaddr`: who it says it is.
    pub client: MacAddr,
    /// Its number for this conversation.
    pub xid: u32,
    /// Whether the answer must go to all hosts, because its IP does not take another destination yet.
    pub broadcast: bool,
    /// `ciaddr`: the address that it has already.
    pub has: Option<Ipv4Addr>,
    /// Option 50: the address that it would like to have.
    pub wants: Option<Ipv4Addr>,
    /// Option 54: the server that it means.
    pub server: Option<Ipv4Addr>,
    /// `giaddr`: the relay that it came through.
    pub relay: Option<Ipv4Addr>,
    /// Option 61, which an answer repeats (RFC 6842).
    pub client_id: Option<Vec<u8>>,
}

/// A lease that is recorded now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub vm_id: VmId,
    /// The address.
    pub address: Ipv4Addr,
}

/// What the server goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Pool and gateway; the gateway is the server.
    pub subnet: Subnet,
    /// What guests are told besides.
    pub guest: GuestNetwork,
    /// How long an address is given for, in seconds.
    pub lease_s: u32,
}

impl Terms {
    /// The terms of an installation whose sessions end after `session_max_s` seconds at the latest: until then a guest keeps
    /// its address even if nobody answers its renewals.
    pub fn of(network: &NetworkSpec, session_max_s: u64) -> Self {
        let lease_s = u32::try_from(session_max_s).unwrap_or(u32::MAX).max(MIN_LEASE_S);
        Self { subnet: network.subnet, guest: network.guest.clone(), lease_s }
    }
}

/// Kinds of answers (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This address is there for you.
    Offer,
    /// It is yours.
    Ack,
    /// That address is not yours.
    Nak,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Kind of the message.
    pub kind: Kind,
    /// The client's number.
    pub xid: u32,
    /// The client: the one MAC that the frame goes to.
    pub client: MacAddr,
    /// Destination of the packet.
    pub to: Ipv4Addr,
    /// Whether the client asked for a broadcast.
    pub broadcast: bool,
    /// `ciaddr`.
    pub has: Option<Ipv4Addr>,
    /// `yiaddr`: the leased address.
    pub gives: Option<Ipv4Addr>,
    /// Option 61 of the request.
    pub client_id: Option<Vec<u8>>,
    /// Everything else of the network; none in a refusal.
    pub told: Option<Told>,
    /// Seconds; only with an address.
    pub times: Option<Times>,
    /// Option 56: why it is refused.
    pub because: Option<String>,
}

/// What a client is told of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Router and server.
    pub gateway: Ipv4Addr,
    /// DNS servers; the option has no room for IPv6.
    pub dns: Vec<Ipv4Addr>,
    /// Search domains, the first one being the guest's own.
    pub search: Vec<String>,
    /// MTU, if it is not the driver's own.
    pub mtu: Option<u16>,
    /// Host name.
    pub hostname: String,
}

/// How long an address is given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until it ends.
    pub lease_s: u32,
    /// T1: until the server is asked for more.
    pub renew_s: u32,
    /// T2: until everybody is.
    pub rebind_s: u32,
}

/// Why nothing is answered. The names are stable: they are counted under them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Silence {
    /// No DHCP message of a client, or one that contradicts itself.
    Malformed,
    /// It came through a relay, of which there is none here.
    Relayed,
    /// It speaks for another machine than the one that sent it.
    ForeignMac,
    /// Its MAC is not made of an address of the pool.
    UnknownMac,
    /// Nobody has leased the address that its MAC is made of.
    NoLease,
    /// It asks more often than any client does.
    TooMany,
    /// It means another server.
    OtherServer,
    /// It asks for everything but an address, and has one that is not its own.
    ForeignAddress,
    /// It says that somebody else has its address.
    Declined,
    /// It gives its address up; the lease is not its own to end.
    Released,
    /// Whose the address is cannot be found out now.
    LeaseUnreadable,
    /// Its TAP is not there any more, or does not take the answer.
    NotSent,
}

impl Silence {
    /// The name under which it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Relayed => "relayed",
            Self::ForeignMac => "foreign_mac",
            Self::UnknownMac => "unknown_mac",
            Self::NoLease => "no_lease",
            Self::TooMany => "too_many",
            Self::OtherServer => "other_server",
            Self::ForeignAddress => "foreign_address",
            Self::Declined => "declined",
            Self::Released => "released",
            Self::LeaseUnreadable => "lease_unreadable",
            Self::NotSent => "not_sent",
        }
    }
}

impl Kind {
    /// The name under which it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Ack => "ack",
            Self::Nak => "nak",
        }
    }
}

/// The address that the sender of a request may ask about at all; whether it is leased is for the record to say.
pub fn address_of(subnet: Subnet, request: &Request) -> Result<Ipv4Addr, Silence> {
    if request.relay.is_some() {
        return Err(Silence::Relayed);
    }
    if request.client != request.source {
        return Err(Silence::ForeignMac);
    }
    let [_, _, a, b, c, d] = request.client.0;
    let address = Ipv4Addr::new(a, b, c, d);
    let is_made_of_it = MacAddr::from_lease(address) == request.client && subnet.contains_guest(address);
    if is_made_of_it { Ok(address) } else { Err(Silence::UnknownMac) }
}

/// Decides. `lease` is what is recorded of [`address_of`] now.
pub fn decide(terms: &Terms, request: &Request, lease: Option<Lease>) -> Result<Answer, Silence> {
    let address = address_of(terms.subnet, request)?;
    let lease = lease.filter(|lease| lease.address == address).ok_or(Silence::NoLease)?;
    let is_meant = request.server.is_none_or(|server| server == terms.subnet.gateway());
    match request.wish {
        Wish::Discover => Ok(given(terms, request, lease, Kind::Offer)),
        // A request for another server's offer turns ours down.
        _ if !is_meant => Err(Silence::OtherServer),
        Wish::Request => {
            let mut named = request.wants.iter().chain(&request.has).peekable();
            if named.peek().is_none() {
                Err(Silence::Malformed)
            } else if named.all(|named| *named == address) {
                Ok(given(terms, request, lease, Kind::Ack))
            } else {
                Ok(refused(request))
            }
        }
        Wish::Inform if request.has == Some(address) => {
            let answer = given(terms, request, lease, Kind::Ack);
            Ok(Answer { gives: None, times: None, ..answer })
        }
        Wish::Inform => Err(Silence::ForeignAddress),
        Wish::Decline => Err(Silence::Declined),
        Wish::Release => Err(Silence::Released),
    }
}

fn given(terms: &Terms, request: &Request, lease: Lease, kind: Kind) -> Answer {
    let Terms { subnet, guest, lease_s } = terms;
    let dns = guest.dns.iter().filter_map(|server| match server {
        IpAddr::V4(server) => Some(*server),
        IpAddr::V6(_) => None,
    });
    let told = Told {
        prefix: subnet.prefix(),
        gateway: subnet.gateway(),
        dns: dns.collect(),
        search: guest.search.clone(),
        mtu: guest.mtu,
        hostname: host_name(lease.vm_id),
    };
    let to = match request.has {
        // A discovering client has no address, whatever it says.
        Some(has) if kind == Kind::Ack => has,
        _ if request.broadcast => Ipv4Addr::BROADCAST,
        _ => lease.address,
    };
    Answer {
        kind,
        xid: request.xid,
        client: request.client,
        to,
        broadcast: request.broadcast,
        has: request.has.filter(|_| kind == Kind::Ack),
        gives: Some(lease.address),
        client_id: request.client_id.clone(),
        told: Some(told),
        times: Some(Times { lease_s: *lease_s, renew_s: lease_s / 2, rebind_s: lease_s / 8 * 7 }),
        because: None,
    }
}

fn refused(request: &Request) -> Answer {
    Answer {
        kind: Kind::Nak,
        xid: request.xid,
        client: request.client,
        to: Ipv4Addr::BROADCAST,
        broadcast: request.broadcast,
        has: None,
        gives: None,
        client_id: request.client_id.clone(),
        told: None,
        times: None,
        because: Some("this machine has another address".to_owned()),
    }
}

#[cfg(test)]
mod tests;
