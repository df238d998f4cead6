//! One probe: TCP, UDP, ICMP echo or a name, blocking, at most until its deadline.
//!
//! Failures are outcomes. ICMP errors of routers are asked for (`IP_RECVERR`, ip(7)), so that "no way there" is told from
//! silence; a connected socket takes nothing from anybody but the target.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use airlock_protocol::icmp;
use airlock_protocol::message::{ReachOutcome, ReachTarget};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use super::dns;

/// The guest's name servers, as init or the image's own network wrote them.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Shortest wait that the socket calls take.
const LEAST: Duration = Duration::from_millis(1);
/// After this long without an answer the question is sent again: one packet that was lost, or one ICMP error that a router
/// did not send (they limit their rate), is no silence.
const AGAIN: Duration = Duration::from_secs(1);
/// The largest datagram that is looked at; what is longer is cut.
const DATAGRAM: usize = 2048;

/// Tries to reach `target` until `deadline`.
pub fn reach(target: &ReachTarget, deadline: Instant) -> ReachOutcome {
    match target {
        ReachTarget::Tcp { address } => tcp(address, deadline),
        ReachTarget::Udp { address } => udp(address, deadline),
        ReachTarget::Ping { address } => ping(*address, deadline),
        ReachTarget::Resolve { name } => match fs::read_to_string(RESOLV_CONF) {
            Ok(text) => resolve(name, &dns::servers(&text), deadline),
            Err(error) => outcome_of(&error, &format!("read {RESOLV_CONF}")),
        },
    }
}

fn tcp(address: &SocketAddr, deadline: Instant) -> ReachOutcome {
    match TcpStream::connect_timeout(address, left(deadline)) {
        Ok(_) => ReachOutcome::Connected,
        Err(error) => outcome_of(&error, &format!("connect to {address}")),
    }
}

fn udp(address: &SocketAddr, deadline: Instant) -> ReachOutcome {
    let asked = exchange(address, &dns::root_question(question_id()), deadline, |_| Some(()));
    asked.map_or_else(|outcome| outcome, |()| ReachOutcome::Answered)
}

fn ping(address: Ipv4Addr, deadline: Instant) -> ReachOutcome {
    let token = random().to_be_bytes();
    let asked = raw_icmp(address).and_then(|socket| {
        talk(&socket, &icmp::request(token), deadline, |packet| icmp::is_reply(packet, token).then_some(()))
    });
    asked.map_or_else(|error| outcome_of(&error, &format!("ping {address}")), |()| ReachOutcome::Answered)
}

/// Asks the servers in turn until one knows; each has its share of the time that is left. The last one's outcome stands.
pub fn resolve(name: &str, servers: &[SocketAddr], deadline: Instant) -> ReachOutcome {
    let failed = |error: dns::DnsError| ReachOutcome::Failed { errno: None, detail: error.to_string() };
    let mut last = ReachOutcome::Failed { errno: None, detail: format!("{RESOLV_CONF} names no server") };
    for (index, server) in servers.iter().enumerate() {
        let question = match dns::question(question_id(), name) {
            Ok(question) => question,
            Err(error) => return failed(error),
        };
        let share = left(deadline) / u32::try_from(servers.len() - index).unwrap_or(1);
        let asked = exchange(server, &question, Instant::now() + share, |answer| dns::addresses(answer, &question));
        last = match asked {
            Ok(Ok(addresses)) => return ReachOutcome::Resolved { addresses },
            Ok(Err(error)) if error.is_final() => return failed(error),
            Ok(Err(error)) => failed(error),
            Err(outcome) => outcome,
        };
    }
    last
}

/// A question by datagram, and what `take` makes of the first answer that it knows.
fn exchange<T>(
    address: &SocketAddr,
    question: &[u8],
    deadline: Instant,
    take: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, ReachOutcome> {
    let outcome = |error: io::Error| outcome_of(&error, &format!("ask {address}"));
    let socket = udp_to(address).map_err(outcome)?;
    talk(&socket, question, deadline, take).map_err(outcome)
}

fn udp_to(address: &SocketAddr) -> io::Result<UdpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.connect(address)?;
    Ok(socket)
}

/// A raw socket (CAP_NET_RAW), whose packets come with their IPv4 header. The type is only the standard library's name for
/// a socket that sends and receives datagrams.
fn raw_icmp(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, 0)))?;
    Ok(UdpSocket::from(socket))
}

/// Sends `question` until `take` knows an answer.
fn talk<T>(socket: &UdpSocket, question: &[u8], deadline: Instant, take: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    let mut packet = [0; DATAGRAM];
    let mut again = Instant::now();
    loop {
        let now = Instant::now();
        if now >= again {
            socket.send(question)?;
            again = now + AGAIN;
        }
        socket.set_read_timeout(Some(left(deadline.min(again))))?;
        match socket.recv(&mut packet) {
            Ok(len) => {
                if let Some(answer) = packet.get(..len).and_then(&take) {
                    return Ok(answer);
                }
            }
            // The wait's end is EAGAIN (socket(7)).
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn outcome_of(error: &io::Error, doing: &str) -> ReachOutcome {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let name = |errno: Errno| format!("{errno:?}");
    match errno {
        Some(Errno::ECONNREFUSED) => ReachOutcome::Refused,
        Some(
            errno @ (Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EACCES),
        ) => ReachOutcome::Unreachable { errno: name(errno) },
        _ if error.kind() == ErrorKind::TimedOut => ReachOutcome::TimedOut,
        errno => {
            // With an errno the words stand for it; without one they are all there is.
            let detail = if errno.is_some() { doing.to_owned() } else { format!("{doing}: {error}") };
            ReachOutcome::Failed { errno: errno.map(name), detail }
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(LEAST)
}

/// Differs from call to call and cannot be guessed; unlike getrandom(2) it never waits for the kernel's first entropy.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Number of a question to a name server.
fn question_id() -> u16 {
    let [a, b, ..] = random().to_be_bytes();
    u16::from_be_bytes([a, b])
}
