//! What the screen bridge costs, measured by `cargo xtask bench viewer`: the real daemon (engine, router, cookie, bridge) in front of a
//! machine that is played, against a plain relay of TCP to TCP in the same process, taking turns.
//!
//! Both ways lead from the same RFB server, inside the namespace, to a client on the host's loopback, and both relays read up to
//! 64 KiB at once. Only the bridge frames what it carries (WebSocket); its client takes the frames apart. It prints every sample as one
//! JSON object.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to tell but whoever runs it")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Instant;

use airlock_protocol::Sensitive;
use serde::Serialize;
use support::World;
use support::machine::{Machine, greeted};
use support::websocket::{BINARY, masked};
use tokio::net::TcpListener;

const USAGE: &str = "usage: viewer_bench ROUNDS MIB_PER_ROUND ROUND_TRIPS";
/// What is read at once, by clients and by the plain relay; the bridge's own number.
const BUFFER: usize = 64 * 1024;
/// As long as a pointer event (RFC 6143 7.5.5).
const EVENT: [u8; 6] = [5, 0, 1, 2, 3, 4];

#[derive(Debug, Serialize)]
struct Samples {
    rounds: Vec<Round>,
    /// Round trips of an event and its echo, in microseconds.
    direct_us: Vec<f64>,
    relay_us: Vec<f64>,
    bridge_us: Vec<f64>,
}

/// Throughput from the machine to the viewer, in MB per second.
#[derive(Debug, Serialize)]
struct Round {
    bridge: f64,
    relay: f64,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [rounds, mib, trips] = numbers[..] else { panic!("{USAGE}") };
    // As the daemon has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let samples = runtime.block_on(measure(rounds, mib << 20, trips));
    println!("{}", serde_json::to_string(&samples).unwrap());
}

async fn measure(rounds: usize, bytes: usize, trips: usize) -> Samples {
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("bench").await;
    let ways =
        Ways { world: &world, machine: &machine, password: &password, relay: plain_relay(&world, &machine).await };
    // The first of each warms up.
    ways.throughput(Way::Relay, bytes).await;
    ways.throughput(Way::Bridge, bytes).await;
    let mut samples =
        Samples { rounds: Vec::new(), direct_us: Vec::new(), relay_us: Vec::new(), bridge_us: Vec::new() };
    for round in 0..rounds {
        let (relay, bridge) = if round % 2 == 0 {
            let relay = ways.throughput(Way::Relay, bytes).await;
            (relay, ways.throughput(Way::Bridge, bytes).await)
        } else {
            let bridge = ways.throughput(Way::Bridge, bytes).await;
            (ways.throughput(Way::Relay, bytes).await, bridge)
        };
        samples.rounds.push(Round { bridge, relay });
        let each = trips.div_ceil(rounds);
        samples.direct_us.extend(ways.round_trips(Way::Direct, each).await);
        samples.bridge_us.extend(ways.round_trips(Way::Bridge, each).await);
        samples.relay_us.extend(ways.round_trips(Way::Relay, each).await);
    }
    world.close().await;
    samples
}

/// A relay of TCP to TCP and nothing else, with the buffers of the bridge.
async fn plain_relay(world: &World, machine: &Machine) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, network, target) =
        (listener.local_addr().unwrap(), world.daemon.engine.network().clone(), machine.addr());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut screen = network.tcp_socket().await.unwrap().connect(target).await.unwrap();
            client.set_nodelay(true).unwrap();
            screen.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut screen, BUFFER, BUFFER).await;
            });
        }
    });
    addr
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// No relay: from the namespace to the namespace.
    Direct,
    Relay,
    Bridge,
}

struct Ways<'a> {
    world: &'a World,
    machine: &'a Machine,
    password: &'a Sensitive,
    relay: SocketAddr,
}

