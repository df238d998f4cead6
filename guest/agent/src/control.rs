//! The control channel: frames over virtio-serial, one thread.
//!
//! ```text
//! waiting (no host) -- hello --> greeted -- reads as hung up --> unsure -- still so after GRACE --> waiting
//!                                   \___________________________/ hello, or connected after GRACE
//! ```
//!
//! The host speaks first. While no host is connected the port is permanently "hung up", so the thread waits for an *edge*
//! (epoll, EPOLLET): the driver wakes the port's queue when the host connects, and nothing spins in between.
//!
//! The driver learns that a host came or went by another queue than the host's bytes. When a daemon is started again, the new
//! one's hello may be read before the driver knows that it came, or even before it knows that the old one went: the port then
//! reads as hung up *behind* the hello of a host that is there. So a hang-up is believed only when it lasts. Meanwhile what is
//! to be sent is kept; it is sent at once if a hello was the last thing read, for then the hang-up is older than the hello.
//! A hang-up that lasts drops what was unsent; the next `hello` gets everything that matters again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use airlock_protocol::frame::{Decoder, encode};
use airlock_protocol::message::HostMessage;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::outbox::Outbox;

const PORT: u64 = 0;
const WAKE: u64 = 1;
/// How long a hang-up must last to be believed. The driver hears of a host that came within milliseconds.
const GRACE: Duration = Duration::from_secs(1);

/// The open port and what is half read or half written on it.
#[derive(Debug)]
pub struct Control {
    port: File,
    epoll: Epoll,
    outbox: Arc<Outbox>,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// A `hello` was read, and nothing since has said whether the driver knows its host.
    just_greeted: bool,
    hang_up: Option<HangUp>,
    /// A stream's end is the end; that of a port is not.
    ends: bool,
}

