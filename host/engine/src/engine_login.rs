//! What a person or a program does about a login that runs: page, code, retry.

use airlock_domain::SessionId;
use airlock_domain::session::SessionState;
use airlock_domain::session::login::Login;
use airlock_protocol::Sensitive;
use airlock_protocol::login::Flow;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::records::SessionRecord;
use crate::vm::Order;

/// The longest page address and code that are passed on, in bytes.
const MAX_URL: usize = 16 * 1024;
const MAX_CODE: usize = 8 * 1024;

/// Why a login is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The session has no login, or not yet.
    #[error("no login runs in session {id}, which is {state}")]
    NoLogin {
        /// Which session.
        id: SessionId,
        /// Where it stands.
        state: SessionState,
    },
    /// The tool has shown no page yet.
    #[error("the login of session {id} has shown no page yet")]
    NoUrl {
        /// Which session.
        id: SessionId,
    },
    /// The tool does not ask for a code.
    #[error("the login of session {id} asks for no code")]
    NoCodeWanted {
        /// Which session.
        id: SessionId,
    },
    /// There is nothing to try again.
    #[error("attempt {attempt} of the login of session {id} has not failed")]
    NotFailed {
        /// Which session.
        id: SessionId,
        /// The attempt that runs.
        attempt: u32,
    },
    /// The provider does not offer the flow.
    #[error("the provider {provider} does not offer the flow {flow}")]
    NoSuchFlow {
        /// Which provider.
        provider: String,
        /// The flow that was asked for.
        flow: Flow,
    },
    /// Only pages of the web are opened.
    #[error("the page is no http:// or https:// URL of at most 16384 bytes")]
    BadUrl,
    /// A code is one line.
    #[error("the code is not 1 to 8192 printable characters")]
    BadCode,
    /// The guest is not connected.
    #[error("the guest of session {id} cannot be told now")]
    GuestAway {
        /// Which session.
        id: SessionId,
    },
}

impl LoginError {
    /// How it is answered.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::BadUrl | Self::BadCode | Self::NoSuchFlow { .. } => ErrorKind::BadInput,
            Self::GuestAway { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Refused,
        }
    }

    /// The stable code of the API.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoLogin { .. } => "no_login",
            Self::NoUrl { .. } => "no_login_url",
            Self::NoCodeWanted { .. } => "no_code_wanted",
            Self::NotFailed { .. } => "login_not_failed",
            Self::NoSuchFlow { .. } => "no_such_flow",
            Self::BadUrl => "bad_url",
            Self::BadCode => "bad_code",
            Self::GuestAway { .. } => "guest_away",
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::NoLogin { .. } | Self::NoUrl { .. } => "wait until the session is awaiting_user: GET .../events",
            Self::NoCodeWanted { .. } => "wait until the session's login has codeWanted",
            Self::NotFailed { .. } => {
                "retry when the session's login has an outcome, or in another flow of the provider; cancel the session to end it"
            }
            Self::NoSuchFlow { .. } => "see the provider's file for its flows, or leave the flow out",
            Self::BadUrl => "send the page's whole address",
            Self::BadCode => "copy the whole code that the provider's page shows, without line ends",
            Self::GuestAway { .. } => "try again: the guest is being connected to",
        }
    }
}

impl Engine {
    /// The login that runs in a session. Its URL and its user code are secrets.
    pub async fn login(&self, id: SessionId) -> Result<Login, Error> {
        Ok(self.session_with_login(id).await?.1)
    }

    /// The same, with a page.
    pub async fn login_page(&self, id: SessionId) -> Result<(Sensitive, Login), Error> {
        let login = self.login(id).await?;
        let url = login.url.clone().ok_or(LoginError::NoUrl { id })?;
        Ok((url, login))
    }

    /// Shows a page in the guest's browser.
    pub async fn open_url(&self, id: SessionId, url: Sensitive) -> Result<(), Error> {
        let is_web = url.expose().starts_with("https://") || url.expose().starts_with("http://");
        let is_plain = url.expose().bytes().all(|byte| byte.is_ascii_graphic()) && url.expose().len() <= MAX_URL;
        if !is_web || !is_plain || url.expose().ends_with("://") {
            return Err(LoginError::BadUrl.into());
        }
        let (session, _) = self.session_with_login(id).await?;
        self.tell(&session, |answer| Order::OpenUrl { url, answer }).await
    }

    /// Types a code at the tool's prompt.
    pub async fn enter_code(&self, id: SessionId, code: Sensitive) -> Result<SessionRecord, Error> {
        let text = code.expose();
        if text.is_empty() || text.len() > MAX_CODE || text.chars().any(char::is_control) {
            return Err(LoginError::BadCode.into());
        }
        let (session, login) = self.session_with_login(id).await?;
        // Whoever is quicker than the tool may be so in the flow that is about codes.
        if !login.code_wanted && (login.flow != Flow::PasteCode || login.outcome.is_some()) {
            return Err(LoginError::NoCodeWanted { id }.into());
        }
        self.tell(&session, |answer| Order::EnterCode { code, answer }).await?;
        self.session(id).await
    }

    /// Tries a login that failed again, in the same VM; in another flow of the provider if one is given, which need not wait until
    /// the one before failed.
    pub async fn retry_login(&self, id: SessionId, flow: Option<Flow>) -> Result<SessionRecord, Error> {
        let (session, login) = self.session_with_login(id).await?;
        let flow = flow.unwrap_or(login.flow);
        if !self.providers().iter().any(|provider| provider.id == session.provider && provider.offers(flow)) {
            return Err(LoginError::NoSuchFlow { provider: session.provider, flow }.into());
        }
        if login.outcome.is_none() && flow == login.flow {
            return Err(LoginError::NotFailed { id, attempt: login.attempt }.into());
        }
        self.tell(&session, |answer| Order::Retry { flow, answer }).await?;
        self.session(id).await
    }

    async fn session_with_login(&self, id: SessionId) -> Result<(SessionRecord, Login), Error> {
        let session = self.session(id).await?;
        if session.state.is_terminal() {
            return Err(Error::SessionEnded { id, state: session.state });
        }
        let login = session.login.clone().ok_or(LoginError::NoLogin { id, state: session.state })?;
        Ok((session, login))
    }

    /// Gives an order that is answered when the guest was told.
    async fn tell(
        &self,
        session: &SessionRecord,
        order: impl FnOnce(oneshot::Sender<Result<(), LoginError>>) -> Order,
    ) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let away = LoginError::GuestAway { id: session.id };
        if !self.order(session.vm_id, order(answer)).await {
            return Err(away.into());
        }
        Ok(answered.await.unwrap_or(Err(away))?)
    }
}
