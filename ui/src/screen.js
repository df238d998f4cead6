/*! Contains noVNC 1.7.0, MPL-2.0, source: npm package @novnc/novnc; pako, MIT and Zlib. The rest: Airlock, Apache-2.0. */
// The machine's screen: noVNC on a WebSocket of ours, so that close codes are seen (noVNC reports only clean or not).
//
//   connecting -> connected -> (lost) waiting -> connecting ...        stopped: after a verdict of the daemon or stop()
//                           -> (idle, too long) resting -> resume()
//
// A loss is followed by another try with a growing pause, or at once when there is a sign that the way is free again. Until then the last
// picture stays on `still`, a canvas behind the screen, so that a short loss is not a black window.
//
// The machine's screen keeps its size (1280x800) and is scaled to the window: two viewers of one session would otherwise fight for
// it, and a browser under emulation needs seconds to lay its page out again. zoom.js shows it larger.

import RFB from "@novnc/novnc";
import { afterClose } from "./closing.js";
import { KEYS, keysymsOf } from "./typing.js";

/** A machine that is slow asks for a pasted text as late as this. */
const ASKED_WITHIN_MS = 10_000;

/**
 * Keeps a screen in `target`. Calls `onPhase("connecting" | "connected" | "waiting" | "resting" | "stopped", {code})` and
 * `onCopied(text)`, which returns whether that was a copy and not only a selection; asks `sessionOver()`.
 */
export function keepScreen(target, still, { open, onPhase, onCopied, sessionOver }) {
  let rfb = null;
  let attempt = 0;
  let timer = null;
  let stopped = false;
  let resting = false;
  let pasted = "";
  let pastedAt = -Infinity;

  function connect() {
    timer = null;
    resting = false;
    onPhase("connecting", {});
    const socket = open();
    // Registered before noVNC's own listener, which takes its canvas away.
    socket.addEventListener("close", (event) => closed(event.code), { once: true });
    rfb = new RFB(target, socket, { shared: true });
    rfb.scaleViewport = true;
    rfb.background = "transparent";
    // The field of keyboard.js has the focus, not noVNC's canvas.
    rfb.focusOnClick = false;
    rfb.addEventListener("connect", () => {
      attempt = 0;
      still.width = 0;
      onPhase("connected", {});
    });
    rfb.addEventListener("clipboard", (event) => {
      if (onCopied(event.detail.text)) pastedAt = -Infinity;
      // Whatever the machine sends makes noVNC forget what we put there, also while the machine is about to ask for it. Later the text may
      // be another viewer's, and is left alone.
      else if (performance.now() - pastedAt < ASKED_WITHIN_MS) rfb?.clipboardPasteFrom(pasted);
    });
    // The daemon authenticates to the machine; a screen that asks us for a password cannot be used.
    rfb.addEventListener("credentialsrequired", () => rfb?.disconnect());
  }

  function closed(code) {
    keepPicture();
    rfb = null;
    if (stopped) return;
    const next = afterClose({ code, sessionOver: sessionOver(), attempt, random: Math.random() });
    if (next.action === "stop") {
      stopped = true;
      onPhase("stopped", { code });
      return;
    }
    if (next.action === "rest") {
      resting = true;
      onPhase("resting", { code });
      return;
    }
    attempt += 1;
    onPhase("waiting", { code });
    timer = setTimeout(connect, next.delayMs);
  }

  function keepPicture() {
    const canvas = target.querySelector("canvas");
    if (!canvas?.width) return;
    still.width = canvas.width;
    still.height = canvas.height;
    still.getContext("2d").drawImage(canvas, 0, 0);
  }

  /** Tries at once, if it waits for its next try. */
  function retry() {
    if (timer === null || stopped) return;
    clearTimeout(timer);
    connect();
  }

  addEventListener("online", retry);
  connect();
  const screen = {
    stop() {
      stopped = true;
      clearTimeout(timer);
      rfb?.disconnect();
      rfb = null;
    },
    retry,
    /** Connects again after a rest. */
    resume() {
      if (resting && !stopped) connect();
    },
    /** noVNC's canvas, which takes key events. */
    canvas: () => target.querySelector("canvas"),
    /** Presses a key, or only one half of it. */
    send(keysym, code, down) {
      rfb?.sendKey(keysym, code, down);
    },
    /** Types a short text at once. */
    type(text) {
      for (const keysym of keysymsOf(text)) screen.send(keysym, null);
    },
    /** Presses Ctrl and a letter. */
    pressControl(letter) {
      screen.send(...KEYS.Control, true);
      screen.send(letter.codePointAt(0), null);
      screen.send(...KEYS.Control, false);
    },
    /** Puts a text on the machine's clipboard. */
    paste(text) {
      pasted = text;
      pastedAt = performance.now();
      rfb?.clipboardPasteFrom(text);
    },
  };
  return screen;
}
