//! How a viewer's connection ends, and the close code that says so.

use airlock_domain::session::SessionState;

/// Why a bridge ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The viewer left; there is nobody to tell.
    ViewerGone,
    /// The viewer speaks no RFB.
    NotRfb,
    /// The machine closed the screen.
    ScreenGone,
    /// The session reached a final state.
    Session(SessionState),
    /// The machine's RFB server does not take the daemon's password, and what it said.
    PasswordMismatch(String),
    /// The machine's screen cannot be reached, and why.
    Unreachable(String),
    /// Nobody touched it for `[viewer] idle_s`.
    Idle,
    /// It lasted `[viewer] max_s`, or its session has `[viewer] per_session` viewers already.
    Limit,
    /// The daemon ends; its successor takes over.
    DaemonEnds,
}

impl End {
    /// Code and reason of the close frame (RFC 6455 7.4; 4000 and up are ours). The page shows words for each reason.
    pub fn close_code(&self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::ViewerGone => return None,
            Self::NotRfb => (1002, "not_rfb"),
            Self::Unreachable(_) => (1011, "screen_unreachable"),
            Self::DaemonEnds => (1012, "daemon_restarts"),
            Self::Session(SessionState::Completed) => (4000, "completed"),
            Self::Session(SessionState::Failed) => (4001, "vm_failed"),
            Self::Session(SessionState::Cancelled) => (4002, "cancelled"),
            Self::Session(SessionState::Expired) => (4003, "expired"),
            // A session that is not over lost its machine: its verdict is still to come.
            Self::ScreenGone | Self::Session(_) => (4004, "machine_gone"),
            Self::PasswordMismatch(_) => (4005, "vnc_auth_mismatch"),
            Self::Idle => (4008, "idle"),
            Self::Limit => (4009, "viewer_limit"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_tell_how_it_ended() {
        for (end, code) in [
            (End::Session(SessionState::Completed), Some((4000, "completed"))),
            (End::Session(SessionState::Failed), Some((4001, "vm_failed"))),
            (End::Session(SessionState::Cancelled), Some((4002, "cancelled"))),
            (End::Session(SessionState::Expired), Some((4003, "expired"))),
            (End::ScreenGone, Some((4004, "machine_gone"))),
            (End::Session(SessionState::AwaitingUser), Some((4004, "machine_gone"))),
            (End::PasswordMismatch(String::new()), Some((4005, "vnc_auth_mismatch"))),
            (End::Idle, Some((4008, "idle"))),
            (End::Limit, Some((4009, "viewer_limit"))),
            (End::Unreachable(String::new()), Some((1011, "screen_unreachable"))),
            (End::DaemonEnds, Some((1012, "daemon_restarts"))),
            (End::NotRfb, Some((1002, "not_rfb"))),
            (End::ViewerGone, None),
        ] {
            assert_eq!(end.close_code(), code, "{end:?}");
        }
    }
}
