//! Watches the X display: `display_up`, `browser_up`, `page_painted`, each from the X server's own events.
//!
//! The page counts as painted by its pixels, never because a process or a window exists. A display that goes away after it
//! was seen is waited for again; stages that were reached stay reached.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use airlock_protocol::Stage;
use airlock_protocol::guest_config::Display;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use x11rb::connection::Connection;
use x11rb::errors::{ConnectError, ReplyError};
use x11rb::protocol::Event;
use x11rb::protocol::damage::{ConnectionExt as _, ReportLevel};
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, EventMask, ImageFormat, ImageOrder, MapState, Window,
};
use x11rb::rust_connection::RustConnection;

use crate::facts::processes::LOGS;
use crate::painted::{Sample, rgb};
use crate::screen_due::{Seen, last_words};
use crate::socket_wait;
use crate::timeline::Timeline;

/// Rows of the screen that are sampled, and the distance of the pixels that are looked at in one.
const SAMPLED_ROWS: u16 = 24;
const PIXEL_STEP: usize = 8;
/// Window managers put windows into frames, these sometimes into another one.
const FRAME_DEPTH: u8 = 3;

/// Pause after a server that went away while it was greeted.
const AGAIN: Duration = Duration::from_millis(100);

/// Why watching ended.
#[derive(Debug, thiserror::Error)]
pub enum DisplayError {
    /// The socket cannot be waited for.
    #[error("wait for the X socket")]
    Socket(#[from] io::Error),
    /// The server refused us.
    #[error("connect to the X display")]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("talk to the X display")]
    Connection(#[from] x11rb::errors::ConnectionError),
    /// A request was refused.
    #[error("ask the X display")]
    Reply(#[from] ReplyError),
    /// No identifier left.
    #[error("take an X identifier")]
    Id(#[from] x11rb::errors::ReplyOrIdError),
}

/// Watches for ever, and notes in `seen` how much of the screen is the page.
pub fn watch(display: &Display, timeline: &Arc<Timeline>, seen: &Seen) {
    // A display that comes and goes at once (a crash loop of the server) is not hammered: each turn waits for its socket.
    loop {
        match watch_once(display, timeline, seen) {
            // It died under our hands, maybe while it started. Init starts it again, and says so when it does not stay.
            Err(DisplayError::Connect(ConnectError::IoError(_))) => std::thread::sleep(AGAIN),
            Err(error @ (DisplayError::Connect(_) | DisplayError::Socket(_))) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                let words = last_words(Path::new(LOGS));
                timeline.failed(Stage::DisplayUp, None, &format!("{error}: {source}{words}"));
                return;
            }
            _ => {}
        }
    }
}

fn watch_once(display: &Display, timeline: &Timeline, seen: &Seen) -> Result<(), DisplayError> {
    let socket = PathBuf::from(format!("/tmp/.X11-unix/X{}", display.number));
    drop(socket_wait::connect(&socket)?);
    let (connection, screen) = x11rb::connect(Some(&format!(":{}", display.number)))?;
    timeline.reached(Stage::DisplayUp, &[("display", format!(":{}", display.number).into())]);
    let mut watcher =
        Watcher { connection, screen, class: display.browser_class.clone(), browser_up: false, seen: seen.clone() };
    watcher.subscribe()?;
    watcher.look(timeline)?;
    while !watcher.look_after_event(timeline)? {}
    // Everything was seen; now only the end of the display matters.
    loop {
        watcher.connection.wait_for_event()?;
    }
}

pub(crate) struct Watcher {
    connection: RustConnection,
    screen: usize,
    class: String,
    browser_up: bool,
    seen: Seen,
}

impl Watcher {
    /// Watches the pixels of a display that is up.
    pub(crate) fn open(display: &Display) -> Result<Self, DisplayError> {
        let (connection, screen) = x11rb::connect(Some(&format!(":{}", display.number)))?;
        let watcher =
            Self { connection, screen, class: display.browser_class.clone(), browser_up: true, seen: Seen::default() };
        watcher.subscribe()?;
        Ok(watcher)
    }

    /// Waits until something on the screen changed, at most so long.
    pub(crate) fn await_change(&self, within: Duration) -> Result<(), DisplayError> {
        if !self.take_events()? {
            let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.connection.stream().as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            self.take_events()?;
        }
        Ok(())
    }

    /// Takes the events that are there; whether there were any.
    fn take_events(&self) -> Result<bool, DisplayError> {
        let mut any = false;
        while let Some(event) = self.connection.poll_for_event()? {
            any = true;
            self.take_damage(&event)?;
        }
        Ok(any)
    }

    fn take_damage(&self, event: &Event) -> Result<(), DisplayError> {
        if let Event::DamageNotify(event) = event {
            self.connection.damage_subtract(event.damage, x11rb::NONE, x11rb::NONE)?;
        }
        Ok(())
    }

    fn root(&self) -> Window {
        self.connection.setup().roots[self.screen].root
    }

    /// Events of the windows on the screen, and of every change of its pixels.
    fn subscribe(&self) -> Result<(), DisplayError> {
        let events = ChangeWindowAttributesAux::new().event_mask(EventMask::SUBSTRUCTURE_NOTIFY);
        self.connection.change_window_attributes(self.root(), &events)?.check()?;
        self.connection.damage_query_version(1, 1)?.reply()?;
        let damage = self.connection.generate_id()?;
        self.connection.damage_create(damage, self.root(), ReportLevel::NON_EMPTY)?.check()?;
        Ok(())
    }

    /// Waits for an event, takes those behind it too, and looks. `true` when the page is painted.
    fn look_after_event(&mut self, timeline: &Timeline) -> Result<bool, DisplayError> {
        let event = self.connection.wait_for_event()?;
        self.take_damage(&event)?;
        self.take_events()?;
        self.look(timeline)
    }

    fn look(&mut self, timeline: &Timeline) -> Result<bool, DisplayError> {
        if !self.browser_up && self.has_browser(self.root(), FRAME_DEPTH)? {
            self.browser_up = true;
            timeline.reached(Stage::BrowserUp, &[("class", self.class.as_str().into())]);
        }
        if !self.browser_up {
            return Ok(false);
        }
        let sample = self.sample()?;
        self.seen.note(sample.percent());
        if sample.is_painted() {
            timeline.reached(Stage::PagePainted, &[("percent", sample.percent().into())]);
        }
        Ok(sample.is_painted())
    }

    /// Whether a mapped window below `window` is the browser's. A window that vanishes meanwhile is none.
    fn has_browser(&self, window: Window, depth: u8) -> Result<bool, DisplayError> {
        let Some(tree) = optional(self.connection.query_tree(window)?.reply())? else { return Ok(false) };
        for child in tree.children {
            if self.is_browser(child)? || depth > 1 && self.has_browser(child, depth - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_browser(&self, window: Window) -> Result<bool, DisplayError> {
        let class = self.connection.get_property(false, window, AtomEnum::WM_CLASS, AtomEnum::STRING, 0, 64)?;
        let Some(class) = optional(class.reply())? else { return Ok(false) };
        // WM_CLASS is two strings, each with a zero behind it: instance and class (ICCCM 4.1.2.5).
        if class.value.split(|byte| *byte == 0).nth(1) != Some(self.class.as_bytes()) {
            return Ok(false);
        }
        let attributes = optional(self.connection.get_window_attributes(window)?.reply())?;
        Ok(attributes.is_some_and(|attributes| attributes.map_state == MapState::VIEWABLE))
    }

    fn sample(&self) -> Result<Sample, DisplayError> {
        let mut sample = Sample::default();
        self.pixels()?.into_iter().for_each(|pixel| sample.add(pixel));
        Ok(sample)
    }

    /// Pixels of evenly spread rows of the screen.
    pub(crate) fn pixels(&self) -> Result<Vec<[u8; 3]>, DisplayError> {
        let setup = self.connection.setup();
        let screen = &setup.roots[self.screen];
        let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
        let visuals = screen.allowed_depths.iter().flat_map(|depth| &depth.visuals);
        let masks = visuals
            .clone()
            .find(|visual| visual.visual_id == screen.root_visual)
            .map_or([0xff_0000, 0xff00, 0xff], |visual| [visual.red_mask, visual.green_mask, visual.blue_mask]);
        let little = setup.image_byte_order == ImageOrder::LSB_FIRST;
        let rows = (0..SAMPLED_ROWS)
            .map(|row| i16::try_from((u32::from(row) * 2 + 1) * u32::from(height) / (u32::from(SAMPLED_ROWS) * 2)));
        // All requests first, then the answers: one round trip for all rows.
        let mut cookies = Vec::new();
        for row in rows.flatten() {
            cookies.push(self.connection.get_image(ImageFormat::Z_PIXMAP, screen.root, 0, row, width, 1, !0)?);
        }
        let mut pixels = Vec::new();
        for cookie in cookies {
            let Some(image) = optional(cookie.reply())? else { continue };
            for pixel in image.data.chunks_exact(4).step_by(PIXEL_STEP) {
                let bytes = [pixel[0], pixel[1], pixel[2], pixel[3]];
                let value = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
                pixels.push(rgb(value, masks));
            }
        }
        Ok(pixels)
    }
}

/// An answer that the server refused (the window is gone) is `None`; a broken connection is an error.
fn optional<T>(reply: Result<T, ReplyError>) -> Result<Option<T>, DisplayError> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(ReplyError::X11Error(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
