// The console of one machine, live. It begins with the tail the daemon sends and is followed until the machine is gone; after a lost
// connection the tail is asked for anew. Only the last lines are kept.

import { ApiError } from "../api.js";
import { backoff } from "../closing.js";
import { byId, make } from "../dom.js";
import { kindOfLine, lineSplitter } from "./stream.js";

const MOST_LINES = 3000;

/** Follows the console of `vm` until `signal` is aborted. */
export async function followConsole(api, vm, signal) {
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    const box = byId("console");
    try {
      say("Connecting");
      const reader = await api.console(vm, signal);
      box.replaceChildren();
      say("Live");
      attempt = 0;
      await copy(reader, box);
      return say(box.childElementCount > 0 ? "The machine is gone; this is the end of it" : "It wrote nothing");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status < 500) return say(error.message);
      say("Connection lost, trying again");
    }
    await pause(backoff(attempt, Math.random()), signal);
  }
}

async function copy(reader, box) {
  const decoder = new TextDecoder();
  const splitter = lineSplitter();
  const open = make("div", "console-line");
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = splitter.take(decoder.decode(value, { stream: true }));
    open.remove();
    // Stage reports begin on a fresh line each, which leaves empty ones between them.
    box.append(...lines.filter((line) => line !== "").slice(-MOST_LINES).map(drawLine));
    open.textContent = splitter.rest();
    if (open.textContent) box.append(open);
    while (box.childElementCount > MOST_LINES) box.firstElementChild.remove();
    if (byId("console-follow").checked) box.scrollTop = box.scrollHeight;
  }
}

function drawLine(line) {
  const element = make("div", "console-line", line);
  element.dataset.kind = kindOfLine(line);
  return element;
}

function say(text) {
  byId("console-state").textContent = text;
}

function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}
