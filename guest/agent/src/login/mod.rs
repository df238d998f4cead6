//! A login: a provider's tool on a terminal of its own, until its credential is captured.
//!
//! * [`machine`]: what follows what (pure)
//! * [`run`]: the thread that feeds it; [`tool`]: the child; [`terminal`]: its screen; [`url`]: the URL on it; [`words`]: what it
//!   asks and says; [`listening`]: its callback port
//! * [`place`]: the files it needs; [`credentials`]: the files it writes, [`document`]: what stands in them; [`memory`]: where both
//!   are kept
//!
//! One login at a time; the next attempt of one begins when the tool of the one before is gone. What happened is kept until the host stored the credential, so that a daemon that comes back is
//! told everything again.

pub mod credentials;
pub mod document;
pub mod listening;
pub mod machine;
pub mod memory;
pub mod place;
pub mod run;
pub mod terminal;
pub mod tool;
pub mod url;
pub mod words;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use airlock_protocol::Sensitive;
use airlock_protocol::login::{LoginEvent, LoginSpec, Outcome};
use airlock_protocol::message::GuestMessage;

use crate::browser::Browser;
use crate::lock;
use crate::outbox::Outbox;
use machine::Input;
use run::Surroundings;
use tool::Environment;

/// The current login, and what one needs.
#[derive(Debug)]
pub struct Logins {
    current: Mutex<Option<Arc<Login>>>,
    /// Closed when the newest attempt's tool is gone.
    before: Mutex<Option<Receiver<()>>>,
    environment: Environment,
    browser: Arc<Browser>,
    outbox: Arc<Outbox>,
}

/// One login and what happened to it.
#[derive(Debug)]
pub struct Login {
    id: String,
    attempt: u32,
    inputs: Sender<Input>,
    events: Mutex<Vec<LoginEvent>>,
    outbox: Arc<Outbox>,
}

impl Login {
    /// Remembers an event and tells the host.
    pub fn emit(&self, event: LoginEvent) {
        self.outbox.publish(|| {
            lock(&self.events).push(event.clone());
            Some(GuestMessage::Login { login_id: self.id.clone(), attempt: self.attempt, event })
        });
    }
}

impl Login {
    /// Everything that happened, as the host is told.
    fn replay(&self) -> Vec<GuestMessage> {
        let events = lock(&self.events).clone();
        events
            .into_iter()
            .map(|event| GuestMessage::Login { login_id: self.id.clone(), attempt: self.attempt, event })
            .collect()
    }
}

impl Logins {
    /// No login yet.
    pub fn new(environment: Environment, browser: Arc<Browser>, outbox: Arc<Outbox>) -> Self {
        Self { current: Mutex::default(), before: Mutex::default(), environment, browser, outbox }
    }

    /// Starts a login. One that already runs under this id and attempt is left alone; another one is cancelled.
    pub fn start(&self, spec: LoginSpec) {
        let mut current = lock(&self.current);
        if current.as_ref().is_some_and(|login| login.id == spec.login_id && login.attempt >= spec.attempt) {
            return;
        }
        if let Some(other) = current.take() {
            let _ = other.inputs.send(Input::Cancel);
        }
        let (inputs, feed) = channel();
        // Dropped with the thread, however it ends.
        let (running, over) = channel::<()>();
        let before = lock(&self.before).replace(over);
        let (id, attempt) = (spec.login_id.clone(), spec.attempt);
        let (events, outbox) = (Mutex::default(), self.outbox.clone());
        let login = Arc::new(Login { id, attempt, inputs: inputs.clone(), events, outbox });
        *current = Some(login.clone());
        // Not held while something is emitted: a greeting takes the locks in the other order.
        drop(current);
        let (environment, browser) = (self.environment.clone(), self.browser.clone());
        let around = Surroundings { environment, browser, login: login.clone(), before };
        let started = crate::spawn("login", move || {
            run::run(spec, around, inputs, feed);
            drop(running);
        });
        if let Err(error) = started {
            let detail = format!("start a thread: {error}");
            login.emit(LoginEvent::Outcome { outcome: Outcome::CliExited, detail });
        }
    }

    /// A URL came through the shim: the current login's, else just a page to show.
    pub fn url_from_shim(&self, url: Sensitive) {
        let login = lock(&self.current).clone();
        if login.is_none_or(|login| login.inputs.send(Input::Shim(url.clone())).is_err()) {
            self.browser.open_in_background(url, |_| {});
        }
    }

    /// Types a code at the tool's prompt.
    pub fn enter_code(&self, code: Sensitive) {
        self.tell(Input::Code(code));
    }

    /// Ends the tool and forgets the login.
    pub fn cancel(&self) {
        self.tell(Input::Cancel);
        lock(&self.current).take();
    }

    /// The host has the credential: it is not sent again.
    pub fn credential_stored(&self, login_id: &str) {
        if let Some(login) = lock(&self.current).as_ref().filter(|login| login.id == login_id) {
            lock(&login.events).retain(|event| !matches!(event, LoginEvent::Captured { .. }));
        }
    }

    /// Everything that happened to the current login, for a host that came back.
    pub fn replay(&self) -> Vec<GuestMessage> {
        lock(&self.current).clone().map_or_else(Vec::new, |login| login.replay())
    }

    fn tell(&self, input: Input) {
        if let Some(login) = lock(&self.current).as_ref() {
            let _ = login.inputs.send(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn what_happens_while_a_host_greets_is_told_once() {
        let outbox = Arc::new(Outbox::new().unwrap());
        let (inputs, _feed) = channel();
        let login =
            Arc::new(Login { id: "l".into(), attempt: 1, inputs, events: Mutex::default(), outbox: outbox.clone() });
        let mut emitting = None;
        outbox.host_came(|| {
            let (begun, begins) = channel();
            let (login_there, begin) = (login.clone(), move || begun.send(()).unwrap());
            emitting = Some(std::thread::spawn(move || {
                begin();
                login_there.emit(LoginEvent::PageOpened);
            }));
            begins.recv().unwrap();
            // Time for an emit that does not wait for the greeting's end to remember its event.
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until && lock(&login.events).is_empty() {
                std::thread::yield_now();
            }
            login.replay()
        });
        emitting.unwrap().join().unwrap();
        let told: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(told, vec![GuestMessage::Login { login_id: "l".into(), attempt: 1, event: LoginEvent::PageOpened }]);
    }
}
