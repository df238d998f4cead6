//! The control channel: frames over virtio-serial, one thread.
//!
//! ```text
//! waiting (no host) -- hello --> greeted -- host hangs up --> waiting
//! ```
//!
//! The host speaks first. While no host is connected the port is permanently "hung up", so the thread waits for an *edge*
//! (epoll, EPOLLET): the driver wakes the port's queue when the host connects, and nothing spins in between.
//! A write error or a hang-up drops what was unsent; the next `hello` gets everything that matters again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::HostMessage;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::outbox::Outbox;

const PORT: u64 = 0;
const WAKE: u64 = 1;

/// The open port and what is half read or half written on it.
#[derive(Debug)]
pub struct Control {
    port: File,
    epoll: Epoll,
    outbox: Arc<Outbox>,
    decoder: Decoder,
    unsent: Vec<u8>,
}

impl Control {
    /// Opens the port.
    pub fn open(node: &Path, outbox: Arc<Outbox>) -> io::Result<Self> {
        let port =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(node)?;
        Self::over(port, outbox)
    }

    /// Takes a port that is open and non-blocking.
    pub fn over(port: File, outbox: Arc<Outbox>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(port.as_fd(), EpollEvent::new(edges, PORT))?;
        epoll.add(outbox.wake_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self { port, epoll, outbox, decoder: Decoder::new(), unsent: Vec::new() })
    }

    /// Serves for ever; returns only when the port itself fails.
    pub fn run(mut self, mut on_message: impl FnMut(HostMessage)) -> io::Error {
        loop {
            if let Err(error) = self.turn(&mut on_message) {
                return error;
            }
        }
    }

    fn turn(&mut self, on_message: &mut impl FnMut(HostMessage)) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 2];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            count => count?,
        };
        for event in events.iter().take(count) {
            if event.data() == WAKE {
                self.outbox.clear_wake();
            } else {
                self.receive(on_message)?;
            }
        }
        self.send()
    }

    /// Reads all there is: an edge comes only once.
    fn receive(&mut self, on_message: &mut impl FnMut(HostMessage)) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            match self.port.read(&mut chunk) {
                // The driver's way to say that no host is connected.
                Ok(0) => {
                    self.hang_up();
                    return Ok(());
                }
                Ok(len) => self.decoder.push(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(message) = self.decoder.next_message() {
                if matches!(message, HostMessage::Hello { .. }) {
                    // What was left from another host's time is not for this one.
                    self.unsent.clear();
                }
                on_message(message);
            }
        }
    }

    /// Writes as much as the port takes; the rest follows the next edge.
    fn send(&mut self) -> io::Result<()> {
        loop {
            if self.unsent.is_empty() {
                let Some(message) = self.outbox.pop() else { return Ok(()) };
                // A message that cannot be framed (too large) would never arrive: it is dropped, the login's deadline says so.
                self.unsent = encode(&message).unwrap_or_default();
                continue;
            }
            match self.port.write(&self.unsent) {
                Ok(0) => return Ok(()),
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    self.hang_up();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn hang_up(&mut self) {
        self.outbox.host_left();
        self.unsent.clear();
        self.decoder = Decoder::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::message::{GuestMessage, LoginEvent};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn read_one(stream: &mut UnixStream) -> GuestMessage {
        let mut decoder = Decoder::new();
        let mut chunk = [0; 512];
        loop {
            if let Some(message) = decoder.next_message() {
                return message;
            }
            let len = stream.read(&mut chunk).unwrap();
            decoder.push(&chunk[..len]);
        }
    }

    #[test]
    fn answers_after_noise_and_sends_nothing_before_a_host_came() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        let control = Control::over(File::from(OwnedFd::from(ours)), outbox.clone()).unwrap();
        outbox.push(GuestMessage::Pong { n: 1 });
        crate::spawn("test", move || {
            let outbox = control.outbox.clone();
            control.run(move |message| match message {
                HostMessage::Hello { .. } => outbox.host_came(|| vec![GuestMessage::Pong { n: 0 }]),
                HostMessage::Ping { n } => outbox.push(GuestMessage::Pong { n }),
                _ => {}
            });
        })
        .unwrap();
        host.write_all(b"ALK1\xff noise of a cut frame").unwrap();
        host.write_all(&encode(&HostMessage::Hello { version: 1, now_ms: 0 }).unwrap()).unwrap();
        assert_eq!(read_one(&mut host), GuestMessage::Pong { n: 0 });
        // A newer host may say what this agent does not know.
        host.write_all(&encode(&serde_json::json!({"type": "levitate", "how": "ALK1"})).unwrap()).unwrap();
        for n in [7, 8] {
            host.write_all(&encode(&HostMessage::Ping { n }).unwrap()).unwrap();
            assert_eq!(read_one(&mut host), GuestMessage::Pong { n });
        }
    }

    /// A port over datagrams: an empty one reads as the driver's "no host", and another host may come behind it.
    fn over_datagrams() -> (Control, UnixDatagram) {
        let (ours, host) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        (Control::over(File::from(OwnedFd::from(ours)), outbox).unwrap(), host)
    }

    #[test]
    fn a_host_that_hung_up_leaves_nothing_for_the_next() {
        let (mut control, host) = over_datagrams();
        let outbox = control.outbox.clone();
        let mut hosts = 0;
        let mut turn = |control: &mut Control| {
            let take = |message| {
                assert!(matches!(message, HostMessage::Hello { .. }), "{message:?}");
                hosts += 1;
                outbox.host_came(|| vec![GuestMessage::Pong { n: hosts }]);
            };
            control.turn(&mut { take }).unwrap();
        };
        let said = || {
            let mut decoder = Decoder::new();
            let mut chunk = [0; 512];
            while let Ok(len) = host.recv(&mut chunk) {
                decoder.push(&chunk[..len]);
            }
            std::iter::from_fn(move || decoder.next_message()).collect::<Vec<GuestMessage>>()
        };
        let hello = encode(&HostMessage::Hello { version: 1, now_ms: 0 }).unwrap();

        host.send(&hello).unwrap();
        turn(&mut control);
        assert_eq!(said(), vec![GuestMessage::Pong { n: 1 }]);
        // Half a greeting, then the host is gone; what is said meanwhile is for nobody.
        host.send(&hello[..hello.len() / 2]).unwrap();
        turn(&mut control);
        host.send(&[]).unwrap();
        turn(&mut control);
        control.outbox.push(GuestMessage::Pong { n: 100 });
        host.send(&hello).unwrap();
        turn(&mut control);
        assert_eq!(said(), vec![GuestMessage::Pong { n: 2 }]);
        assert_eq!(control.decoder.skipped(), 0, "the half greeting went with its host");
    }

    #[test]
    fn the_rest_of_a_message_for_another_host_is_not_sent() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        let mut control = Control::over(File::from(OwnedFd::from(ours)), outbox.clone()).unwrap();
        let large = LoginEvent::Failed { cause: String::new(), detail: "x".repeat(900_000) };
        outbox.host_came(|| vec![GuestMessage::Login { login_id: "l".into(), event: large }]);
        control.turn(&mut |_| {}).unwrap();
        assert!(!control.unsent.is_empty(), "more than a socket holds");

        host.write_all(&encode(&HostMessage::Hello { version: 1, now_ms: 0 }).unwrap()).unwrap();
        control.turn(&mut |_| outbox.host_came(|| vec![GuestMessage::Pong { n: 2 }])).unwrap();
        crate::spawn("test", move || drop(control.run(|_| {}))).unwrap();
        assert_eq!(read_one(&mut host), GuestMessage::Pong { n: 2 });
    }
}
