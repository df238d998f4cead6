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

const SPEAK_EVERY_MS = 2500;
let waiting = [];
let timer = null;
let lastSpoken = 0;

/**
 * Says a line to screen readers, one after the other. Of lines that follow each other quickly only the last is said, apart from those
 * that are `important`.
 */
export function announce(text, { important = false } = {}) {
  waiting = [...waiting.filter((line) => line.important), { text, important }];
  timer ??= setTimeout(speak, Math.max(0, lastSpoken + SPEAK_EVERY_MS - performance.now()));
}

function speak() {
  lastSpoken = performance.now();
  byId("announce").textContent = waiting.shift().text;
  timer = waiting.length > 0 ? setTimeout(speak, SPEAK_EVERY_MS) : null;
}
