// Keys that a phone does not have. Ctrl, Alt and Shift stay down until the next other key, from wherever it comes.

import { byId } from "./dom.js";
import { KEYS } from "./typing.js";

/** Wires the row of keys to `send(keysym, code, down?)`. Returns `release()`, which lets go of what is down. */
export function wireScreenKeys(send) {
  const row = byId("screen-keys");
  const modifiers = [...row.querySelectorAll("[data-modifier]")];

  // The field keeps the focus, so that a phone's own keyboard stays.
  row.addEventListener("mousedown", (event) => event.preventDefault());
  row.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const key = KEYS[button.dataset.key];
    if ("modifier" in button.dataset) {
      hold(button, button.getAttribute("aria-pressed") !== "true");
    } else {
      send(...key);
      release();
    }
  });

  function hold(button, down) {
    button.setAttribute("aria-pressed", down);
    send(...KEYS[button.dataset.key], down);
  }

  function release() {
    for (const button of modifiers) if (button.getAttribute("aria-pressed") === "true") hold(button, false);
  }
  return release;
}
