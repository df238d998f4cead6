//! The server's sockets inside the namespace.
//!
//! Two of them. One of packets hears whole frames of the bridge, so that who sent one is known, and sends whole frames into a
//! guest's own TAP: past the bridge, which would show a frame for a MAC that it forgot to every guest. The other one is UDP's:
//! it holds the port, so that a second server there is found out, and that the kernel does not tell guests that nobody listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use airlock_domain::network::dhcp::SERVER_PORT;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::wire::IPV4;
use crate::netns::Netns;
use crate::sys;

/// The longest frame on a link with the usual MTU; of longer ones the end is cut off, and they are no requests.
const FRAME: usize = 1514;

/// Of what the bridge hears, frames with a datagram to a DHCP server: everything else that guests send passes here too.
/// Offsets are those of a frame that carries IPv4, as all do that get here.
const TO_SERVER: [(u32, u8, u8, u32); 8] = [
    // The protocol is UDP, ...
    (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 23),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 5, 17),
    // ... this is its first part, ...
    (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 20),
    (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 3, 0, 0x1fff),
    // ... and behind the IP header stands the port.
    (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 14),
    (libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 16),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, SERVER_PORT as u32),
    (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
];
/// What the last jump of [`TO_SERVER`] leads to.
const TAKE: (u32, u8, u8, u32) = (libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX);
/// Nothing is ever read from the socket that holds the port.
const NOTHING: (u32, u8, u8, u32) = (libc::BPF_RET | libc::BPF_K, 0, 0, 0);

/// Both sockets.
pub(super) struct Sockets {
    packets: AsyncFd<OwnedFd>,
    _port: OwnedFd,
}

/// What could not be done, and the system's reason.
pub(super) type Refusal = (&'static str, io::Error);

impl Sockets {
    /// Opens them on the bridge. Nothing is heard that came before.
    pub(super) async fn open(netns: &Netns, bridge: &str) -> Result<Result<Self, Refusal>, crate::netns::NetnsError> {
        let bridge = bridge.to_owned();
        let opened = netns.call(move || open_there(&bridge)).await?;
        Ok(opened.and_then(|(packets, port)| {
            let packets = sys::readable_or_failed(packets).map_err(|source| ("wait for requests", source))?;
            Ok(Self { packets, _port: port })
        }))
    }

    /// The next frame to a DHCP server. An error is the end of the socket: the bridge went down or away.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; FRAME];
        loop {
            let mut ready = self.packets.ready(Interest::READABLE | Interest::ERROR).await?;
            match recv(self.packets.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(Errno::EAGAIN) => ready.clear_ready_matching(Ready::READABLE),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends a whole frame into a link.
    pub(super) fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        sys::packet_send(self.packets.as_fd(), index, IPV4, frame)
    }
}

fn open_there(bridge: &str) -> Result<(OwnedFd, OwnedFd), Refusal> {
    let failed = |doing| move |source| (doing, source);
    let index = nix::net::if_::if_nametoindex(bridge);
    let index = index.map_err(|errno| ("find the bridge", io::Error::from(errno)))?;

    let port = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("open a UDP socket"))?;
    port.attach_filter(&[filter(NOTHING)]).map_err(failed("set the port's filter"))?;
    port.bind_device(Some(bridge.as_bytes())).map_err(failed("bind to the bridge"))?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT));
    port.bind(&any.into()).map_err(failed("bind to UDP port 67"))?;

    // Without a protocol it hears nothing until it is bound, with the filter in place.
    let packets = Socket::new(Domain::PACKET, Type::RAW, None).map_err(failed("open a packet socket"))?;
    packets.set_nonblocking(true).map_err(failed("set the packet socket non-blocking"))?;
    let program: Vec<SockFilter> = TO_SERVER.into_iter().chain([TAKE]).map(filter).collect();
    packets.attach_filter(&program).map_err(failed("set the packet socket's filter"))?;
    sys::packet_bind(packets.as_fd(), index, IPV4).map_err(failed("bind a packet socket to the bridge"))?;
    Ok((packets.into(), port.into()))
}

fn filter((code, if_true, if_false, operand): (u32, u8, u8, u32)) -> SockFilter {
    // Codes of classic BPF have 16 bits.
    SockFilter::new(u16::try_from(code).unwrap_or_default(), if_true, if_false, operand)
}
