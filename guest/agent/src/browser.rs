//! Showing a page to the person: through the start page that waits for it, else by a command to the browser.
//!
//! Without a display nothing is shown; the host still has the URL.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use airlock_protocol::Sensitive;
use airlock_protocol::guest_config::Display;

use crate::login::tool::Environment;
use crate::start_page::StartPage;

/// How long a browser that still starts is waited for; after that it is told by command.
const BROWSER_WITHIN: Duration = Duration::from_secs(60);

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

    /// Shows `url`, then calls `opened` if somebody shows it.
    pub fn open_in_background(self: &Arc<Self>, url: Sensitive, opened: impl FnOnce() + Send + 'static) {
        let this = self.clone();
        // Without a thread the page is not shown and `opened` is not called: the host sees that it was not.
        let _ = crate::spawn("browser", move || {
            if this.open(&url) {
                opened();
            }
        });
    }

    fn open(&self, url: &Sensitive) -> bool {
        let Some(display) = &self.display else { return false };
        if let Some(page) = &self.page
            && page.send_to(url, if page.was_seen() { Duration::ZERO } else { BROWSER_WITHIN })
        {
            return true;
        }
        self.command(display, url).is_some_and(|mut command| command.status().is_ok_and(|status| status.success()))
    }

    fn command(&self, display: &Display, url: &Sensitive) -> Option<Command> {
        let account = self.environment.account(&display.user).ok()?;
        let command: Vec<String> = display.open_command.iter().cloned().chain([url.expose().to_owned()]).collect();
        Some(self.environment.command(&account, "-", &command, &Default::default()))
    }
}
