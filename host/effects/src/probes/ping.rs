//! ICMP echo to the guest (RFC 792), from inside the namespace.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use airlock_domain::diagnosis::facts::Probe;
use airlock_protocol::icmp;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, Ready};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::errno::outcome;
use crate::network::{Network, NetworkError};
use crate::sys;

/// Sent again after this: one packet that was lost is no silence.
const AGAIN: Duration = Duration::from_millis(200);
/// An answer is much shorter.
const PACKET: usize = 256;

/// Asks until an answer comes or the time is over.
pub(super) async fn ask(network: &Network, address: Ipv4Addr, ends: Instant) -> Result<Probe, NetworkError> {
    let opened = network.inside(move || open(address), "open a socket for ICMP echo").await;
    let socket = match opened {
        Ok(socket) => socket,
        // No route is an answer.
        Err(NetworkError::Read { source, .. }) => return Ok(outcome(&source, "connect")),
        Err(error) => return Err(error),
    };
    Ok(match timeout_at(ends, exchange(socket)).await {
        Ok(Ok(())) => Probe::Ok,
        Ok(Err(error)) => outcome(&error, "ICMP echo"),
        Err(_) => Probe::TimedOut,
    })
}

/// Takes packets from that address only, and what routers say of it.
fn open(address: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.connect(&SocketAddr::from((address, 0)).into())?;
    Ok(socket.into())
}

async fn exchange(socket: OwnedFd) -> io::Result<()> {
    let socket = sys::readable_or_failed(socket)?;
    let token = RandomState::new().hash_one(()).to_be_bytes();
    let (request, mut packet) = (icmp::request(token), [0; PACKET]);
    let mut again = Instant::now();
    loop {
        if Instant::now() >= again {
            send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
            again = Instant::now() + AGAIN;
        }
        let mut ready = tokio::select! {
            ready = socket.ready(Interest::READABLE | Interest::ERROR) => ready?,
            () = sleep_until(again) => continue,
        };
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(length) if icmp::is_reply(packet.get(..length).unwrap_or_default(), token) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => ready.clear_ready_matching(Ready::READABLE | Ready::ERROR),
            Err(errno) => return Err(errno.into()),
        }
    }
}
