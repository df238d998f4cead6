// The list of stages while the machine starts; the same list is the history on the outcome panel.

import { announce, byId, make } from "./dom.js";
import { doingOf, formatMoment, listOf } from "./stages.js";

const SPOKEN = { done: "done", failed: "failed", active: "in progress", waiting: "waiting" };

/**
 * Draws the list of `reports`; `over` once nothing more will come, `waiting` what a session in the queue waits for,
 * `bare` for a machine that has no screen to come.
 */
export function drawBoot(reports, { over, connected, waiting, bare }) {
  const list = listOf(reports, { over });
  byId("phases").replaceChildren(...list.phases.map(drawPhase));
  const progress = byId("boot-progress");
  progress.max = list.total;
  progress.value = list.done;
  progress.textContent = `${list.done} of ${list.total}`;
  byId("boot-title").textContent = bare ? "The machine is ready" : "Getting your private browser ready";
  byId("boot-lead").textContent = bare
    ? "It has no screen. It stays until somebody cancels it or its time is over."
    : "A fresh machine is starting, just for you. It is destroyed afterwards.";
  const now = bare ? "Ready" : waiting || nowText(list, connected);
  if (byId("boot-now").textContent !== now) {
    byId("boot-now").textContent = now;
    announce(now);
  }
}

function nowText(list, connected) {
  if (list.failed) return `Failed: ${doingOf(list.failed)}`;
  const phase = list.phases.find((one) => one.status === "active");
  if (list.done === 0 || !phase) return list.done === list.total && !connected ? "Connecting to the screen" : "Connecting";
  return phase.label;
}

function drawPhase(phase) {
  const time = make("span", "phase-time", phase.status === "done" ? formatMoment(phase.atMs) : "");
  const name = make("h2", "phase-name", make("span", "tick"), phase.label, time);
  const item = make("li", "phase", name, make("ol", "stages", ...phase.stages.map(drawStage)));
  item.dataset.status = phase.status;
  return item;
}

function drawStage(stage) {
  const label = make("span", "stage-label", stage.label, make("span", "visually-hidden", `, ${SPOKEN[stage.status]}`));
  const time = make("span", "stage-time", stage.status === "done" || stage.status === "failed" ? formatMoment(stage.atMs) : "");
  const item = make("li", "stage", make("span", "tick"), label, time);
  item.dataset.stage = stage.name;
  item.dataset.status = stage.status;
  item.title = stage.name;
  if (stage.status === "failed") {
    const why = [stage.errno, stage.detail].filter(Boolean).join(": ");
    if (why) item.append(make("p", "stage-why", why));
  }
  return item;
}
