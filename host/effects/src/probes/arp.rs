//! Who answers ARP for the guest's address (RFC 826), asked on the bridge.
//!
//! Asked by hand and not through the kernel's neighbour table: the table remembers who answered some time ago, and of two who
//! answer it keeps one.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use airlock_domain::diagnosis::facts::NeighbourFacts;
use airlock_protocol::MacAddr;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::time::{Instant, sleep_until};

use crate::network::{Network, NetworkError};
use crate::sys;

const ETHERTYPE: u16 = 0x0806;
const REPLY: [u8; 2] = [0, 2];
/// Hardware Ethernet, protocol IPv4, lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
const FRAME: usize = 64;
/// Asked again after this.
const AGAIN: Duration = Duration::from_millis(150);
/// So long after the first answer others may still come.
const OTHERS: Duration = Duration::from_millis(50);

/// Asks until somebody answers or the time is over. Of several who answer the one that is not the guest is told.
pub(super) async fn ask(network: &Network, address: Ipv4Addr, ends: Instant) -> Result<NeighbourFacts, NetworkError> {
    let (bridge, gateway) = (network.spec().bridge.clone(), network.spec().subnet.gateway());
    let doing = "ask by ARP";
    let (socket, index) = network.inside(move || open(&bridge), doing).await?;
    let asked = async {
        let socket = sys::readable_or_failed(socket)?;
        let request = request(MacAddr::from_lease(gateway), gateway, address);
        listen(&socket, index, &request, gateway, address, ends).await
    };
    let read_error =
        |source| NetworkError::Read { what: doing.to_owned(), namespace: network.namespace().to_owned(), source };
    let answers: Vec<MacAddr> = asked.await.map_err(read_error)?;
    let own = MacAddr::from_lease(address);
    let mac = answers.iter().find(|mac| **mac != own).or(answers.first()).copied();
    Ok(NeighbourFacts { answered: Some(mac.is_some()), mac, ours: mac.map(|mac| mac == own) })
}

fn open(bridge: &str) -> io::Result<(OwnedFd, u32)> {
    let index = nix::net::if_::if_nametoindex(bridge)?;
    // Without a protocol it hears nothing until it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    sys::packet_bind(socket.as_fd(), index, ETHERTYPE)?;
    Ok((socket.into(), index))
}

async fn listen(
    socket: &AsyncFd<OwnedFd>,
    index: u32,
    request: &[u8],
    gateway: Ipv4Addr,
    address: Ipv4Addr,
    mut ends: Instant,
) -> io::Result<Vec<MacAddr>> {
    let (mut answers, mut frame, mut again) = (Vec::new(), [0; FRAME], Instant::now());
    loop {
        let now = Instant::now();
        if now >= ends {
            return Ok(answers);
        }
        if now >= again && answers.is_empty() {
            sys::packet_send(socket.as_fd(), index, ETHERTYPE, request)?;
            again = now + AGAIN;
        }
        let wake = if answers.is_empty() { again.min(ends) } else { ends };
        let mut ready = tokio::select! {
            ready = socket.ready(Interest::READABLE | Interest::ERROR) => ready?,
            () = sleep_until(wake) => continue,
        };
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                let answer = answer(frame.get(..length).unwrap_or_default(), gateway, address);
                if let Some(mac) = answer.filter(|mac| !answers.contains(mac)) {
                    if answers.is_empty() {
                        ends = ends.min(Instant::now() + OTHERS);
                    }
                    answers.push(mac);
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready_matching(Ready::READABLE | Ready::ERROR),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A broadcast frame that asks who has `target`.
fn request(mac: MacAddr, gateway: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &mac.0, &ETHERTYPE.to_be_bytes()].concat();
    let message = [&FIXED[..], &[0, 1], &mac.0, &gateway.octets(), &[0; 6], &target.octets()].concat();
    [ethernet, message].concat()
}

/// The MAC that a frame says `address` has, if it is an answer to `gateway`.
pub fn answer(frame: &[u8], gateway: Ipv4Addr, address: Ipv4Addr) -> Option<MacAddr> {
    let message = frame.get(14..42)?;
    let is_answer = message.get(..6)? == FIXED
        && message.get(6..8)? == REPLY
        && message.get(14..18)? == address.octets()
        && message.get(24..28)? == gateway.octets();
    is_answer.then(|| Some(MacAddr(message.get(8..14)?.try_into().ok()?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_to_the_question_counts() {
        let (gateway, guest) = (Ipv4Addr::new(192, 168, 100, 1), Ipv4Addr::new(192, 168, 100, 8));
        let asked = request(MacAddr::from_lease(gateway), gateway, guest);
        assert_eq!((asked.len(), answer(&asked, gateway, guest)), (42, None), "a question is no answer");
        let mac = MacAddr::from_lease(guest);
        let mut frame = asked.clone();
        frame[20..22].copy_from_slice(&REPLY);
        frame[22..32].copy_from_slice(&[&mac.0[..], &guest.octets()].concat());
        frame[38..42].copy_from_slice(&gateway.octets());
        assert_eq!(answer(&frame, gateway, guest), Some(mac));
        assert_eq!(answer(&frame, gateway, Ipv4Addr::new(192, 168, 100, 9)), None);
        assert_eq!(answer(&frame, guest, guest), None);
        assert!((0..frame.len()).all(|cut| answer(&frame[..cut], gateway, guest).is_none()));
    }
}
