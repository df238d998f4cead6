// The screen larger than the window, for windows that are smaller than the machine. noVNC scales to the element it is in, so a larger
// element in a view that scrolls is all it takes. What is dragged reaches the machine, unless "Move" is pressed: then it scrolls.

import { announce, byId } from "./dom.js";

const WIDTH = 1280;
const HEIGHT = 800;
/** Below this scale text on the screen cannot be read. */
const READABLE = 0.5;

/** The scale that fits a view, and the one of the zoom: as high as the view, and half as large again at least. Pure. */
export function scalesOf({ width, height }) {
  const fit = Math.min(width / WIDTH, height / HEIGHT);
  return { fit, zoomed: Math.max(fit * 1.5, Math.min(1, height / HEIGHT)) };
}

/** Wires the buttons. Returns `start()`, which begins zoomed where the screen would be too small to read. */
export function wireZoom() {
  const view = byId("scroller");
  const zoom = byId("tool-zoom");
  const move = byId("tool-move");
  let started = false;

  zoom.addEventListener("click", () => {
    set(!("zoom" in view.dataset));
    announce("zoom" in view.dataset ? "The screen is larger than the window" : "The screen fits the window");
  });
  move.addEventListener("click", () => setMove(!("move" in view.dataset)));
  new ResizeObserver(() => "zoom" in view.dataset && size()).observe(view);

  function set(on) {
    view.toggleAttribute("data-zoom", on);
    zoom.setAttribute("aria-pressed", on);
    move.hidden = !on;
    // Only what scrolls is a stop of the Tab key; there the arrow keys scroll it.
    if (on) view.tabIndex = 0;
    else view.removeAttribute("tabindex");
    if (on) size();
    else setMove(false);
  }

  function setMove(on) {
    view.toggleAttribute("data-move", on);
    move.setAttribute("aria-pressed", on);
  }

  /** What is in the middle stays there. */
  function size() {
    const middle = (view.scrollLeft + view.clientWidth / 2) / view.scrollWidth;
    const { zoomed } = scalesOf({ width: view.clientWidth, height: view.clientHeight });
    view.style.setProperty("--zoom-width", `${Math.round(WIDTH * zoomed)}px`);
    view.style.setProperty("--zoom-height", `${Math.round(HEIGHT * zoomed)}px`);
    view.scrollLeft = middle * view.scrollWidth - view.clientWidth / 2;
  }

  return function start() {
    if (started) return;
    started = true;
    if (scalesOf({ width: view.clientWidth, height: view.clientHeight }).fit < READABLE) set(true);
  };
}
