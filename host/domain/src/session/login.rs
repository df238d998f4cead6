//! The login inside a session: what the agent told of it, and what the session does about it. Pure.
//!
//! ```text
//! attempt 1 ── URL [, user code | code wanted] ──> captured
//!     ├── retry in another flow ──────────────────> attempt 2 ...
//!     └── outcome ──> kept for a retry ── retry ──> attempt 2 ...
//!                          └── nobody retries in time ──> the session fails with the outcome's cause
//! ```
//!
//! A retry takes the same VM. An outcome that no retry can change fails the session at once. Nothing of this is stored: the agent
//! tells it again to a daemon that comes back.

use airlock_protocol::Sensitive;
use airlock_protocol::login::{Flow, LoginEvent, Outcome};

/// A login as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Which try it is, from 1.
    pub attempt: u32,
    /// How the person signs in.
    pub flow: Flow,
    /// The page of the provider.
    pub url: Option<Sensitive>,
    /// The code that the person types there.
    pub user_code: Option<Sensitive>,
    /// Whether the tool waits for a code that the page showed.
    pub code_wanted: bool,
    /// How the attempt ended, and what was seen.
    pub outcome: Option<(Outcome, String)>,
    /// When a failed attempt becomes a failed session, in milliseconds of the caller's clock.
    pub give_up_ms: Option<i64>,
}

/// What follows an event of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing that anybody sees.
    Nothing,
    /// What is told about the login changed.
    Changed,
    /// It changed, and it is the person's turn.
    AwaitUser,
    /// The session cannot succeed any more.
    Fail(Outcome, String),
}

/// There is nothing to try again: the same would run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attempt {attempt} of the login has not failed")]
pub struct NotFailed {
    /// The attempt that still runs.
    pub attempt: u32,
}

impl Login {
    /// The first attempt.
    pub fn new(flow: Flow) -> Self {
        Self { attempt: 1, flow, url: None, user_code: None, code_wanted: false, outcome: None, give_up_ms: None }
    }

    /// Takes an event of an attempt. `retry_ms` is how long a failed one waits for a retry.
    pub fn on(&mut self, attempt: u32, event: &LoginEvent, now_ms: i64, retry_ms: i64) -> Step {
        // An agent of the first version numbers nothing.
        let attempt = attempt.max(1);
        if attempt < self.attempt {
            return Step::Nothing;
        }
        if attempt > self.attempt {
            // Another daemon began it.
            *self = Self { attempt, ..Self::new(self.flow) };
        }
        match event {
            LoginEvent::ToolStarted { flow: Some(flow), .. } => self.flow = *flow,
            LoginEvent::UrlSeen { url, .. } => {
                self.url = Some(url.clone());
                if self.code_wanted {
                    return Step::AwaitUser;
                }
            }
            LoginEvent::UserCode { code, url } => {
                (self.user_code, self.url) = (Some(code.clone()), Some(url.clone()));
                return Step::AwaitUser;
            }
            LoginEvent::CodeWanted | LoginEvent::CodeRefused { .. } => {
                self.code_wanted = true;
                // The code is on a page: without its address it is nobody's turn.
                if self.url.is_some() {
                    return Step::AwaitUser;
                }
            }
            LoginEvent::PageOpened | LoginEvent::PageNotShown { .. } => return Step::AwaitUser,
            LoginEvent::Outcome { outcome, detail } => return self.ended(*outcome, detail, now_ms + retry_ms),
            LoginEvent::ToolStarted { .. }
            | LoginEvent::ToolExited { .. }
            | LoginEvent::StatusAnswered { .. }
            | LoginEvent::CallbackListening { .. }
            | LoginEvent::Captured { .. } => return Step::Nothing,
        }
        Step::Changed
    }

    fn ended(&mut self, outcome: Outcome, detail: &str, give_up_ms: i64) -> Step {
        let (attempt, flow) = (self.attempt, self.flow);
        *self = Self { attempt, outcome: Some((outcome, detail.to_owned())), ..Self::new(flow) };
        if !may_be_retried(outcome) {
            return Step::Fail(outcome, detail.to_owned());
        }
        self.give_up_ms = Some(give_up_ms);
        Step::AwaitUser
    }

    /// A code is on its way to the tool.
    pub fn code_sent(&mut self) {
        self.code_wanted = false;
    }

    /// The session is over: its page and its code are of no use to anybody who may see them.
    pub fn forget_secrets(&mut self) {
        (self.url, self.user_code, self.code_wanted) = (None, None, false);
    }

    /// Begins the next attempt, in `flow`. One that still runs gives way only to another flow: whoever cannot sign in this way
    /// need not wait for its end.
    pub fn retry(&mut self, flow: Flow) -> Result<(), NotFailed> {
        if self.outcome.is_none() && flow == self.flow {
            return Err(NotFailed { attempt: self.attempt });
        }
        *self = Self { attempt: self.attempt + 1, ..Self::new(flow) };
        Ok(())
    }

    /// The outcome that the session ends with, if nobody retried in time.
    pub fn overdue(&self, now_ms: i64) -> Option<(Outcome, String)> {
        self.outcome.clone().filter(|_| self.give_up_ms.is_some_and(|at| at <= now_ms))
    }
}

