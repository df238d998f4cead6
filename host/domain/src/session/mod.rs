//! The session machine.
//!
//! ```text
//! queued -> starting -> booting -> awaiting_user -> capturing -> completed
//!    |         |          |             |              |
//!    +---------+----------+-------------+--------------+----> failed | cancelled | expired
//! ```
//!
//! Terminal states are immutable. `completed` is entered only by [`SessionEvent::Sealed`], that is after the credential is
//! committed to the vault. What happens inside `awaiting_user` is the [`login`]'s. `capturing` goes back to nothing: it ends in `completed`, or in a failure that keeps the reason.

pub mod login;

use serde::{Deserialize, Serialize};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Accepted; it waits for room and has no VM yet.
    Queued,
    /// Accepted; its address is leased.
    Starting,
    /// The VM boots.
    Booting,
    /// The person can act.
    AwaitingUser,
    /// The tool wrote its credential; it is being sealed.
    Capturing,
    /// The credential is in the vault.
    Completed,
    /// It cannot succeed; the cause says why.
    Failed,
    /// Ended by request.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

impl SessionState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Starting,
        Self::Booting,
        Self::AwaitingUser,
        Self::Capturing,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether nothing can change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The name in the API and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Booting => "booting",
            Self::AwaitingUser => "awaiting_user",
            Self::Capturing => "capturing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The state after `event`; `None` when the event changes nothing here.
    pub fn after(self, event: SessionEvent) -> Option<Self> {
        use SessionEvent as E;
        match (self, event) {
            (state, _) if state.is_terminal() => None,
            (Self::Queued, E::Admitted) => Some(Self::Starting),
            (Self::Starting, E::BootBegan) => Some(Self::Booting),
            (Self::Starting | Self::Booting, E::MachineReady) => Some(Self::AwaitingUser),
            (Self::AwaitingUser, E::CredentialWritten) => Some(Self::Capturing),
            (Self::Capturing, E::Sealed) => Some(Self::Completed),
            (_, E::Failed) => Some(Self::Failed),
            (_, E::CancelRequested) => Some(Self::Cancelled),
            // What the person finished before the deadline is not thrown away: capturing ends by itself.
            (Self::Queued | Self::Starting | Self::Booting | Self::AwaitingUser, E::DeadlinePassed) => {
                Some(Self::Expired)
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for SessionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for SessionState {
    type Err = UnknownState;
    fn from_str(name: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| UnknownState { name: name.to_owned() })
    }
}

/// A state name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown session state {name:?}")]
pub struct UnknownState {
    /// The name that was given.
    pub name: String,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// There is room for its VM.
    Admitted,
    /// The VMM was spawned.
    BootBegan,
    /// The VM is ready and, if the provider has a login, the page is open.
    MachineReady,
    /// A fresh, well-formed credential arrived from the guest.
    CredentialWritten,
    /// It is sealed and committed.
    Sealed,
    /// The VM or the login failed.
    Failed,
    /// Somebody asked for the end.
    CancelRequested,
    /// The session's deadline passed.
    DeadlinePassed,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [SessionEvent; 8] = [
        SessionEvent::Admitted,
        SessionEvent::BootBegan,
        SessionEvent::MachineReady,
        SessionEvent::CredentialWritten,
        SessionEvent::Sealed,
        SessionEvent::Failed,
        SessionEvent::CancelRequested,
        SessionEvent::DeadlinePassed,
    ];

    #[test]
    fn the_way_of_a_sign_in() {
        use SessionEvent as E;
        let mut state = SessionState::Queued;
        let mut seen = vec![state.name()];
        for event in [E::Admitted, E::BootBegan, E::MachineReady, E::CredentialWritten, E::Sealed] {
            state = state.after(event).unwrap();
            seen.push(state.name());
        }
        assert_eq!(seen, ["queued", "starting", "booting", "awaiting_user", "capturing", "completed"]);
    }

    #[test]
    fn terminal_states_are_immutable() {
        for state in SessionState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in EVENTS {
                assert_eq!(state.after(event), None);
            }
        }
    }

    #[test]
    fn only_sealing_completes_and_a_written_credential_does_not_expire() {
        for state in SessionState::ALL {
            for event in EVENTS {
                if state.after(event) == Some(SessionState::Completed) {
                    assert_eq!((state, event), (SessionState::Capturing, SessionEvent::Sealed));
                }
            }
            assert_eq!(state.name().parse::<SessionState>(), Ok(state));
        }
        assert_eq!(SessionState::Capturing.after(SessionEvent::DeadlinePassed), None);
    }
}
