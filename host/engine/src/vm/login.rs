//! The login of a session: started when the machine is ready, followed by the agent's events, tried again on request, ended by a
//! sealed credential.

use std::time::Instant;

use airlock_domain::Cause;
use airlock_domain::boot::Failure;
use airlock_domain::provider::Place;
use airlock_domain::session::login::Step as LoginStep;
use airlock_domain::session::{SessionEvent as Event, SessionState};
use airlock_protocol::Sensitive;
use airlock_protocol::login::{CapturedFile, Flow, LoginEvent, LoginSpec, Outcome};
use airlock_protocol::message::HostMessage;

use super::follow::Next;
use super::{End, VmTask};
use crate::capture::{self, CaptureError};
use crate::clock::monotonic_ms;
use crate::context::Context;
use crate::engine_login::LoginError;
use crate::error::chain;
use crate::records::{SessionEvent, SessionRecord};

impl Context {
    /// What the agent is told for one attempt; none for a provider that only starts a machine.
    fn login_spec(&self, session: &SessionRecord) -> Option<LoginSpec> {
        let provider = self.providers.iter().find(|provider| provider.id == session.provider)?;
        let login = session.login.as_ref()?;
        let place = Place { gateway: self.config.network.subnet.gateway(), demo_port: self.config.demo_idp.port };
        provider.login_spec(session.id, login.attempt, login.flow, place)
    }
}

impl VmTask {
    /// The machine is ready. A provider without a login hands it over at once.
    pub(super) async fn on_ready(&mut self) -> Result<(), Failure> {
        if self.session.login.is_none() {
            return self.move_session(Event::MachineReady, None).await;
        }
        self.start_login().await;
        Ok(())
    }

    /// Tells the agent to run the tool, once the machine is ready and the channel is open. Sent again after a reconnect: the
    /// agent leaves an attempt alone that it knows.
    pub(super) async fn start_login(&mut self) {
        if self.ready
            && let (Some(login), Some(control)) = (self.ctx.login_spec(&self.session), &self.control)
            && let Err(error) = control.send(&HostMessage::StartLogin(Box::new(login))).await
        {
            tracing::warn!(session = %self.session.id, error = chain(&error), "login not started yet");
        }
    }

    pub(super) async fn on_login(&mut self, attempt: u32, event: LoginEvent) -> Result<Next, Failure> {
        let session = self.session.id;
        match &event {
            LoginEvent::ToolStarted { pid, .. } => tracing::info!(%session, attempt, pid, "tool started"),
            LoginEvent::UrlSeen { source, .. } => tracing::info!(%session, ?source, "tool asked for a page"),
            LoginEvent::CallbackListening { port } => tracing::info!(%session, port, "tool listens for the browser"),
            LoginEvent::CodeRefused { detail } => tracing::info!(%session, detail, "code refused"),
            LoginEvent::PageNotShown { detail } => tracing::warn!(%session, detail, "page not shown"),
            LoginEvent::StatusAnswered { ok, code, signal } => {
                tracing::info!(%session, ok, code, signal, "status command ended");
            }
            LoginEvent::ToolExited { code, signal } => tracing::info!(%session, code, signal, "tool ended"),
            LoginEvent::Outcome { outcome, detail } => {
                tracing::warn!(%session, attempt, %outcome, detail, "login ended")
            }
            LoginEvent::UserCode { .. }
            | LoginEvent::CodeWanted
            | LoginEvent::PageOpened
            | LoginEvent::Captured { .. } => {}
        }
        let retry_ms = i64::try_from(self.ctx.config.login_retry_s * 1000).unwrap_or(i64::MAX);
        let Some(login) = &mut self.session.login else { return Ok(Next::Go) };
        match login.on(attempt, &event, monotonic_ms(), retry_ms) {
            LoginStep::Nothing => {}
            LoginStep::Changed => self.publish_login(),
            LoginStep::AwaitUser => {
                self.view.send_modify(|view| view.login.clone_from(&self.session.login));
                self.move_session(Event::MachineReady, None).await?;
                self.publish_login();
            }
            LoginStep::Fail(outcome, detail) => return Err(failure(outcome, detail)),
        }
        match event {
            LoginEvent::Captured { files, confirmed } => self.on_captured(files, confirmed).await,
            _ => Ok(Next::Go),
        }
    }

