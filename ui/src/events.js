// Follows a session's events and survives every interruption: reopens with a growing pause, and asks for the state itself when
// the stream is refused. Ends with the stream that brought a final state (the stages come before it, so a page opened late still
// shows the whole start), or after a refusal that asking again cannot change.

import { ApiError } from "./api.js";
import { backoff } from "./closing.js";
import { isOver } from "./session.js";

/**
 * Calls `onState(session, dateHeader?)`, `onStage(report)`, `onLink("live" | "lost")` and `onRefused()`.
 * Returns `refresh()`, which asks for the state now.
 */
export function followSession(api, { onState, onStage, onLink, onRefused }) {
  let attempt = 0;
  let over = false;
  let ended = false;
  let source = null;
  // What the stream said last; it tells every change in order.
  let told = null;

  function take(session, date) {
    if (ended || (over && !isOver(session.state))) return;
    over = isOver(session.state);
    onState(session, date);
  }

  function end() {
    ended = true;
    source?.close();
  }

  function open() {
    if (ended) return;
    source = api.events();
    source.addEventListener("open", () => {
      attempt = 0;
      onLink("live");
    });
    source.addEventListener("state", (event) => {
      told = JSON.parse(event.data);
      take(told);
      if (over) end();
    });
    source.addEventListener("stage", (event) => onStage(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      // The browser's own retry neither backs off nor tells a refusal from a loss, so this stream is given up.
      source.close();
      if (ended) return;
      if (over) return end();
      onLink("lost");
      refresh();
      setTimeout(open, backoff(attempt, Math.random()));
      attempt += 1;
    });
  }

  async function refresh() {
    const before = told;
    try {
      const { session, date } = await api.session();
      // An answer that was under way when the stream told something newer must not bring an older state back.
      take(told === before ? session : told, date);
    } catch (error) {
      if (error instanceof ApiError && error.refused && !ended) {
        end();
        onRefused();
      }
      // Anything else is a loss on the way; the event stream is being reopened and brings the state.
    }
  }

  refresh();
  open();
  return refresh;
}
