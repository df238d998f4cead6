// What to do when the screen's WebSocket closes. Pure.
//
// Codes of RFC 6455 section 7.4, and the daemon's own: 4000 completed, 4001 failed, 4002 cancelled, 4003 expired, 4004 the machine is
// gone, 4005 its screen refuses us; 4008 nobody did anything for long, 4009 too long or too many viewers. Only a loss on the way is
// worth another try; a verdict of the daemon is final, and the session's state explains it; a rest ends when the person comes back.

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 4000;
/** Policy violation: the daemon refused us (cookie or origin). Asking again would be refused again. */
const POLICY_VIOLATION = 1008;
const IDLE = 4008;
const VIEWER_LIMIT = 4009;

/**
 * `{action: "stop"}`, `{action: "rest"}` or `{action: "reconnect", delayMs}`.
 * `attempt` counts failed tries since the screen was last shown, from 0; `random` (0..1) spreads many viewers of one restarted daemon.
 */
export function afterClose({ code, sessionOver, attempt, random }) {
  if (sessionOver) return { action: "stop" };
  if (code === IDLE || code === VIEWER_LIMIT) return { action: "rest" };
  if (code === POLICY_VIOLATION || (code >= 4000 && code <= 4999)) return { action: "stop" };
  return { action: "reconnect", delayMs: backoff(attempt, random) };
}

/** Why the screen rests or has stopped, in words for the person. */
export function reasonOf(code) {
  switch (code) {
    case IDLE:
      return "The screen was put to rest, because nothing was typed or clicked for a while. Your sign-in goes on.";
    case VIEWER_LIMIT:
      return "This view was closed: it was open for long, or too many windows show this sign-in.";
    case 4004:
      return "The machine is gone.";
    case 4005:
      return "The machine refuses to show its screen. Cancel, and start a new sign-in.";
    case POLICY_VIOLATION:
      return "The daemon does not let this page see the screen. Ask for a new link.";
    default:
      return "The screen has closed.";
  }
}

/** The pause before try `attempt`: doubling from half a second to four seconds, less up to a quarter. */
export function backoff(attempt, random) {
  const full = Math.min(FIRST_DELAY_MS * 2 ** Math.min(attempt, 16), MAX_DELAY_MS);
  return Math.round(full * (1 - 0.25 * random));
}
