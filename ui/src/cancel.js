// The cancel button and its question. The daemon's answer is only whether it took the order; the new state comes as an event.

import { byId } from "./dom.js";
import { wordsOf } from "./words.js";

/** Wires the dialog to `cancel()`, a promise that fails with words for the person; calls `onClose()` when it is closed again. */
export function wireCancel(cancel, onClose) {
  const dialog = byId("cancel-dialog");
  const confirm = byId("cancel-confirm");
  const problem = byId("cancel-error");

  byId("cancel").addEventListener("click", () => {
    problem.hidden = true;
    confirm.disabled = false;
    dialog.showModal();
  });
  confirm.addEventListener("click", async () => {
    confirm.disabled = true;
    try {
      await cancel();
      dialog.close();
    } catch (error) {
      problem.textContent = wordsOf(error);
      problem.hidden = false;
      confirm.disabled = false;
    }
  });
  dialog.addEventListener("close", onClose);
  return { close: () => dialog.open && dialog.close() };
}
