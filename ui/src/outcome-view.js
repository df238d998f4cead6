// The panel that ends every session: what happened, why, and what to do next.

import { byId, make } from "./dom.js";
import { outcomeOf } from "./session.js";
import { doingOf } from "./stages.js";

/** Fills the panel from the session and moves the list of stages below it. */
export function drawOutcome(session) {
  const outcome = outcomeOf(session);
  byId("outcome").dataset.tone = outcome.tone;
  byId("outcome-title").textContent = outcome.title;
  byId("outcome-text").textContent = outcome.text;
  byId("outcome-facts").replaceChildren(...outcome.facts.map(drawFact));
  byId("history").append(byId("phases"));
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
  if (kind === "copy" && navigator.clipboard) content.append(copyButton(value));
  return make("div", "fact", make("dt", "", term), content);
}

function copyButton(value) {
  const button = make("button", "button small", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value);
      button.textContent = "Copied";
    } catch {
      // Refused by the browser: the id is on the page and can be selected by hand.
      button.textContent = "Select it by hand";
    }
  });
  return button;
}
