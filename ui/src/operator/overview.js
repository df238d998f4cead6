// Sign-ins and machines, what lives first.

import { byId, make } from "../dom.js";
import { countdown } from "../countdown.js";
import { isOver } from "../session.js";
import { confirmThen } from "./confirm.js";
import { drawRows, fillRow, makeRow, say } from "./rows.js";
import { agoText, imageText, shortId, stateText, toneOf } from "./words.js";

/** Ended ones that are shown; the command line has all. */
const LATEST = 25;

/** Draws the overview; `changed()` is called after something was ended. */
export function drawOverview({ sessions, vms }, { api, now, changed }) {
  const liveSessions = sessions.filter((one) => !isOver(one.state));
  const liveVms = vms.filter((vm) => !vm.endedAt);
  const troubled = vms.filter((vm) => vm.state === "needs_attention").length;
  const waiting = liveSessions.filter((one) => one.state === "awaiting_user").length;
  const counts = [
    ["open sign-ins", liveSessions.length], ["waiting for a person", waiting], ["live machines", liveVms.length], ["need attention", troubled],
  ];
  drawRows(byId("counts"), counts, {
    keyOf: ([name]) => name,
    create: ([name]) => make("li", "count", make("span", "count-number"), make("span", "muted", name)),
    update(element, [name, number]) {
      say(element.firstElementChild, `${number}`);
      element.dataset.tone = name === "need attention" && number > 0 ? "bad" : "quiet";
    },
  });

  drawRows(byId("sessions"), liveFirst(sessions, liveSessions), {
    keyOf: (session) => session.sessionId,
    create: (session) => makeRow({ href: `#/vm/${session.vmId}`, action: "Cancel", onAction: (one) => cancelSession(one, api, changed) }),
    update: (row, session) => fillRow(row, session, sessionRow(session, now)),
  });
  byId("sessions-none").hidden = sessions.length > 0;

  drawRows(byId("vms"), liveFirst(vms, liveVms), {
    keyOf: (vm) => vm.id,
    create: (vm) => makeRow({ href: `#/vm/${vm.id}`, action: "Destroy", onAction: (one) => destroyVm(one, api, changed) }),
    update: (row, vm) => fillRow(row, vm, vmRow(vm, now)),
  });
  byId("vms-none").hidden = vms.length > 0;
}

function liveFirst(all, live) {
  return [...live, ...all.filter((one) => !live.includes(one)).slice(0, LATEST)];
}

/** How far it came; of one that came all the way its state says enough. */
function stageText(stage) {
  return stage && stage !== "ready" ? `at ${stage}` : "";
}

function sessionRow(session, now) {
  const over = isOver(session.state);
  const place = session.queuePosition ? `place ${session.queuePosition}` : "";
  const left = over ? null : countdown(session.deadline, now);
  return {
    tone: toneOf(session.state),
    title: `${session.userId} · ${session.provider}`,
    state: stateText(session.state),
    sub: [place, session.cause, stageText(session.stage), `machine ${shortId(session.vmId)}`].filter(Boolean).join(" · "),
    note: left ? `${left.text} left` : `${agoText(session.endedAt ?? session.createdAt, now)} ago`,
    canAct: !over,
  };
}

function vmRow(vm, now) {
  return {
    tone: toneOf(vm.state),
    title: shortId(vm.id),
    state: stateText(vm.state),
    sub: [vm.error?.cause, stageText(vm.stage), vm.address, imageText(vm.image)].filter(Boolean).join(" · "),
    note: vm.endedAt ? `${agoText(vm.endedAt, now)} ago` : `up ${agoText(vm.createdAt, now)}`,
    canAct: !vm.endedAt,
  };
}

/** Asks and cancels a session. */
export async function cancelSession(session, api, changed) {
  const question = {
    title: "Cancel this sign-in?",
    text: `${session.userId} is signing in to ${session.provider}. The machine is destroyed and nothing is saved.`,
    label: "Cancel sign-in",
  };
  if (await confirmThen(question, () => api.cancelSession(session.sessionId))) changed();
}

/** Asks and destroys a machine. */
export async function destroyVm(vm, api, changed) {
  const question = {
    title: `Destroy machine ${shortId(vm.id)}?`,
    text: "Its session becomes cancelled. Whoever sits in front of it loses the screen at once.",
    label: "Destroy",
  };
  if (await confirmThen(question, () => api.destroyVm(vm.id))) changed();
}
