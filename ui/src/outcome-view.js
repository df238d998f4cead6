// The panel that ends every session: what happened, why, and what to do next.

import { announce, byId, make } from "./dom.js";
import { detailsOf, outcomeOf } from "./session.js";
import { doingOf } from "./stages.js";

let details = "";

/** Fills the panel from the session and the verdict on its machine, if there is one, and moves the list of stages below it. */
export function drawOutcome(session, verdict) {
  const outcome = outcomeOf(session, verdict);
  const text = byId("outcome-text");
  const isNew = text.textContent !== outcome.text;
  byId("outcome").dataset.tone = outcome.tone;
  byId("outcome-title").textContent = outcome.title;
  text.textContent = outcome.text;
  byId("outcome-facts").replaceChildren(...outcome.facts.map(drawFact));
  details = detailsOf(session, outcome);
  byId("outcome-details").hidden = outcome.tone !== "bad";
  byId("history").append(byId("phases"));
  // The title gets the focus and is read then; what is found out later is said.
  if (isNew && verdict) announce(outcome.text);
}

/** Wires the button that copies what a helper wants to know. */
export function wireOutcome() {
  const button = byId("outcome-copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(details);
      button.textContent = "Copied";
    } catch {
      // Refused by the browser: everything is on the page and can be copied by hand.
      getSelection().selectAllChildren(byId("outcome-facts"));
      button.textContent = "Selected: copy it with Ctrl+C";
    }
  });
}

/** Shows the history below the panel if there is one; opens it, once, if it shows what failed. The stages may come after the state. */
export function drawHistory(reports) {
  const history = byId("history");
  history.hidden = reports.size === 0;
  if ("opened" in history.dataset || ![...reports.values()].some((report) => !report.ok)) return;
  history.dataset.opened = "";
  history.open = true;
}

function drawFact([term, value, kind]) {
  const content = make("dd", "");
  if (kind === "stage") content.append(doingOf(value), " ", make("code", "", value));
  else if (kind) content.append(make("code", "", value));
  else content.append(value);
  return make("div", "fact", make("dt", "", term), content);
}
