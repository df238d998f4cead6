//! ARP probe: asks for the owner of an address and waits for its answer (RFC 826).
//!
//! It proves that frames travel both ways before anything else may fail with a less telling error.

#![expect(clippy::cast_possible_truncation, reason = "libc types small kernel constants and sizes as c_int and usize")]

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use airlock_protocol::MacAddr;
use nix::errno::Errno;

use super::readable_before;

/// Length of an ARP message for Ethernet and IPv4.
const MESSAGE: usize = 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;

/// Who asks whom, through which interface.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Our interface.
    pub index: i32,
    /// Our hardware address.
    pub mac: MacAddr,
    /// Our address.
    pub addr: Ipv4Addr,
    /// The address whose owner is asked for.
    pub target: Ipv4Addr,
}

/// Asks up to `attempts` times, each time waiting `pause` for the answer. `None`: nobody answered.
pub fn probe(socket: &OwnedFd, question: Question, attempts: u32, pause: Duration) -> Result<Option<MacAddr>, Errno> {
    let request = encode(REQUEST, question.mac, question.addr, MacAddr([0; 6]), question.target);
    for _ in 0..attempts {
        send_broadcast(socket, question.index, &request)?;
        let deadline = Instant::now() + pause;
        while readable_before(socket.as_fd(), deadline)? {
            let mut message = [0; MESSAGE];
            match nix::unistd::read(socket, &mut message) {
                Ok(MESSAGE) => {}
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            }
            if let Some(owner) = answer_of(&message, question.target) {
                return Ok(Some(owner));
            }
        }
    }
    Ok(None)
}

/// The owner of `target` if `message` is a reply in its name.
fn answer_of(message: &[u8; MESSAGE], target: Ipv4Addr) -> Option<MacAddr> {
    let is_reply = message[6..8] == REPLY.to_be_bytes() && message[14..18] == target.octets();
    is_reply.then(|| MacAddr([message[8], message[9], message[10], message[11], message[12], message[13]]))
}

fn encode(operation: u16, mac: MacAddr, addr: Ipv4Addr, target_mac: MacAddr, target: Ipv4Addr) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0..2].copy_from_slice(&1u16.to_be_bytes()); // hardware type Ethernet
    message[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    message[4] = 6;
    message[5] = 4;
    message[6..8].copy_from_slice(&operation.to_be_bytes());
    message[8..14].copy_from_slice(&mac.0);
    message[14..18].copy_from_slice(&addr.octets());
    message[18..24].copy_from_slice(&target_mac.0);
    message[24..28].copy_from_slice(&target.octets());
    message
}

/// A packet socket that sees only ARP on one interface. SOCK_DGRAM: the kernel writes the Ethernet header.
///
/// Closing it makes the kernel wait for every CPU (`synchronize_net` in packet_release), tens of milliseconds under
/// emulation: the caller closes it when nothing waits any more. For the same reason it gets its protocol only by bind(2):
/// given to socket(2), the kernel would hook it to all interfaces first and wait to unhook it.
pub fn open(index: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: socket(2) takes no pointers.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just returned by socket(2) and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let addr = link_address(index, [0; 8], 0);
    // SAFETY: pointer and length describe `addr`, which lives through the call.
    Errno::result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), LINK_ADDRESS_LEN) })?;
    Ok(socket)
}

fn send_broadcast(socket: &OwnedFd, index: i32, message: &[u8]) -> Result<(), Errno> {
    let addr = link_address(index, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], 6);
    // SAFETY: both pointer and length pairs describe values that live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            (&raw const addr).cast(),
            LINK_ADDRESS_LEN,
        )
    };
    Errno::result(sent).map(drop)
}

const LINK_ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn link_address(index: i32, addr: [u8; 8], len: u8) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: len,
        sll_addr: addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_in_the_target_s_name_counts() {
        let (us, gateway) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        let (ours, theirs) = (MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(answer_of(&encode(REPLY, theirs, gateway, ours, us), gateway), Some(theirs));
        assert_eq!(answer_of(&encode(REQUEST, theirs, gateway, ours, us), gateway), None);
        assert_eq!(answer_of(&encode(REPLY, theirs, us, ours, gateway), gateway), None);
    }
}
