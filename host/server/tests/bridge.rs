//! The screen bridge over real TCP: what passes, what is refused, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use airlock_effects::network::Network;
use airlock_protocol::Sensitive;
use airlock_server::Ending;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use sha2::{Digest, Sha256};
use support::machine::{Machine, greeted};
use support::websocket::{BINARY, CONTINUATION, PING, Socket, TEXT, masked};
use support::{World, skipped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(60);

/// A viewer in front of a machine, both past their handshakes.
async fn bridged(world: &World, machine: &Machine, password: &Sensitive) -> (Socket, TcpStream) {
    let (mut socket, screen) = tokio::join!(async { world.daemon.look(machine).await.unwrap() }, async {
        machine.let_in(password).await.unwrap()
    });
    greeted(&mut socket).await.unwrap();
    (socket, screen)
}

/// Bytes that repeat nowhere near: xorshift64*.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let bytes = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

async fn pour(to: &mut TcpStream, seed: u64, mut bytes: usize) -> std::io::Result<()> {
    let (mut noise, mut buffer) = (Noise(seed), vec![0; 64 * 1024]);
    while bytes > 0 {
        let count = bytes.min(buffer.len());
        noise.fill(&mut buffer[..count]);
        to.write_all(&buffer[..count]).await?;
        bytes -= count;
    }
    Ok(())
}

async fn digest_of(socket: &mut Socket, mut bytes: usize) -> Vec<u8> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    while bytes > 0 {
        let most = bytes.min(buffer.len());
        let count = socket.reader.read(&mut buffer[..most]).await.unwrap();
        assert!(count > 0, "{bytes} bytes short, closed with {:?}", socket.reader.close);
        hash.update(&buffer[..count]);
        bytes -= count;
    }
    hash.finalize().to_vec()
}

