//! An outside for guests to get to: a namespace that lends its uplink, and behind it a machine that answers as a name server.
//!
//! ```text
//! installation (daemon's) ──uplink──> lender ──> far 198.51.100.1, name server (RFC 5737: an address for documentation)
//! ```
//! Whoever drops it ends the name server and removes both namespaces.

use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::run;

/// The machine outside.
pub const FAR: &str = "198.51.100.1";
/// In the flags of a DNS message: it is an answer (RFC 1035, 4.1.1).
const IS_ANSWER: u8 = 0x80;

/// See the head of this file.
#[derive(Debug)]
pub struct Outside {
    /// The namespace that lends its uplink.
    pub lender: String,
    /// The namespace of the machine outside.
    pub far: String,
    server: Option<NameServer>,
}

/// Answers every question with itself, as an answer without records.
#[derive(Debug)]
struct NameServer {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Outside {
    /// Makes it.
    pub fn open() -> Result<Self> {
        let (lender, far) =
            (format!("airlock-lender-{}", std::process::id()), format!("airlock-far-{}", std::process::id()));
        let mut outside = Self { lender, far, server: None };
        let (lender, far) = (&outside.lender, &outside.far);
        run::run(Command::new("bash").env("L", lender).env("F", far).env("FAR", FAR).args(["-euc", MAKE]))?;
        outside.server = Some(NameServer::start(far)?);
        Ok(outside)
    }

    /// Ends the name server.
    pub fn end_name_server(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), NameServer::end)
    }

    /// Runs a command in the namespace that lends its uplink.
    pub fn at_lender(&self, script: &str) -> Result<()> {
        run::run(
            Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.lender)).args(["bash", "-euc", script]),
        )
    }
}

impl NameServer {
    fn start(namespace: &str) -> Result<Self> {
        let (path, ended) = (PathBuf::from("/run/netns").join(namespace), Arc::new(AtomicBool::new(false)));
        let place = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let over = ended.clone();
        // A socket belongs to the namespace that its thread was in.
        let serve = move || {
            let opened = setns(place, CloneFlags::CLONE_NEWNET).map_err(Into::into);
            let opened = opened.and_then(|()| UdpSocket::bind((FAR, 53)));
            let socket = match opened.and_then(|socket| socket.set_read_timeout(Some(LOOK_EVERY)).map(|()| socket)) {
                Ok(socket) => socket,
                Err(error) => return eprintln!("the name server outside: {error}"),
            };
            let mut message = [0; 512];
            while !over.load(Ordering::Relaxed) {
                match socket.recv_from(&mut message) {
                    Ok((length, from)) if length > 2 => {
                        message[2] |= IS_ANSWER;
                        let _ = socket.send_to(&message[..length], from);
                    }
                    Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
                    _ => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("name server".into()).spawn(serve).context("start a thread")?;
        Ok(Self { ended, thread })
    }

    fn end(self) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the name server outside panicked"))
    }
}

/// How soon the name server notices that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const MAKE: &str = "
    ip netns add $L; ip netns add $F
    ip -n $L link set lo up; ip -n $F link set lo up
    ip -n $L link add far0 type veth peer name eth0 netns $F
    ip -n $L addr add 198.51.100.254/24 dev far0; ip -n $L link set far0 up
    ip -n $F addr add $FAR/24 dev eth0; ip -n $F link set eth0 up
    ip -n $F route add default via 198.51.100.254
    nsenter --net=/run/netns/$L sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'";

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.end_name_server();
        for namespace in [&self.lender, &self.far] {
            if let Err(error) = run::run(Command::new("ip").args(["netns", "del", namespace])) {
                eprintln!("left behind: network namespace {namespace}: {error:#}");
            }
        }
    }
}
