// The few things every part of the page needs from the document.

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element with a class and children (elements or text). */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

let pending = null;
let lastSpoken = 0;
const SPEAK_EVERY_MS = 2500;

/** Says a line to screen readers; of lines that follow each other quickly only the last is said. */
export function announce(text) {
  clearTimeout(pending);
  const wait = Math.max(0, lastSpoken + SPEAK_EVERY_MS - performance.now());
  pending = setTimeout(() => {
    lastSpoken = performance.now();
    byId("announce").textContent = text;
  }, wait);
}