/// The same bytes from the machine without a bridge.
async fn direct_digest(network: &Network, machine: &Machine, seed: u64, mut bytes: usize) -> Vec<u8> {
    let connect = async { network.tcp_socket().await.unwrap().connect(machine.addr()).await.unwrap() };
    let (mut direct, screen) = tokio::join!(connect, machine.screen.accept());
    let mut screen = screen.unwrap().0;
    let pouring = tokio::spawn(async move { pour(&mut screen, seed, bytes).await });
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    while bytes > 0 {
        let count = direct.read(&mut buffer).await.unwrap();
        hash.update(&buffer[..count]);
        bytes -= count;
    }
    pouring.await.unwrap().unwrap();
    hash.finalize().to_vec()
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_stream_equals_a_direct_one() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (mut socket, mut screen) = bridged(&world, &machine, &password).await;
    let bytes = 96 << 20;
    let pouring = tokio::spawn(async move {
        pour(&mut screen, 7, bytes).await.unwrap();
        screen
    });
    let proxied = digest_of(&mut socket, bytes).await;
    assert_eq!(proxied, direct_digest(world.daemon.engine.network(), &machine, 7, bytes).await);
    // And the other way, in messages of every length around the limits of the framing.
    let mut screen = pouring.await.unwrap();
    let lengths: Vec<usize> = vec![1, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 20];
    let total: usize = lengths.iter().sum();
    let (mut sent, mut noise) = (Vec::new(), Noise(9));
    for length in &lengths {
        let mut message = vec![0; *length];
        noise.fill(&mut message);
        sent.extend(message);
    }
    let expected = Sha256::digest(&sent).to_vec();
    let mut writer = socket.writer;
    let sending = tokio::spawn(async move {
        let mut rest = &sent[..];
        for length in lengths {
            let (message, after) = rest.split_at(length);
            writer.send(message).await.unwrap();
            rest = after;
        }
        writer
    });
    let mut got = vec![0; total];
    tokio::time::timeout(WITHIN, screen.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(Sha256::digest(&got).to_vec(), expected);
    drop(sending.await.unwrap());
    world.close().await;
}

/// A frame of a viewer: how much of what is left it carries, whether the message goes on, and what stands between.
#[derive(Debug, Clone)]
struct Cut {
    length: usize,
    goes_on: bool,
    ping_before: bool,
    empty_before: bool,
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = (0usize..400, any::<bool>(), any::<bool>(), any::<bool>());
    let cut =
        cut.prop_map(|(length, goes_on, ping_before, empty_before)| Cut { length, goes_on, ping_before, empty_before });
    prop::collection::vec(cut, 1..40)
}

/// The bytes as frames, cut like that; TCP cuts them once more.
fn framed(bytes: &[u8], cuts: &[Cut]) -> Vec<u8> {
    let (mut frames, mut rest, mut open) = (Vec::new(), bytes, false);
    for (n, cut) in cuts.iter().enumerate() {
        let last = n + 1 == cuts.len();
        let length = if last { rest.len() } else { cut.length.min(rest.len()) };
        let (part, after) = rest.split_at(length);
        rest = after;
        if cut.ping_before {
            frames.extend(masked(PING, true, b"there?"));
        }
        if cut.empty_before && !open {
            frames.extend(masked(BINARY, true, b""));
        }
        let goes_on = cut.goes_on && !last;
        frames.extend(masked(if open { CONTINUATION } else { BINARY }, !goes_on, part));
        open = goes_on;
    }
    frames
}

/// Any way to cut a viewer's bytes into messages, messages into frames and frames into packets gives the machine the same bytes: its
/// handshake, which the bridge answers, and everything after it.
#[test]
fn however_a_viewer_cuts_its_bytes_they_are_the_same() {
    if skipped().is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::open(|_| {}));
    let (machine, password) = runtime.block_on(world.daemon.start_shown("u"));
    let mut runner = TestRunner::new(Cases { cases: 48, failure_persistence: None, ..Cases::default() });
    let said = (cuts(), prop::collection::vec(any::<u8>(), 0..6000), prop::collection::vec(1usize..900, 1..30));
    runner
        .run(&said, |(cuts, payload, packets)| {
            runtime.block_on(async {
                // A viewer that is sure of itself says all of its handshake at once.
                let bytes = [&b"RFB 003.008\n\x01"[..], &payload].concat();
                let frames = framed(&bytes, &cuts);
                let (socket, screen) = tokio::join!(world.daemon.look(&machine), machine.let_in(&password));
                let (mut socket, mut screen) = (socket.unwrap(), screen.unwrap());
                // RFB lets the server speak first.
                let mut version = [0; 12];
                socket.reader.read_exact(&mut version).await.unwrap();
                let (mut rest, mut sizes) = (&frames[..], packets.iter().cycle());
                while !rest.is_empty() {
                    let (packet, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                    socket.writer.stream.write_all(packet).await.unwrap();
                    rest = after;
                }
                let mut got = vec![0; payload.len()];
                tokio::time::timeout(WITHIN, screen.read_exact(&mut got)).await.unwrap().unwrap();
                prop_assert_eq!(got, payload);
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(world.close());
}

/// How the machine cuts its bytes does not matter either.
#[tokio::test(flavor = "multi_thread")]
async fn however_a_machine_cuts_its_bytes_they_are_the_same() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (mut socket, mut screen) = bridged(&world, &machine, &password).await;
    let mut noise = Noise(3);
    for length in [1usize, 2, 7, 124, 125, 126, 127, 4096, 65_534, 65_535, 65_536, 65_537, 200_000, 1 << 20] {
        let (mut bytes, mut got) = (vec![0; length], vec![0; length]);
        noise.fill(&mut bytes);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            for part in sent.chunks(length.div_ceil(3)) {
                screen.write_all(part).await.unwrap();
            }
            screen
        });
        tokio::time::timeout(WITHIN, socket.reader.read_exact(&mut got)).await.unwrap().unwrap();
        assert!(got == bytes, "{length} bytes differ");
        screen = sending.await.unwrap();
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_the_machine_and_takes_no_memory() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|config| config.viewer.per_session = 50).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let mut pairs = Vec::new();
    for _ in 0..50 {
        pairs.push(bridged(&world, &machine, &password).await);
    }
    let before = resident();
    // Nobody reads. Each machine writes until it is held back.
    let mut held = Vec::new();
    for (socket, screen) in pairs {
        held.push(tokio::spawn(async move {
            let (mut taken, chunk) = (0usize, vec![0xa5; 64 * 1024]);
            while let Ok(written) =
                tokio::time::timeout(Duration::from_millis(1500), screen_write(&screen, &chunk)).await
            {
                taken += written;
            }
            (socket, screen, taken)
        }));
    }
    let mut stalled = Vec::new();
    for task in held {
        stalled.push(task.await.unwrap());
    }
    let (after, most) = (resident(), stalled.iter().map(|(.., taken)| *taken).max().unwrap());
    let each = after.saturating_sub(before) / 50;
    println!(
        "50 stalled viewers: the machine could write {} KiB at most, {} KiB of memory each",
        most >> 10,
        each >> 10
    );
    // What the kernel's buffers of two connections take, and one read of ours.
    assert!(most < 24 << 20, "{most} bytes were taken of a machine that nobody looks at");
    assert!(each < 512 << 10, "{each} bytes each");
    // The first one wakes up: everything is there, in order, and the machine goes on.
    let (mut socket, mut screen, taken) = stalled.swap_remove(0);
    let finishing = tokio::spawn(async move {
        screen.write_all(b"the end").await.unwrap();
        screen
    });
    let mut got = vec![0; taken + 7];
    tokio::time::timeout(WITHIN, socket.reader.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got[..taken].iter().all(|byte| *byte == 0xa5) && &got[taken..] == b"the end");
    drop(finishing.await.unwrap());
    world.close().await;
}

async fn screen_write(screen: &TcpStream, chunk: &[u8]) -> usize {
    loop {
        screen.writable().await.unwrap();
        match screen.try_write(chunk) {
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_read_slows_its_viewer() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (mut socket, mut screen) = bridged(&world, &machine, &password).await;
    let before = resident();
    let (mut taken, message) = (0usize, vec![0x5a; 32 * 1024]);
    while tokio::time::timeout(Duration::from_millis(1500), socket.writer.send(&message))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        taken += message.len();
        assert!(taken < 64 << 20, "nobody holds the viewer back");
    }
    let grown = resident().saturating_sub(before);
    println!("a viewer could send {} KiB to a machine that does not read; {} KiB of memory", taken >> 10, grown >> 10);
    assert!(grown < 4 << 20, "{grown} bytes");
    let mut got = vec![0; taken];
    tokio::time::timeout(WITHIN, screen.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got.iter().all(|byte| *byte == 0x5a));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_4k_screen_passes_through_small_buffers() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (mut socket, mut screen) = bridged(&world, &machine, &password).await;
    // FramebufferUpdate, one raw rectangle of 3840x2160 at 32 bits.
    let head = [0u8, 0, 0, 1, 0, 0, 0, 0, 15, 0, 8, 112, 0, 0, 0, 0];
    let pixels = 3840 * 2160 * 4;
    let before = resident();
    let writing = tokio::spawn(async move {
        screen.write_all(&head).await.unwrap();
        pour(&mut screen, 21, pixels).await.unwrap();
        screen
    });
    let mut got = [0; 16];
    socket.reader.read_exact(&mut got).await.unwrap();
    assert_eq!(got, head);
    let started = Instant::now();
    let proxied = digest_of(&mut socket, pixels).await;
    let (took, grown) = (started.elapsed(), resident().saturating_sub(before));
    let (mut hash, mut noise, mut buffer) = (Sha256::new(), Noise(21), vec![0; 64 * 1024]);
    for at in (0..pixels).step_by(buffer.len()) {
        let count = buffer.len().min(pixels - at);
        noise.fill(&mut buffer[..count]);
        hash.update(&buffer[..count]);
    }
    assert_eq!(proxied, hash.finalize().to_vec());
    println!("a frame of {} MB in {} ms, {} KiB of memory", pixels / 1_000_000, took.as_millis(), grown >> 10);
    assert!(grown < 4 << 20, "{grown} bytes for a frame of {pixels}");
    drop(writing.await.unwrap());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_viewers_of_one_daemon_get_their_own_streams() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|config| config.viewer.per_session = 25).await;
    let (one, one_password) = world.daemon.start_shown("u").await;
    let (other, other_password) = world.daemon.start_shown("v").await;
    let bytes = 2 << 20;
    let mut viewers = Vec::new();
    for n in 0..50u64 {
        let (machine, password) = if n % 2 == 0 { (&one, &one_password) } else { (&other, &other_password) };
        let (mut socket, mut screen) = bridged(&world, machine, password).await;
        viewers.push(tokio::spawn(async move {
            let pouring = tokio::spawn(async move { pour(&mut screen, 1000 + n, bytes).await.map(|()| screen) });
            let got = digest_of(&mut socket, bytes).await;
            (n, got, pouring.await.unwrap().unwrap(), socket)
        }));
    }
    let metrics = viewers_of(&world).await;
    assert_eq!(metrics, "50");
    // One more than the session may have is told so.
    let mut refused = world.daemon.look(&one).await.unwrap();
    assert_eq!(refused.reader.closed().await, Some((4009, "viewer_limit".to_owned())));
    for viewer in viewers {
        let (n, got, ..) = tokio::time::timeout(WITHIN, viewer).await.unwrap().unwrap();
        let mut expected = vec![0; bytes];
        let mut noise = Noise(1000 + n);
        expected.chunks_mut(64 * 1024).for_each(|chunk| noise.fill(chunk));
        assert_eq!(got, Sha256::digest(&expected).to_vec(), "viewer {n}");
    }
    world.close().await;
}

async fn viewers_of(world: &World) -> String {
    let mut stream = TcpStream::connect(world.daemon.addr).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().find_map(|line| line.strip_prefix("airlock_viewers ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_display_and_its_password_are_waited_for() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let mut machine = world.daemon.start("u").await;
    // The viewer comes before the display is up.
    let mut socket = world.daemon.look(&machine).await.unwrap();
    let password = machine.agent_answers(&world.daemon).await;
    machine.display_up().await;
    let mut screen = machine.let_in(&password).await.unwrap();
    greeted(&mut socket).await.unwrap();
    screen.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    socket.reader.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_without_password_is_shown_and_one_with_another_is_named() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (socket, _screen) = tokio::join!(world.daemon.look(&machine), machine.let_anybody_in());
    greeted(&mut socket.unwrap()).await.unwrap();
    let other = Sensitive::new("another8");
    assert_ne!(other, password);
    let (socket, refused) = tokio::join!(world.daemon.look(&machine), machine.let_in(&other));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(socket.unwrap().reader.closed().await, Some((4005, "vnc_auth_mismatch".to_owned())));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_viewer_ends_its_connection_and_not_the_session() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let (socket, mut screen) = bridged(&world, &machine, &password).await;
    // Reset, as by a network that is gone.
    let stream = socket.reader.into_inner().reunite(socket.writer.stream).unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let gone = tokio::time::timeout(WITHIN, screen.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "the machine is told: {gone:?}");
    assert!(!world.daemon.engine.session(machine.session.id).await.unwrap().state.is_terminal());
    // And the person comes back.
    let (mut again, mut screen) = bridged(&world, &machine, &password).await;
    again.writer.send(b"key").await.unwrap();
    let mut got = [0; 3];
    screen.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"key");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_close_code_says_how_it_ended() {
    if skipped().is_some() {
        return;
    }
    let mut world = World::open(|config| config.viewer.idle_s = 1).await;
    let (machine, password) = world.daemon.start_shown("u").await;
    let told = async |socket: &mut Socket| tokio::time::timeout(WITHIN, socket.reader.closed()).await.unwrap();
    let said = |code, reason: &str| Some((code, reason.to_owned()));

    // Nobody touches it for a second.
    let (mut idle, _screen) = bridged(&world, &machine, &password).await;
    assert_eq!(told(&mut idle).await, said(4008, "idle"));

    // The machine closes its screen although the session goes on.
    let (mut dark, screen) = bridged(&world, &machine, &password).await;
    drop(screen);
    assert_eq!(told(&mut dark).await, said(4004, "machine_gone"));

    // What is no RFB.
    for says in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"RFB 003.008\n\x02"] {
        let (socket, _screen) = tokio::join!(world.daemon.look(&machine), machine.let_in(&password));
        let mut socket = socket.unwrap();
        socket.writer.send(says).await.unwrap();
        assert_eq!(told(&mut socket).await, said(1002, "not_rfb"), "{says:?}");
    }
    let (socket, _screen) = tokio::join!(world.daemon.look(&machine), machine.let_in(&password));
    let mut socket = socket.unwrap();
    socket.writer.frame(TEXT, true, b"RFB 003.008\n").await.unwrap();
    assert_eq!(told(&mut socket).await, None, "nothing is said to one who speaks text");

    // The session ends, for one who looks and for one who still waits for a display.
    let cancelled = world.daemon.start("v").await;
    let mut waiting = world.daemon.look(&cancelled).await.unwrap();
    world.daemon.engine.cancel(cancelled.session.id).await.unwrap();
    assert_eq!(told(&mut waiting).await, said(4002, "cancelled"));
    let mut late = world.daemon.look(&cancelled).await.unwrap();
    assert_eq!(told(&mut late).await, said(4002, "cancelled"), "also to who comes when it is over");

    // The daemon ends, and its machines live on.
    let (mut cut, _screen) = bridged(&world, &machine, &password).await;
    let (said_last, ()) = tokio::join!(told(&mut cut), world.daemon.end(Ending::Detach));
    assert_eq!(said_last, said(1012, "daemon_restarts"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_viewer_from_our_own_page_gets_in() {
    if skipped().is_some() {
        return;
    }
    let world = World::open(|_| {}).await;
    let (machine, _) = world.daemon.start_shown("u").await;
    let (other, _) = world.daemon.start_shown("v").await;
    let own = format!("http://{}", world.daemon.addr);
    for (cookie, origin, status) in [
        (&machine.cookie, "http://evil.example", 403),
        (&machine.cookie, "null", 403),
        (&machine.cookie, "http://127.0.0.1:1", 403),
        (&other.cookie, own.as_str(), 401),
        (&"airlock_viewer=guessed".to_owned(), own.as_str(), 401),
        (&"other=1".to_owned(), own.as_str(), 401),
    ] {
        let refused = world.daemon.look_from(&machine, cookie, origin).await.err().unwrap();
        assert_eq!(refused.status, status, "{origin}: {}", refused.body);
        assert!(refused.body.contains("remedy"), "{}", refused.body);
    }
    world.close().await;
}
