//! The login of a session: started when the machine is ready, followed by the agent's events, ended by a sealed credential.

use std::time::Instant;

use airlock_domain::Cause;
use airlock_domain::boot::Failure;
use airlock_domain::session::{SessionEvent as Event, SessionState};
use airlock_protocol::message::{CapturedFile, HostMessage, LoginEvent};

use super::follow::Next;
use super::{End, VmTask};
use crate::capture::{self, CaptureError};
use crate::error::chain;

impl VmTask {
    /// The machine is ready. A provider without a login hands it over at once.
    pub(super) async fn on_ready(&mut self) -> Result<(), Failure> {
        if self.login.is_none() {
            return self.move_session(Event::MachineReady, None).await;
        }
        self.start_login().await;
        Ok(())
    }

    /// Tells the agent to run the tool, once the machine is ready and the channel is open. Sent again after a reconnect: the
    /// agent leaves a login alone that already runs.
    pub(super) async fn start_login(&mut self) {
        if self.ready
            && let (Some(login), Some(control)) = (&self.login, &self.control)
            && let Err(error) = control.send(&HostMessage::StartLogin(login.clone())).await
        {
            tracing::warn!(session = %self.session.id, error = chain(&error), "login not started yet");
        }
    }

    pub(super) async fn on_login(&mut self, event: LoginEvent) -> Result<Next, Failure> {
        let session = self.session.id;
        match event {
            LoginEvent::ToolStarted { pid } => tracing::info!(%session, pid, "tool started"),
            LoginEvent::UrlSeen { source, .. } => tracing::info!(%session, ?source, "tool asked for a page"),
            LoginEvent::PageOpened => self.move_session(Event::MachineReady, None).await?,
            LoginEvent::Captured { files, confirmed } => return self.on_captured(files, confirmed).await,
            LoginEvent::ToolExited { code, signal } => tracing::info!(%session, code, signal, "tool ended"),
            LoginEvent::Outcome { outcome, detail } => {
                let cause = Cause::of_login(outcome).unwrap_or(Cause::Inconclusive);
                return Err(Failure::new(cause, None, detail));
            }
            LoginEvent::CallbackListening { .. }
            | LoginEvent::UserCode { .. }
            | LoginEvent::CodeWanted
            | LoginEvent::CodeRefused { .. }
            | LoginEvent::StatusAnswered { .. }
            | LoginEvent::PageNotShown { .. } => {}
        }
        Ok(Next::Go)
    }

    async fn on_captured(&mut self, files: Vec<CapturedFile>, confirmed: Option<bool>) -> Result<Next, Failure> {
        if self.pending.is_some() || self.session.state.is_terminal() {
            return Ok(Next::Go);
        }
        if confirmed == Some(false) {
            let detail = "the tool's own status command denies the login";
            return Err(Failure::new(Cause::CredentialRejected, None, detail));
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
