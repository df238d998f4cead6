//! Showing a page to the person: through the start page that waits for it, else by a command to the browser.
//!
//! A page counts as shown when it is on the screen: the start page is gone and the pixels are others than before. Without a
//! display nothing is shown; the host still has the URL.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use airlock_protocol::Sensitive;
use airlock_protocol::guest_config::Display;

use crate::display::{DisplayError, Watcher};
use crate::login::tool::Environment;
use crate::painted::is_another_page;
use crate::start_page::StartPage;

/// How long a browser that still starts is waited for; after that it is told by command.
const BROWSER_WITHIN: Duration = Duration::from_secs(60);
/// How long a page may take to be on the screen: a whole browser under emulation.
const PAGE_WITHIN: Duration = Duration::from_secs(45);
/// The screen is looked at when it changes, and this often in case a change was missed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The browser of this guest.
#[derive(Debug)]
pub struct Browser {
    page: Option<Arc<StartPage>>,
    display: Option<Display>,
    environment: Environment,
}

impl Browser {
    /// The browser of `display`, waiting on `page`.
    pub fn new(page: Option<Arc<StartPage>>, display: Option<Display>, environment: Environment) -> Self {
        Self { page, display, environment }
    }

    /// Names the tool on the start page.
    pub fn wait_for_tool(&self, command: &str) {
        if let Some(page) = &self.page {
            page.wait_for_tool(command.rsplit('/').next().unwrap_or(command));
        }
    }

    /// Shows `url`, then says whether it is on the screen, or why not.
    pub fn open_in_background(
        self: &Arc<Self>,
        url: Sensitive,
        shown: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let this = self.clone();
        // Without a thread the page is not shown and nobody is told: the host sees that it was not.
        let _ = crate::spawn("browser", move || shown(this.open(&url)));
    }

    fn open(&self, url: &Sensitive) -> Result<(), String> {
        let Some(display) = &self.display else { return Err("this machine has no display".to_owned()) };
        let watcher = Watcher::open(display).map_err(said)?;
        let before = watcher.pixels().map_err(said)?;
        let by_page = self
            .page
            .as_ref()
            .is_some_and(|page| page.send_to(url, if page.was_seen() { Duration::ZERO } else { BROWSER_WITHIN }));
        let told = !by_page
            && self
                .command(display, url)
                .is_some_and(|mut command| command.status().is_ok_and(|status| status.success()));
        if !by_page && !told {
            return Err("the browser does not take the page".to_owned());
        }
        let until = Instant::now() + PAGE_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let now = watcher.pixels().map_err(said)?;
            // What the browser was told shows by a change; only at the end must its word do.
            if is_another_page(&before, &now, told && left.is_zero()) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(format!("the page is not on the screen after {} s", PAGE_WITHIN.as_secs()));
            }
            watcher.await_change(left.min(LOOK_EVERY)).map_err(said)?;
        }
    }

    fn command(&self, display: &Display, url: &Sensitive) -> Option<Command> {
        let account = self.environment.account(&display.user).ok()?;
        let command: Vec<String> = display.open_command.iter().cloned().chain([url.expose().to_owned()]).collect();
        Some(self.environment.command(&account, "-", &command, &Default::default()))
    }
}

/// The chain of an error as one line.
fn said(error: DisplayError) -> String {
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}
