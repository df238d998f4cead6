//! The RFB server and what it shows. The host's probe of it runs only where a display is expected.

use airlock_protocol::Stage;
use airlock_protocol::paths::RFB_PORT;

use super::guest::{is_on_loopback, listening_on};
use super::{Sight, seen_by_guest, seen_by_host};
use crate::cause::Cause;
use crate::diagnosis::Finding;
use crate::diagnosis::facts::Probe;
use crate::diagnosis::rules::Grade;

/// How the probe's words begin when the server wants another password, or another login (`host/effects`, `rfb.rs`).
const WANTS_ANOTHER: [&str; 2] = ["it refuses the password", "it asks for a "];

pub(super) fn find(sight: &Sight<'_>, found: &mut Vec<Finding>) {
    let Some(rfb) = sight.host.rfb.as_ref().filter(|_| sight.is_due(Stage::DisplayUp)) else { return };
    let sockets = listening_on(sight, RFB_PORT);
    let mut add = |cause, stage, grade, text: String| found.push(seen_by_host(cause, stage, grade, text));
    match rfb {
        Probe::Ok => {
            if sight.host.painted == Some(false)
                && let Some(grade) = grade_of_black(sight)
            {
                let text = "all pixels of the screen have one colour";
                add(Cause::ScreenBlack, Stage::PagePainted, grade, text.to_owned());
            }
        }
        _ if !sockets.is_empty() && sockets.iter().all(|socket| is_on_loopback(socket)) => {
            let bound: Vec<&str> = sockets.iter().map(|socket| socket.address.as_str()).collect();
            let text = format!("port {RFB_PORT} listens on {} only", bound.join(" and "));
            found.push(seen_by_guest(Cause::VncBoundToLoopback, Stage::DisplayUp, Grade::Hard, text));
        }
        Probe::Wrong { detail } if WANTS_ANOTHER.iter().any(|words| detail.starts_with(words)) => {
            add(Cause::VncAuthMismatch, Stage::DisplayUp, Grade::Hard, format!("the RFB server: {detail}"));
        }
        Probe::Wrong { detail } => {
            add(Cause::VncRefused, Stage::DisplayUp, grade_of_refusal(sight), format!("the RFB server: {detail}"));
        }
        Probe::Refused => {
            let text = format!("nobody listens on the guest's port {RFB_PORT}");
            add(Cause::VncRefused, Stage::DisplayUp, grade_of_refusal(sight), text);
        }
        // That is the network, or a slow machine.
        Probe::TimedOut | Probe::Unreachable { .. } => {}
    }
}

/// Of a display that never came up it is no more than a symptom.
fn grade_of_refusal(sight: &Sight<'_>) -> Grade {
    if sight.is_timed && !sight.has_reached(Stage::DisplayUp) { Grade::Note } else { Grade::Soft }
}

/// A screen that nobody promised to paint is no fault; none if something may still be painted.
fn grade_of_black(sight: &Sight<'_>) -> Option<Grade> {
    if sight.is_waiting {
        return None;
    }
    let failed_at = sight.failure.and_then(|failure| failure.stage);
    Some(match failed_at {
        _ if !sight.is_timed => Grade::Weak,
        Some(Stage::PagePainted) => Grade::Soft,
        Some(Stage::BrowserUp) => Grade::Weak,
        None if sight.has_reached(Stage::PagePainted) => Grade::Weak,
        _ => Grade::Note,
    })
}