/// The port read as hung up.
#[derive(Debug)]
struct HangUp {
    /// When it is believed, if it lasts.
    believed_at: Instant,
    /// Whether it was read right behind a `hello`, so that it is the old host's.
    is_older_than_hello: bool,
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
        Ok(Self {
            port,
            epoll,
            outbox,
            decoder: Decoder::new(),
            unsent: Vec::new(),
            just_greeted: false,
            hang_up: None,
            ends: false,
        })
    }

    /// Takes one connection of a host, open and non-blocking: when the host closes it, [`Control::run`] returns.
    pub fn over_stream(stream: File, outbox: Arc<Outbox>) -> io::Result<Self> {
        Ok(Self { ends: true, ..Self::over(stream, outbox)? })
    }

    /// Serves for ever; returns only when the port itself fails, or a stream ends.
    pub fn run(mut self, mut on_message: impl FnMut(HostMessage)) -> io::Error {
        loop {
            if let Err(error) = self.turn(&mut on_message) {
                return error;
            }
        }
    }

    fn turn(&mut self, on_message: &mut impl FnMut(HostMessage)) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 2];
        let count = match self.epoll.wait(&mut events, self.timeout()) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            count => count?,
        };
        for event in events.iter().take(count) {
            if event.data() == WAKE {
                self.outbox.clear_wake();
            } else {
                let _ = self.receive(on_message)?;
            }
        }
        if self.hang_up.as_ref().is_some_and(|hang_up| hang_up.believed_at <= Instant::now()) {
            self.judge_hang_up(on_message)?;
        }
        if self.hang_up.as_ref().is_none_or(|hang_up| hang_up.is_older_than_hello) { self.send() } else { Ok(()) }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(hang_up) = &self.hang_up else { return EpollTimeout::NONE };
        // Rounded up, so that a remainder below one millisecond does not spin.
        let left = hang_up.believed_at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    /// Reads all there is: an edge comes only once. Returns whether a host is connected, as the driver knows it.
    fn receive(&mut self, on_message: &mut impl FnMut(HostMessage)) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            match self.port.read(&mut chunk) {
                Ok(0) if self.ends => return Err(ErrorKind::UnexpectedEof.into()),
                // The driver's way to say that no host is connected.
                Ok(0) => {
                    self.note_hang_up();
                    return Ok(false);
                }
                Ok(len) => self.decoder.push(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.just_greeted = false;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(message) = self.decoder.next_message() {
                if matches!(message, HostMessage::Hello { .. }) {
                    // What was left from another host's time is not for this one.
                    self.unsent.clear();
                    self.just_greeted = true;
                    self.hang_up = None;
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
                Err(error) if error.kind() == ErrorKind::BrokenPipe && !self.ends => {
                    self.note_hang_up();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn note_hang_up(&mut self) {
        let is_older_than_hello = self.just_greeted;
        self.hang_up.get_or_insert_with(|| HangUp { believed_at: Instant::now() + GRACE, is_older_than_hello });
    }

    /// The time is over: either the host is there after all, or it is gone.
    fn judge_hang_up(&mut self, on_message: &mut impl FnMut(HostMessage)) -> io::Result<()> {
        (self.hang_up, self.just_greeted) = (None, false);
        let is_there = self.receive(on_message)?;
        if !is_there && !self.just_greeted {
            self.hang_up = None;
            self.outbox.host_left();
            self.unsent.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::login::{LoginEvent, Outcome};
    use airlock_protocol::message::GuestMessage;
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
        host.write_all(&encode(&HostMessage::Hello { version: 1, now_ms: 0, vnc_password: None }).unwrap()).unwrap();
        assert_eq!(read_one(&mut host), GuestMessage::Pong { n: 0 });
        // A newer host may say what this agent does not know.
        host.write_all(&encode(&serde_json::json!({"type": "levitate", "how": "ALK1"})).unwrap()).unwrap();
        for n in [7, 8] {
            host.write_all(&encode(&HostMessage::Ping { n }).unwrap()).unwrap();
            assert_eq!(read_one(&mut host), GuestMessage::Pong { n });
        }
    }

    const NOTHING: [u64; 0] = [];

    /// A port over datagrams: an empty one reads as hung up, and none as connected.
    struct Port {
        control: Control,
        host: UnixDatagram,
        hosts: u64,
    }

    impl Port {
        fn new() -> Self {
            let (ours, host) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            host.set_nonblocking(true).unwrap();
            let outbox = Arc::new(Outbox::new().unwrap());
            Self { control: Control::over(File::from(OwnedFd::from(ours)), outbox).unwrap(), host, hosts: 0 }
        }

        fn hello(&self) {
            self.host
                .send(&encode(&HostMessage::Hello { version: 1, now_ms: 0, vnc_password: None }).unwrap())
                .unwrap();
        }

        fn hung_up(&self) {
            self.host.send(&[]).unwrap();
        }

        /// One event (or the end of a wait); every host is greeted with its number.
        fn turn(&mut self) -> &mut Self {
            let (outbox, hosts) = (self.control.outbox.clone(), &mut self.hosts);
            let mut take = |message| {
                assert!(matches!(message, HostMessage::Hello { .. }), "{message:?}");
                *hosts += 1;
                outbox.host_came(|| vec![GuestMessage::Pong { n: *hosts }]);
            };
            self.control.turn(&mut take).unwrap();
            self
        }

        fn push(&self, n: u64) {
            self.control.outbox.push(GuestMessage::Pong { n });
        }

        /// Everything sent since the last question.
        fn said(&self) -> Vec<u64> {
            let (mut decoder, mut chunk) = (Decoder::new(), [0; 512]);
            while let Ok(len) = self.host.recv(&mut chunk) {
                decoder.push(&chunk[..len]);
            }
            let number = |message| if let GuestMessage::Pong { n } = message { n } else { panic!("{message:?}") };
            std::iter::from_fn(|| decoder.next_message()).map(number).collect()
        }
    }

    #[test]
    fn a_hang_up_that_lasts_leaves_nothing_for_the_next_host() {
        let mut port = Port::new();
        port.hello();
        assert_eq!(port.turn().said(), vec![1]);
        port.hung_up();
        port.turn().push(100);
        assert_eq!(port.turn().said(), NOTHING);
        while port.control.hang_up.is_some() {
            // Still hung up whenever the agent looks.
            while port.host.send(&[]).is_ok() {}
            port.turn();
        }
        while port.control.port.read(&mut [0]).is_ok() {}
        port.push(101);
        port.hello();
        assert_eq!(port.turn().said(), vec![2]);
    }

    #[test]
    fn a_host_whose_hello_came_before_the_driver_knew_it_is_answered_at_once() {
        let mut port = Port::new();
        port.hello();
        assert_eq!(port.turn().said(), vec![1]);
        // Half a message, then a new daemon, of whose coming the driver hears last.
        port.host.send(&encode(&HostMessage::Ping { n: 1 }).unwrap()[..9]).unwrap();
        port.hung_up();
        port.turn();
        port.hello();
        port.hung_up();
        assert_eq!(port.turn().said(), vec![2]);
        port.push(7);
        assert_eq!(port.turn().said(), vec![7], "what follows the greeting follows at once as well");
        while port.control.hang_up.is_some() {
            port.turn();
        }
        port.push(8);
        assert_eq!(port.turn().said(), vec![8], "connected when the time was over");
    }

    #[test]
    fn an_old_host_s_hang_up_behind_the_greeting_costs_the_new_host_nothing() {
        let mut port = Port::new();
        port.hello();
        assert_eq!(port.turn().said(), vec![1]);
        port.hung_up();
        port.turn().push(7);
        assert_eq!(port.turn().said(), NOTHING, "it may be for nobody");
        while port.control.hang_up.is_some() {
            port.turn();
        }
        assert_eq!(port.said(), vec![7]);
    }

    #[test]
    fn what_was_kept_for_a_host_that_may_be_there_is_not_for_the_next() {
        let mut port = Port::new();
        port.hello();
        assert_eq!(port.turn().said(), vec![1]);
        port.hung_up();
        port.turn().push(7);
        port.hello();
        port.turn();
        port.push(8);
        assert_eq!(port.turn().said(), vec![2, 8]);
    }

    #[test]
    fn the_rest_of_a_message_for_another_host_is_not_sent() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        let mut control = Control::over(File::from(OwnedFd::from(ours)), outbox.clone()).unwrap();
        let large = LoginEvent::Outcome { outcome: Outcome::CliExited, detail: "x".repeat(900_000) };
        outbox.host_came(|| vec![GuestMessage::Login { login_id: "l".into(), attempt: 1, event: large }]);
        control.turn(&mut |_| {}).unwrap();
        assert!(!control.unsent.is_empty(), "more than a socket holds");

        host.write_all(&encode(&HostMessage::Hello { version: 1, now_ms: 0, vnc_password: None }).unwrap()).unwrap();
        control.turn(&mut |_| outbox.host_came(|| vec![GuestMessage::Pong { n: 2 }])).unwrap();
        crate::spawn("test", move || drop(control.run(|_| {}))).unwrap();
        assert_eq!(read_one(&mut host), GuestMessage::Pong { n: 2 });
    }
}
