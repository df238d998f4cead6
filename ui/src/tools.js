// The tools below the screen: panels that open and close, the keyboard of a phone, and the key that leaves the screen.

import { announce, byId } from "./dom.js";

/** Wires them; `focus(asked)` gives the keyboard to the screen. Returns `{leave()}`. */
export function wireTools({ focus }) {
  // Who uses a tool with the mouse goes on typing where they were.
  byId("tools").addEventListener("mousedown", (event) => event.preventDefault());
  const panels = [["tool-clipboard", "clip-panel"], ["tool-keys", "screen-keys"]];
  for (const [tool, panel] of panels) byId(tool).addEventListener("click", () => toggle(tool, panel));
  byId("clip-close").addEventListener("click", (event) => {
    close("tool-clipboard", "clip-panel");
    // Whoever closed it with the mouse or a finger goes on at the screen.
    if (event.detail > 0) focus();
  });
  byId("clip-panel").addEventListener("keydown", (event) => {
    if (event.key === "Escape") close("tool-clipboard", "clip-panel");
  });

  function toggle(tool, panel, open = byId(panel).hidden) {
    byId(panel).hidden = !open;
    byId(tool).setAttribute("aria-expanded", open);
    delete byId(tool).dataset.news;
    if (open && panel === "clip-panel") byId("clip-in").focus();
  }

  function close(tool, panel) {
    toggle(tool, panel, false);
    byId(tool).focus();
  }

  byId("tool-keyboard").addEventListener("click", () => {
    // A field that has the focus already does not bring the keyboard back.
    byId("keys-in").blur();
    byId("keys-in").focus();
  });

  // On the way back: the same key that left the screen.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "F6" || event.defaultPrevented || document.body.dataset.view !== "screen" || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    focus(true);
  });

  return {
    /** Moves the keyboard from the screen to the page. */
    leave() {
      byId("tool-clipboard").focus();
      announce("You left the screen. F6 goes back to it.");
    },
  };
}