/// Whether another attempt in the same VM can end better.
fn may_be_retried(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Denied
        | Outcome::Expired
        | Outcome::InvalidCode
        | Outcome::DeviceFlowNotEnabled
        | Outcome::AccountNotEligible
        | Outcome::PortBusy
        | Outcome::CliExited
        | Outcome::TimedOut
        | Outcome::NoEgress
        | Outcome::CredentialRejected => true,
        // The image or the provider's file is wrong, or it is over.
        Outcome::ToolMissing
        | Outcome::NeedsTty
        | Outcome::CredentialStale
        | Outcome::CredentialMalformed
        | Outcome::Completed
        | Outcome::Cancelled => false,
    }
}

#[cfg(test)]
mod tests {
    use airlock_protocol::login::UrlSource;

    use super::*;

    fn secret(text: &str) -> Sensitive {
        Sensitive::new(text)
    }

    fn ended(outcome: Outcome) -> LoginEvent {
        LoginEvent::Outcome { outcome, detail: "said".into() }
    }

    #[test]
    fn a_code_is_wanted_until_it_is_sent_and_again_when_it_is_refused() {
        let mut login = Login::new(Flow::PasteCode);
        assert_eq!(login.on(1, &LoginEvent::CodeWanted, 0, 9), Step::Changed, "wanted from where?");
        let page = LoginEvent::UrlSeen { url: secret("https://i/"), source: UrlSource::Screen };
        assert_eq!(login.on(1, &page, 0, 9), Step::AwaitUser);
        assert_eq!(login.on(1, &LoginEvent::CodeWanted, 0, 9), Step::AwaitUser);
        login.code_sent();
        assert!(!login.code_wanted);
        assert_eq!(login.on(1, &LoginEvent::CodeRefused { detail: String::new() }, 0, 9), Step::AwaitUser);
        assert!(login.code_wanted);
    }

    #[test]
    fn a_failed_attempt_waits_for_a_retry_and_then_fails_the_session() {
        let mut login = Login::new(Flow::DeviceCode);
        let code = LoginEvent::UserCode { code: secret("AB-CD"), url: secret("https://i/device") };
        assert_eq!(login.on(1, &code, 0, 9), Step::AwaitUser);
        assert_eq!(login.retry(Flow::DeviceCode), Err(NotFailed { attempt: 1 }));
        assert_eq!(login.on(1, &ended(Outcome::Denied), 100, 50), Step::AwaitUser);
        assert_eq!((&login.user_code, &login.url), (&None, &None), "they are of no use any more");
        assert_eq!((login.overdue(149), login.overdue(150)), (None, Some((Outcome::Denied, "said".into()))));

        login.retry(Flow::Loopback).unwrap();
        assert_eq!((login.attempt, login.flow, login.overdue(i64::MAX)), (2, Flow::Loopback, None));
        // The first attempt's last words come late.
        assert_eq!(login.on(1, &ended(Outcome::CliExited), 160, 50), Step::Nothing);
        assert_eq!(login.outcome, None);
    }

    #[test]
    fn what_is_over_shows_neither_page_nor_code() {
        let mut login = Login::new(Flow::DeviceCode);
        login.on(1, &LoginEvent::UserCode { code: secret("AB-CD"), url: secret("https://i/device") }, 0, 9);
        login.on(1, &LoginEvent::CodeWanted, 0, 9);
        login.forget_secrets();
        assert_eq!(login, Login::new(Flow::DeviceCode));
    }

    #[test]
    fn an_attempt_that_runs_gives_way_to_another_flow() {
        let mut login = Login::new(Flow::Loopback);
        let page = LoginEvent::UrlSeen { url: secret("https://i/"), source: UrlSource::Shim };
        assert_eq!(login.on(1, &page, 0, 9), Step::Changed);
        assert_eq!(login.retry(Flow::Loopback), Err(NotFailed { attempt: 1 }));
        login.retry(Flow::DeviceCode).unwrap();
        assert_eq!((login.attempt, login.flow, &login.url), (2, Flow::DeviceCode, &None));
        // The tool that was ended for it says so.
        assert_eq!(login.on(1, &ended(Outcome::CliExited), 5, 9), Step::Nothing);
        assert_eq!(login.outcome, None);
    }

    #[test]
    fn what_no_retry_changes_fails_at_once() {
        for outcome in Outcome::ALL {
            let step = Login::new(Flow::Loopback).on(1, &ended(outcome), 0, 9);
            let fails = step == Step::Fail(outcome, "said".into());
            assert_eq!(fails, !may_be_retried(outcome), "{outcome}");
        }
    }

    #[test]
    fn a_daemon_that_comes_back_follows_the_attempt_that_runs() {
        let mut login = Login::new(Flow::Loopback);
        let started = LoginEvent::ToolStarted { pid: 1, flow: Some(Flow::DeviceCode) };
        assert_eq!(login.on(3, &started, 0, 9), Step::Changed);
        assert_eq!((login.attempt, login.flow), (3, Flow::DeviceCode));
        let old = LoginEvent::UrlSeen { url: secret("https://i/"), source: UrlSource::Shim };
        assert_eq!(Login::new(Flow::Loopback).on(0, &old, 0, 9), Step::Changed, "an agent that numbers nothing");
    }
}
