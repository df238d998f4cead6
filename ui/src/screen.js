/*! Contains noVNC 1.7.0, MPL-2.0, source: npm package @novnc/novnc; pako, MIT and Zlib. The rest: Airlock, Apache-2.0. */
// The machine's screen: noVNC on a WebSocket of ours, so that close codes are seen (noVNC reports only clean or not).
//
//   connecting -> connected -> (lost) waiting -> connecting ...        stopped: after a verdict of the daemon or stop()
//
// A loss is followed by another try with a growing pause, or at once when the browser says it is online again. Until then the last
// picture stays on `still`, a canvas behind the screen, so that a short loss is not a black window.

import RFB from "@novnc/novnc";
import { afterClose } from "./closing.js";

/**
 * Keeps a screen in `target`. Calls `onPhase("connecting" | "connected" | "waiting" | "stopped", {code})`; asks `sessionOver()`.
 * Returns `{stop, focus}`.
 */
export function keepScreen(target, still, { open, onPhase, sessionOver }) {
  let rfb = null;
  let attempt = 0;
  let timer = null;
  let stopped = false;

  function connect() {
    timer = null;
    onPhase("connecting", {});
    const socket = open();
    // Registered before noVNC's own listener, which takes its canvas away.
    socket.addEventListener("close", (event) => closed(event.code), { once: true });
    rfb = new RFB(target, socket, { shared: true });
    rfb.scaleViewport = true;
    rfb.background = "transparent";
    rfb.addEventListener("connect", () => {
      attempt = 0;
      still.width = 0;
      onPhase("connected", {});
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

  addEventListener("online", () => {
    if (timer === null || stopped) return;
    clearTimeout(timer);
    connect();
  });

  connect();
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
      rfb?.disconnect();
      rfb = null;
    },
    focus() {
      rfb?.focus();
    },
  };
}