    /// Tells whoever looks on how the login stands.
    fn publish_login(&mut self) {
        self.view.send_modify(|view| view.login.clone_from(&self.session.login));
        let _ = self.events.send(SessionEvent::State(Box::new(self.session.clone())));
    }

    /// A failed login that nobody tried again in time, or before the session's deadline, fails the session.
    pub(super) fn judge_login(&self) -> Result<(), Failure> {
        let Some(login) = &self.session.login else { return Ok(()) };
        let now = if Instant::now() >= self.deadline { i64::MAX } else { monotonic_ms() };
        login.overdue(now).map_or(Ok(()), |(outcome, detail)| Err(failure(outcome, detail)))
    }

    pub(super) async fn open_url(&mut self, url: Sensitive) -> Result<(), LoginError> {
        self.say(HostMessage::OpenUrl { url }).await
    }

    pub(super) async fn enter_code(&mut self, code: Sensitive) -> Result<(), LoginError> {
        self.say(HostMessage::EnterCode { code }).await?;
        if let Some(login) = &mut self.session.login {
            login.code_sent();
            self.publish_login();
        }
        Ok(())
    }

    pub(super) async fn retry_login(&mut self, flow: Flow) -> Result<(), LoginError> {
        let id = self.session.id;
        if self.control.is_none() {
            return Err(LoginError::GuestAway { id });
        }
        let Some(login) = &mut self.session.login else {
            return Err(LoginError::NoLogin { id, state: self.session.state });
        };
        login.retry(flow).map_err(|error| LoginError::NotFailed { id, attempt: error.attempt })?;
        tracing::info!(session = %id, attempt = login.attempt, %flow, "login tried again");
        self.publish_login();
        self.start_login().await;
        Ok(())
    }

    async fn say(&mut self, message: HostMessage) -> Result<(), LoginError> {
        let away = LoginError::GuestAway { id: self.session.id };
        let Some(control) = &self.control else { return Err(away) };
        control.send(&message).await.map_err(|error| {
            tracing::warn!(session = %self.session.id, error = chain(&error), "guest not told");
            away
        })
    }

    async fn on_captured(&mut self, files: Vec<CapturedFile>, confirmed: Option<bool>) -> Result<Next, Failure> {
        if self.pending.is_some() || self.session.state.is_terminal() {
            return Ok(Next::Go);
        }
        if confirmed == Some(false) {
            return Err(failure(Outcome::CredentialRejected, "the tool's own status command denies the login".into()));
        }
        let provider = self.ctx.providers.iter().find(|provider| provider.id == self.session.provider);
        let checked = provider.map(|provider| provider.check_captured(files.iter().map(|file| file.path.as_str())));
        if let Some(Err(error)) = checked {
            return Err(failure(Outcome::CredentialMalformed, error.to_string()));
        }
        // A tool that was quicker than the page's event still passes through every state.
        self.move_session(Event::MachineReady, None).await?;
        self.move_session(Event::CredentialWritten, None).await?;
        self.pending = Some(files);
        self.commit().await
    }

    /// Seals what was captured and commits it together with the session's end; then tells the agent. What cannot be
    /// committed is kept and tried again until the session's deadline.
    pub(super) async fn commit(&mut self) -> Result<Next, Failure> {
        let Some(files) = self.pending.as_ref() else { return Ok(Next::Go) };
        match capture::commit(&self.ctx.store, &self.ctx.vault, &self.session, files).await {
            Ok(Some(now)) => {
                self.pending = None;
                self.publish_state(SessionState::Completed, None, now);
                if let Some(control) = &self.control {
                    let login_id = self.session.id.to_string();
                    let _ = control.send(&HostMessage::CredentialStored { login_id }).await;
                }
                Ok(Next::End(End::Completed))
            }
            Ok(None) => Ok(Next::End(End::Cancelled)),
            Err(error @ CaptureError::Seal(_)) => Err(Failure::new(Cause::Inconclusive, None, chain(&error))),
            Err(CaptureError::Commit(error)) if Instant::now() < self.deadline => {
                tracing::error!(session = %self.session.id, error = chain(&error), "credential not committed yet");
                Ok(Next::Go)
            }
            Err(CaptureError::Commit(error)) => Err(super::store_failure(&error, None)),
        }
    }
}

/// Why a session fails whose login ended so.
fn failure(outcome: Outcome, detail: String) -> Failure {
    Failure::new(Cause::of_login(outcome).unwrap_or(Cause::Inconclusive), None, detail)
}
