//! The display watcher against a real X server: windows of a client of this test, in a frame as window managers make one.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use airlock_agent::outbox::Outbox;
use airlock_agent::painted::BACKGROUND;
use airlock_agent::screen_due::Seen;
use airlock_agent::timeline::Timeline;
use airlock_agent::{display, socket_wait};
use airlock_protocol::Stage;
use airlock_protocol::guest_config::Display;
use airlock_protocol::message::GuestMessage;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConnectionExt as _, CreateWindowAux, PropMode, WindowClass};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(rfb_socket());
    }
}

/// Where the server listens for viewers; nobody comes.
fn rfb_socket() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("airlock-rfb-{}", std::process::id()))
}

/// `None` if this machine has no X server for tests.
fn server(number: u8) -> Option<Server> {
    let mut command = Command::new("Xvnc");
    command.arg(format!(":{number}")).args(["-geometry", "640x480", "-depth", "24", "-SecurityTypes", "None"]);
    command.args(["-rfbport", "0", "-rfbunixpath"]).arg(rfb_socket());
    command.args(["-nolisten", "tcp", "-noreset"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok().map(Server)
}

fn window(x: &RustConnection, parent: u32, size: (u16, u16), colour: [u8; 3]) -> u32 {
    let id = x.generate_id().unwrap();
    let pixel = u32::from_be_bytes([0, colour[0], colour[1], colour[2]]);
    let aux = CreateWindowAux::new().background_pixel(pixel).override_redirect(1);
    x.create_window(
        x11rb::COPY_DEPTH_FROM_PARENT,
        id,
        parent,
        0,
        0,
        size.0,
        size.1,
        0,
        WindowClass::INPUT_OUTPUT,
        0,
        &aux,
    )
    .unwrap();
    id
}

fn set_class(x: &RustConnection, window: u32, class: &[u8]) {
    let atoms = x11rb::protocol::xproto::AtomEnum::WM_CLASS;
    x.change_property8(PropMode::REPLACE, window, atoms, x11rb::protocol::xproto::AtomEnum::STRING, class).unwrap();
}

/// Stages that were reported, waiting until `stage` is among them or `within` is over.
fn stages_until(outbox: &Outbox, seen: &mut Vec<Stage>, stage: Stage, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        outbox.clear_wake();
        while let Some(message) = outbox.pop() {
            let GuestMessage::Stage(report) = message else { panic!("{message:?}") };
            assert!(report.ok, "{report:?}");
            seen.push(report.stage);
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if seen.contains(&stage) || left == 0 {
            return;
        }
        poll(&mut [PollFd::new(outbox.wake_fd(), PollFlags::POLLIN)], PollTimeout::try_from(left).unwrap()).unwrap();
    }
}

#[test]
fn stages_follow_what_is_on_the_screen() {
    let number = 60 + u8::try_from(std::process::id() % 100).unwrap();
    let Some(_server) = server(number) else {
        println!("SKIPPED: this machine has no Xvnc (package tigervnc-standalone-server)");
        return;
    };
    let outbox = Arc::new(Outbox::new().unwrap());
    outbox.host_came(Vec::new);
    let timeline = Arc::new(Timeline::open("/nonexistent".as_ref(), "/nonexistent".as_ref(), outbox.clone()));
    let config = Display { number, browser_class: "Browser".into(), user: "root".into(), open_command: vec![] };
    std::thread::spawn(move || display::watch(&config, &timeline, &Seen::default()));
    let mut seen = Vec::new();
    let (soon, shortly) = (Duration::from_secs(20), Duration::from_millis(300));

    drop(socket_wait::connect(format!("/tmp/.X11-unix/X{number}").as_ref()).unwrap());
    let (x, screen) = x11rb::connect(Some(&format!(":{number}"))).unwrap();
    let root = x.setup().roots[screen].root;
    stages_until(&outbox, &mut seen, Stage::DisplayUp, soon);

    // A window of another program, even one of the right colour, is not the browser.
    let other = window(&x, root, (640, 480), BACKGROUND);
    set_class(&x, other, b"xmessage\0Xmessage\0");
    x.map_window(other).unwrap();
    x.flush().unwrap();
    stages_until(&outbox, &mut seen, Stage::BrowserUp, shortly);
    assert_eq!(seen, [Stage::DisplayUp]);

    // The browser's window in a frame, mapped before the frame is: up, but black.
    let frame = window(&x, root, (640, 480), [0, 0, 0]);
    let browser = window(&x, frame, (640, 480), [0, 0, 0]);
    set_class(&x, browser, b"Navigator\0Browser\0");
    x.map_window(browser).unwrap();
    x.map_window(frame).unwrap();
    x.flush().unwrap();
    stages_until(&outbox, &mut seen, Stage::BrowserUp, soon);
    stages_until(&outbox, &mut seen, Stage::PagePainted, shortly);
    assert_eq!(seen, [Stage::DisplayUp, Stage::BrowserUp]);

    // A third of the screen in the page's colour.
    let page = window(&x, browser, (640, 160), BACKGROUND);
    x.map_window(page).unwrap();
    x.flush().unwrap();
    stages_until(&outbox, &mut seen, Stage::PagePainted, soon);
    assert_eq!(seen, [Stage::DisplayUp, Stage::BrowserUp, Stage::PagePainted]);
}
