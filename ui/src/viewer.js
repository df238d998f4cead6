// Entry of the page: holds what is known, and lets each part draw it. `body` says it in attributes, for style and for tests:
//   data-state   the session's state, `loading` before the first answer, `refused` when link or session is not valid
//   data-view    boot | screen | outcome
//   data-screen  idle | connecting | connected | waiting | stopped
//   data-link    connecting | live | lost      (the event stream)
//   data-painted present once the machine's browser has drawn its page

import { sessionApi } from "./api.js";
import { drawBoot } from "./boot-view.js";
import { wireCancel } from "./cancel.js";
import { clockOffset, countdown } from "./countdown.js";
import { announce, byId } from "./dom.js";
import { followSession } from "./events.js";
import { drawHistory, drawOutcome } from "./outcome-view.js";
import { keepScreen } from "./screen.js";
import { isOver, statusText, viewOf } from "./session.js";
import { addReport, formatMoment, noReports } from "./stages.js";

const page = document.body.dataset;
const api = sessionApi(location);
let session = { state: "loading" };
let reports = noReports();
let serverAhead = 0;
let screen = null;
let shown = false;

const over = () => isOver(session.state) || session.state === "refused";
const now = () => Date.now() + serverAhead;

const refresh = followSession(api, {
  onState(next, date) {
    if (date) serverAhead = clockOffset(date, Date.now());
    session = next;
    if (over()) screen?.stop();
    else screen ??= startScreen();
    draw();
  },
  onStage(report) {
    reports = addReport(reports, report);
    if (reports.get("page_painted")?.ok) page.painted = "";
    draw();
  },
  onLink(link) {
    page.link = link;
    draw();
  },
  onRefused() {
    session = { ...session, state: "refused" };
    screen?.stop();
    draw();
  },
});

const cancelDialog = wireCancel(() => api.cancel(), focusScreen);
setInterval(drawClocks, 250);

function startScreen() {
  return keepScreen(byId("screen"), byId("still"), {
    open: () => api.screen(),
    sessionOver: over,
    onPhase(phase) {
      page.screen = phase;
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
  drawBoot(reports, { over: over(), connected: page.screen === "connected" });
  drawVeil();
  if (view === "outcome" && changedState) drawOutcome(session);
  drawHistory(reports);
  byId("boot").hidden = view !== "boot";
  byId("screen-section").hidden = view !== "screen";
  byId("outcome").hidden = view !== "outcome";
  if (changedState) announce(view === "outcome" ? "" : statusText(session.state, session.queuePosition));
  if (!changed) return;
  if (view === "screen") focusScreen();
  if (view === "outcome") {
    cancelDialog.close();
    byId("outcome-title").focus();
  }
}

function focusScreen() {
  if (page.view === "screen") screen?.focus();
}

function drawBar() {
  byId("provider").textContent = session.provider ? `Sign in to ${session.provider}` : "Sign in";
  byId("user").textContent = session.userId ? ` as ${session.userId}` : "";
  byId("status-text").textContent = page.link === "lost" && !over() ? "Connection lost, trying again" : statusText(session.state, session.queuePosition);
  byId("cancel").hidden = over() || session.state === "loading";
  document.title = `${statusText(session.state, session.queuePosition)} · Airlock`;
  const facts = [["Session", session.sessionId], ["Machine", session.vmId], ["Address", session.browserIP]];
  byId("foot").textContent = facts.filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join("  ·  ");
  drawClocks();
}

function drawVeil() {
  const text = veilText();
  byId("veil").hidden = !text;
  if (text && byId("veil-text").textContent !== text) announce(text);
  byId("veil-text").textContent = text;
}

function veilText() {
  if (session.state === "capturing") return "Signed in. Saving it safely…";
  if (page.screen === "stopped") return "The screen has closed.";
  return page.screen === "connected" ? "" : "Connection lost. Reconnecting…";
}

function drawClocks() {
  const left = over() ? null : countdown(session.deadline, now());
  const clock = byId("countdown");
  clock.hidden = !left;
  if (left) {
    clock.dataset.urgency = left.urgency;
    byId("countdown-text").textContent = left.text;
    if (byId("countdown-spoken").textContent !== left.spoken) byId("countdown-spoken").textContent = left.spoken;
  }
  const started = Date.parse(session.createdAt ?? "");
  byId("boot-clock").textContent = page.view === "boot" ? formatMoment(now() - started) : "";
}
