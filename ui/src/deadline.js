// The time that is left, and more of it.

import { countdown } from "./countdown.js";
import { announce, byId } from "./dom.js";
import { wordsOf } from "./words.js";

const SOON_MS = 120_000;

/**
 * Wires "More time" to `moreTime()`, a promise of the session with its new deadline. Returns `draw(session, now)`, where a session
 * that is over is `null`.
 */
export function wireDeadline({ moreTime, onSession, back }) {
  const clock = byId("countdown");
  const button = byId("more-time");
  let deadline = 0;
  let warned = false;

  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Asking…";
    try {
      const session = await moreTime();
      const won = Date.parse(session.deadline) - deadline;
      onSession(session);
      announce(won > 0 ? byId("countdown-spoken").textContent : "This sign-in cannot last any longer.");
    } catch (error) {
      announce(`There is no more time. ${wordsOf(error)}`, { important: true });
      button.title = wordsOf(error);
    }
    button.disabled = false;
    button.textContent = "More time";
    back();
  });

  return function draw(session, now) {
    const left = session ? countdown(session.deadline, now) : null;
    clock.hidden = !left;
    button.hidden = !left || session.moreTime === false || session.state === "queued";
    if (!left) return;
    deadline = Date.parse(session.deadline);
    clock.dataset.urgency = left.urgency;
    button.classList.toggle("primary", left.urgency !== "calm");
    byId("countdown-text").textContent = left.text;
    if (byId("countdown-spoken").textContent !== left.spoken) byId("countdown-spoken").textContent = left.spoken;
    const soon = deadline - now <= SOON_MS;
    if (soon && !warned) announce(button.hidden ? `${left.spoken}.` : `${left.spoken}. There is a button for more time at the top of the page.`, { important: true });
    warned = soon;
  };
}
