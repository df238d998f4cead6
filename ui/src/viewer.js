// Entry of the page: holds what is known, and lets each part draw it. `body` says it in attributes, for style and for tests:
//   data-state   the session's state, `loading` before the first answer, `refused` when link or session is not valid
//   data-view    boot | screen | outcome
//   data-screen  idle | connecting | connected | waiting | resting | stopped
//   data-link    connecting | live | lost      (the event stream)
//   data-painted present once the machine's browser has drawn its page

import { sessionApi } from "./api.js";
import { drawBoot } from "./boot-view.js";
import { wireCancel } from "./cancel.js";
import { wireClipboard } from "./clipboard.js";
import { reasonOf } from "./closing.js";
import { clockOffset } from "./countdown.js";
import { wireDeadline } from "./deadline.js";
import { announce, byId } from "./dom.js";
import { followSession } from "./events.js";
import { wireKeyboard } from "./keyboard.js";
import { wireLogin } from "./login-panel.js";
import { drawHistory, drawOutcome, wireOutcome } from "./outcome-view.js";
import { wireScreenKeys } from "./screen-keys.js";
import { isBare, isOver, statusText, toolOf, viewOf } from "./session.js";
import { addReport, formatMoment, noReports } from "./stages.js";
import { wireTools } from "./tools.js";
import { wireZoom } from "./zoom.js";

const page = document.body.dataset;
const api = sessionApi(location);
const isTouch = matchMedia("(pointer: coarse)").matches;
let session = { state: "loading" };
let reports = noReports();
let serverAhead = 0;
let screen = null;
let screenAsked = false;
let shown = false;
let closeCode = 0;
let verdict = null;

const over = () => isOver(session.state) || session.state === "refused";
const now = () => Date.now() + serverAhead;
/** The screen while it can take something. */
const usable = () => (page.screen === "connected" ? screen : null);
const back = () => focusScreen();

const refresh = followSession(api, {
  onState(next, date) {
    if (date) serverAhead = clockOffset(date, Date.now());
    take(next);
  },
  onStage(report) {
    reports = addReport(reports, report);
    if (reports.get("page_painted")?.ok) page.painted = "";
    draw();
  },
  onLink(link) {
    page.link = link;
    if (link === "live") screen?.retry();
    draw();
  },
  onRefused() {
    session = { ...session, state: "refused" };
    screen?.stop();
    draw();
  },
});

const cancelDialog = wireCancel(() => api.cancel(), back);
const drawDeadline = wireDeadline({ moreTime: () => api.moreTime(), onSession: take, back });
const drawLogin = wireLogin({ sendCode: (code) => api.sendCode(code), retry: () => api.retry(), screen: usable, back });
const clipboard = wireClipboard({ screen: usable, back });
const tools = wireTools({ focus: focusScreen });
const startZoom = wireZoom();
const send = (...key) => usable()?.send(...key);
const releaseKeys = wireScreenKeys(send);
const keysIn = byId("keys-in");
wireKeyboard(keysIn, {
  send,
  canvas: () => usable()?.canvas() ?? null,
  paste: clipboard.paste,
  machineIsNewer: clipboard.machineIsNewer,
  leave: tools.leave,
  typed(key) {
    clipboard.pressed(key);
    releaseKeys();
  },
});
wireOutcome();
byId("resume").addEventListener("click", () => screen?.resume());
// A tap must not bring a phone's keyboard up; the button "Keyboard" does.
byId("screen").addEventListener("pointerdown", (event) => event.pointerType !== "touch" && focusScreen(true));
byId("screen").addEventListener("focusin", () => focusScreen(true));
// A phone's keyboard takes room away without a resize of the page where the browser does not resize it.
visualViewport?.addEventListener("resize", () => document.body.style.setProperty("--height", `${visualViewport.height}px`));
setInterval(drawClocks, 250);

function take(next) {
  session = next;
  if (over()) screen?.stop();
  else if (!screenAsked) startScreen();
  draw();
}

