// What to do when the screen's WebSocket closes. Pure.
//
// Codes of RFC 6455 section 7.4, and the daemon's own: 4000 completed, 4001 failed, 4002 cancelled, 4003 expired, 4004 the machine
// is gone. Only a loss on the way is worth another try; a verdict of the daemon is final, and the session's state explains it.

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 10_000;
/** Policy violation: the daemon refused us (cookie or origin). Asking again would be refused again. */
const POLICY_VIOLATION = 1008;

/**
 * `{action: "stop"}` or `{action: "reconnect", delayMs}`.
 * `attempt` counts failed tries since the screen was last shown, from 0; `random` (0..1) spreads many viewers of one restarted daemon.
 */
export function afterClose({ code, sessionOver, attempt, random }) {
  if (sessionOver || code === POLICY_VIOLATION || (code >= 4000 && code <= 4999)) return { action: "stop" };
  return { action: "reconnect", delayMs: backoff(attempt, random) };
}

/** The pause before try `attempt`: doubling from half a second to ten seconds, less up to a quarter. */
export function backoff(attempt, random) {
  const full = Math.min(FIRST_DELAY_MS * 2 ** Math.min(attempt, 16), MAX_DELAY_MS);
  return Math.round(full * (1 - 0.25 * random));
}