impl Ways<'_> {
    /// A client and the machine's end, connected; what is sent next is the payload.
    async fn open(&self, way: Way) -> (TcpStream, TcpStream) {
        let (client, screen) = match way {
            Way::Bridge => {
                let look = async { self.world.daemon.look(self.machine).await.unwrap() };
                let (mut socket, screen) = tokio::join!(look, self.machine.let_in(self.password));
                greeted(&mut socket).await.unwrap();
                (socket.reader.into_inner().reunite(socket.writer.stream).unwrap(), screen.unwrap())
            }
            Way::Relay | Way::Direct => {
                let connect = async {
                    if way == Way::Relay {
                        return tokio::net::TcpStream::connect(self.relay).await.unwrap();
                    }
                    self.world
                        .daemon
                        .engine
                        .network()
                        .tcp_socket()
                        .await
                        .unwrap()
                        .connect(self.machine.addr())
                        .await
                        .unwrap()
                };
                let (client, screen) = tokio::join!(connect, self.machine.screen.accept());
                (client, screen.unwrap().0)
            }
        };
        (blocking(client), blocking(screen))
    }

    async fn throughput(&self, way: Way, bytes: usize) -> f64 {
        let (client, mut screen) = self.open(way).await;
        let started = Instant::now();
        let source = std::thread::spawn(move || -> io::Result<()> {
            let chunk = vec![0xa5; 4 * BUFFER];
            let mut left = bytes;
            while left > 0 {
                let count = left.min(chunk.len());
                screen.write_all(&chunk[..count])?;
                left -= count;
            }
            // Held until the client has everything.
            let _ = screen.read(&mut [0]);
            Ok(())
        });
        let sink = std::thread::spawn(move || receive(client, way == Way::Bridge, bytes));
        let ended = joined(sink).await.unwrap();
        joined(source).await.unwrap();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let megabytes = bytes as f64 / 1e6;
        megabytes / ended.duration_since(started).as_secs_f64()
    }

    async fn round_trips(&self, way: Way, count: usize) -> Vec<f64> {
        let (mut client, mut screen) = self.open(way).await;
        let echo = std::thread::spawn(move || -> io::Result<()> {
            let mut event = EVENT;
            while screen.read_exact(&mut event).is_ok() {
                screen.write_all(&event)?;
            }
            Ok(())
        });
        let asking = std::thread::spawn(move || -> io::Result<Vec<f64>> {
            let question = if way == Way::Bridge { masked(BINARY, true, &EVENT) } else { EVENT.to_vec() };
            // A frame of so few bytes has a head of two.
            let mut answer = vec![0; if way == Way::Bridge { EVENT.len() + 2 } else { EVENT.len() }];
            let mut took = Vec::with_capacity(count);
            for _ in 0..count {
                let asked = Instant::now();
                client.write_all(&question)?;
                client.read_exact(&mut answer)?;
                took.push(asked.elapsed().as_secs_f64() * 1e6);
                assert!(answer.ends_with(&EVENT));
            }
            Ok(took)
        });
        let took = joined(asking).await.unwrap();
        joined(echo).await.unwrap();
        took
    }
}

fn blocking(stream: tokio::net::TcpStream) -> TcpStream {
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
}

/// Takes so many bytes of payload, out of frames if they are framed; when the last one was there.
fn receive(mut client: TcpStream, framed: bool, bytes: usize) -> io::Result<Instant> {
    let (mut buffer, mut left) = (vec![0; 4 * BUFFER], bytes);
    let mut frames = Frames::default();
    while left > 0 {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= if framed { frames.payload_in(&buffer[..count]) } else { count };
    }
    Ok(Instant::now())
}

/// Where in a stream of unmasked frames the reader stands.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    left: usize,
}

impl Frames {
    /// How much of the next bytes of the stream is payload.
    fn payload_in(&mut self, mut bytes: &[u8]) -> usize {
        let mut payload = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                let extended = match self.head.get(1) {
                    Some(127) => 8,
                    Some(126) => 2,
                    Some(_) => 0,
                    None => continue,
                };
                if self.head.len() == 2 + extended {
                    let length = self.head[2..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                    self.left = if extended == 0 { usize::from(self.head[1]) } else { length };
                    self.head.clear();
                }
                continue;
            }
            let part = self.left.min(bytes.len());
            (payload, self.left, bytes) = (payload + part, self.left - part, &bytes[part..]);
        }
        payload
    }
}
