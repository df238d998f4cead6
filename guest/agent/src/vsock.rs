//! The control channel over vsock, where the machine has such a device (Firecracker); the port of virtio-serial otherwise.
//!
//! ```text
//! listening, knocked ── host connects ──> served by a thread ── its end, or another host ──> listening
//! ```
//! A daemon that was started again connects again: the newer connection wins, the older one is shut down. A connection that ends
//! is a host that left. The knock tells a host that waits that somebody listens now; one that does not wait costs nothing.

use std::fs::{self, File};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use airlock_protocol::message::HostMessage;
use airlock_protocol::paths::{CONTROL_VSOCK_PORT, EVENT_VSOCK_PORT};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::Control;
use crate::outbox::Outbox;

/// Device number of a socket device (virtio specification 1.2, section 5).
const VIRTIO_ID_VSOCK: &str = "0x0013";
/// Every address of this guest, and the host's (vsock(7)).
const CID_ANY: u32 = u32::MAX;
const CID_HOST: u32 = 2;

/// Whether the machine has a vsock with a host behind it, by the virtio devices in `/sys/bus/virtio/devices`. `/dev/vsock` says
/// nothing: it is there with the module, whatever the machine.
pub fn is_there(devices: &Path) -> bool {
    let Ok(entries) = fs::read_dir(devices) else { return false };
    let id = |path: &Path| fs::read_to_string(path.join("device")).unwrap_or_default();
    entries.flatten().any(|entry| id(&entry.path()).trim() == VIRTIO_ID_VSOCK)
}

/// Listens for the host.
pub fn listen_for_host() -> io::Result<Socket> {
    let listener = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    listener.bind(&SockAddr::vsock(CID_ANY, CONTROL_VSOCK_PORT))?;
    listener.listen(4)?;
    Ok(listener)
}

/// Tells a host that waits. Nobody may be waiting.
pub fn knock() -> io::Result<()> {
    Socket::new(Domain::VSOCK, Type::STREAM, None)?.connect(&SockAddr::vsock(CID_HOST, EVENT_VSOCK_PORT))
}

/// Serves every host that connects, one at a time; returns only when the listener itself fails.
pub fn serve(
    listener: &Socket,
    outbox: &Arc<Outbox>,
    on_message: impl Fn(HostMessage) + Clone + Send + 'static,
) -> io::Error {
    let mut serving: Option<(Socket, JoinHandle<()>)> = None;
    loop {
        let accepted = match listener.accept() {
            Ok((connection, _)) => connection,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                continue;
            }
            Err(error) => return error,
        };
        if let Some((older, thread)) = serving.take() {
            // Fails if it ended by itself.
            let _ = older.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
        match start(accepted, outbox.clone(), on_message.clone()) {
            Ok(started) => serving = Some(started),
            Err(error) => eprintln!("airlock-agent: serve a connection of the host: {error}"),
        }
    }
}

fn start(
    connection: Socket,
    outbox: Arc<Outbox>,
    on_message: impl Fn(HostMessage) + Send + 'static,
) -> io::Result<(Socket, JoinHandle<()>)> {
    connection.set_nonblocking(true)?;
    let kept = connection.try_clone()?;
    let control = Control::over_stream(File::from(OwnedFd::from(connection)), outbox.clone())?;
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        // Its end is the host's, whatever the reason.
        let _ = control.run(on_message);
        outbox.host_left();
    })?;
    Ok((kept, thread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::frame::{Decoder, encode};
    use airlock_protocol::message::GuestMessage;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn only_a_device_says_that_there_is_a_host() {
        let dir = std::env::temp_dir().join(format!("airlock-vsock-{}", std::process::id()));
        assert!(!is_there(&dir));
        for (name, id) in [("virtio0", "0x0002\n"), ("virtio1", "0x0001\n")] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("device"), id).unwrap();
        }
        let before = is_there(&dir);
        fs::write(dir.join("virtio1/device"), "0x0013\n").unwrap();
        let after = is_there(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((before, after), (false, true));
    }

    fn answer(stream: &mut UnixStream) -> Option<GuestMessage> {
        let (mut decoder, mut chunk) = (Decoder::new(), [0; 512]);
        loop {
            if let Some(message) = decoder.next_message() {
                return Some(message);
            }
            match stream.read(&mut chunk).unwrap() {
                0 => return None,
                len => decoder.push(&chunk[..len]),
            }
        }
    }

    #[test]
    fn a_new_host_is_served_while_the_old_one_is_still_connected_and_after_it_went() {
        let path = std::env::temp_dir().join(format!("airlock-vsock-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(4).unwrap();
        let outbox = Arc::new(Outbox::new().unwrap());
        crate::spawn("test", {
            let outbox = outbox.clone();
            move || {
                let answers = outbox.clone();
                let error = serve(&listener, &outbox, move |message| match message {
                    HostMessage::Hello { now_ms, .. } => answers.host_came(|| vec![GuestMessage::Pong { n: now_ms }]),
                    HostMessage::Ping { n } => answers.push(GuestMessage::Pong { n }),
                    _ => {}
                });
                panic!("{error}");
            }
        })
        .unwrap();
        let connect = |n: u64| {
            let mut host = UnixStream::connect(&path).unwrap();
            host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            host.write_all(&encode(&HostMessage::Hello { version: 1, now_ms: n, vnc_password: None }).unwrap())
                .unwrap();
            assert_eq!(answer(&mut host), Some(GuestMessage::Pong { n }));
            host
        };
        let mut first = connect(1);
        let mut second = connect(2);
        assert_eq!(answer(&mut first), None, "the newer one wins");
        second.write_all(&encode(&HostMessage::Ping { n: 7 }).unwrap()).unwrap();
        assert_eq!(answer(&mut second), Some(GuestMessage::Pong { n: 7 }));
        drop(second);
        connect(3);
        fs::remove_file(&path).unwrap();
    }
}