/** Loads noVNC, which tries the browser's video decoder first: the stages must not wait for that. */
async function startScreen() {
  screenAsked = true;
  const { keepScreen } = await import("./screen.js");
  if (over()) return;
  screen = keepScreen(byId("screen"), byId("still"), {
    open: () => api.screen(),
    sessionOver: over,
    onCopied: (text) => clipboard.copied(text),
    onPhase(phase, { code }) {
      page.screen = phase;
      closeCode = code ?? closeCode;
      // A verdict may arrive here before its event; the state says what it was.
      if (phase === "stopped") refresh();
      draw();
      // Who typed before the loss goes on typing; who moved elsewhere on the page stays there.
      if (phase === "connected" && document.activeElement === document.body) focusScreen();
    },
  });
}

function draw() {
  const view = viewOf({ state: session.state, connected: page.screen === "connected" || shown, painted: "painted" in page });
  if (view === "screen") shown = true;
  const changed = page.view !== view;
  const changedState = page.state !== session.state;
  page.state = session.state;
  page.view = view;
  drawBar();
  const bare = isBare({ state: session.state, reports });
  const waiting = session.state === "queued" ? statusText("queued", session.queuePosition) : "";
  drawBoot(reports, { over: over(), connected: page.screen === "connected", waiting, bare });
  drawVeil();
  drawLogin(over() ? null : session.login);
  if (view === "outcome" && changedState) drawOutcome(session, verdict);
  drawHistory(reports);
  byId("boot").hidden = view !== "boot";
  byId("screen-section").hidden = view !== "screen";
  byId("outcome").hidden = view !== "outcome";
  if (changedState) announce(view === "outcome" ? "" : statusText(session.state, session.queuePosition));
  if (changedState && session.state === "failed") findVerdict();
  if (!changed) return;
  if (view === "screen") {
    startZoom();
    focusScreen();
  }
  if (view === "outcome") {
    cancelDialog.close();
    byId("outcome-title").focus();
  }
}

/** Asks for the verdict in plain words. Without one the session's own words stay. */
async function findVerdict() {
  try {
    verdict = await api.verdict();
    drawOutcome(session, verdict);
  } catch {
    // The session's failure is on the page already.
  }
}

/** Gives the keyboard to the screen; `asked` if the person did so, which on a phone brings its keyboard up. */
function focusScreen(asked = false) {
  if (page.view === "screen" && (asked || !isTouch)) keysIn.focus({ preventScroll: true });
}

function drawBar() {
  const tool = toolOf(session);
  byId("provider").textContent = tool ? `Sign in to ${tool}` : "Sign in";
  byId("user").textContent = session.userId ? ` as ${session.userId}` : "";
  const status = isBare({ state: session.state, reports }) ? "Ready" : statusText(session.state, session.queuePosition);
  byId("status-text").textContent = page.link === "lost" && !over() ? "Connection lost, trying again" : status;
  byId("cancel").hidden = over() || session.state === "loading";
  document.title = `${status} · Airlock`;
  const facts = [["Session", session.sessionId], ["Machine", session.vmId], ["Address", session.browserIP]];
  byId("foot").textContent = facts.filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join("  ·  ");
  drawClocks();
}

function drawVeil() {
  const text = veilText();
  byId("veil").hidden = !text;
  byId("resume").hidden = page.screen !== "resting";
  if (text && byId("veil-text").textContent !== text) announce(text);
  byId("veil-text").textContent = text;
}

function veilText() {
  if (session.state === "capturing") return "Signed in. Saving it safely…";
  if (page.screen === "stopped" || page.screen === "resting") return reasonOf(closeCode);
  return page.screen === "connected" ? "" : "Connection lost. Reconnecting…";
}

function drawClocks() {
  drawDeadline(over() ? null : session, now());
  const started = Date.parse(session.createdAt ?? "");
  byId("boot-clock").textContent = page.view === "boot" ? formatMoment(now() - started) : "";
}
