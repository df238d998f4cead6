// The question before anything is ended. The dialog stays open with the reason where the daemon refuses.

import { byId } from "../dom.js";
import { wordsOf } from "../words.js";

/** Asks; runs `go()` on yes. Returns whether it was done. */
export function confirmThen({ title, text, label }, go) {
  const dialog = byId("confirm");
  const button = byId("confirm-go");
  const problem = byId("confirm-error");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  button.textContent = label;
  button.disabled = false;
  problem.hidden = true;
  let done = false;

  button.onclick = async () => {
    button.disabled = true;
    button.textContent = `${label}…`;
    try {
      await go();
      done = true;
      dialog.close();
    } catch (error) {
      problem.textContent = wordsOf(error);
      problem.hidden = false;
      button.textContent = label;
      button.disabled = false;
    }
  };
  dialog.showModal();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(done), { once: true }));
}
