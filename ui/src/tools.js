// The tools below the screen: panels that open and close, the zoom, the keyboard of a phone, and the key that leaves the screen.

import { announce, byId } from "./dom.js";

/** Wires them. `screen()` is the screen or null, `focus(asked)` gives it the keyboard. Returns `{leave(), closePanels()}`. */
export function wireTools({ screen, focus }) {
  const panels = [["tool-clipboard", "clip-panel"], ["tool-keys", "screen-keys"]];
  for (const [tool, panel] of panels) byId(tool).addEventListener("click", () => toggle(tool, panel));
  byId("clip-close").addEventListener("click", () => close("tool-clipboard", "clip-panel"));
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

  const zoom = byId("tool-zoom");
  const move = byId("tool-move");
  zoom.addEventListener("click", () => {
    const large = zoom.getAttribute("aria-pressed") !== "true";
    zoom.setAttribute("aria-pressed", large);
    move.hidden = !large;
    drag(large && matchMedia("(pointer: coarse)").matches);
    screen()?.zoom(large);
    announce(large ? "The screen has its own size" : "The screen fits the window");
  });
  move.addEventListener("click", () => drag(move.getAttribute("aria-pressed") !== "true"));

  function drag(on) {
    move.setAttribute("aria-pressed", on);
    screen()?.drag(on);
  }

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
    /** Gives a screen that was connected anew what was chosen before. */
    restore() {
      screen()?.zoom(zoom.getAttribute("aria-pressed") === "true");
      screen()?.drag(!move.hidden && move.getAttribute("aria-pressed") === "true");
    },
  };
}
