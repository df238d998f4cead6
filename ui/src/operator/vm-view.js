// One machine: its verdict, timeline, facts and console. The verdict is asked for when the machine is opened and when its state
// changes, since a diagnosis looks at the host and is not free.

import { byId, make } from "../dom.js";
import { isOver } from "../session.js";
import { sentence } from "../words.js";
import { drawChart } from "./chart.js";
import { followConsole } from "./console-view.js";
import { cancelSession, destroyVm } from "./overview.js";
import { agoText, shortId, stateText, toneOf } from "./words.js";

/** Opens machine `id`; returns `{draw({vm, session}), close()}`. */
export function openVm(api, id, { now, changed }) {
  const closing = new AbortController();
  let diagnosed = "";
  let shown = {};

  byId("diagnosis-summary").textContent = "";
  byId("diagnosis-evidence").hidden = true;
  byId("console-state").textContent = "";
  byId("vm-state").textContent = "";
  byId("vm-title").textContent = `Machine ${shortId(id)}`;
  byId("timeline-rows").replaceChildren();
  byId("vm-facts").replaceChildren();
  byId("console").replaceChildren();
  byId("console-follow").checked = true;
  byId("console-follow").onchange = (event) => {
    if (event.target.checked) byId("console").scrollTop = byId("console").scrollHeight;
  };
  for (const button of ["vm-destroy", "vm-cancel"]) byId(button).hidden = true;
  byId("vm-destroy").onclick = () => destroyVm(shown.vm, api, changed);
  byId("vm-cancel").onclick = () => cancelSession(shown.session, api, changed);
  byId("diagnosis-again").onclick = () => diagnose();

  async function diagnose() {
    byId("diagnosis-again").disabled = true;
    if (!byId("diagnosis").dataset.tone) byId("diagnosis-summary").textContent = "Looking";
    try {
      const verdict = await api.diagnosis(id);
      if (!closing.signal.aborted) drawVerdict(verdict);
    } catch (error) {
      if (!closing.signal.aborted) drawVerdict({ verdict: "unknown", summary: error.message, remedy: error.remedy ?? "", evidence: [], also: [] });
    }
    byId("diagnosis-again").disabled = false;
  }

  async function timeline() {
    const stages = await api.timeline(id).catch(() => null);
    if (!stages || closing.signal.aborted) return;
    drawChart(byId("timeline-rows"), stages);
    byId("timeline").hidden = stages.length === 0;
    byId("timeline-none").hidden = stages.length > 0;
  }

  return {
    draw({ vm, session }) {
      shown = { vm, session };
      byId("vm-state").textContent = stateText(vm.state);
      byId("vm-state").dataset.tone = toneOf(vm.state);
      byId("vm-destroy").hidden = Boolean(vm.endedAt);
      byId("vm-cancel").hidden = !session || isOver(session.state);
      byId("vm-facts").replaceChildren(...factsOf(vm, session, now()).map(([term, value]) => make("div", "fact", make("dt", "", term), make("dd", "", value))));
      const key = `${vm.state} ${vm.stage === "ready"}`;
      const first = diagnosed === "";
      if (first) followConsole(api, id, closing.signal);
      if (diagnosed !== key) diagnose();
      // A machine that is gone has its whole timeline already.
      if (first || !vm.endedAt || diagnosed !== key) timeline();
      diagnosed = key;
    },
    close() {
      closing.abort();
      delete byId("diagnosis").dataset.tone;
      byId("diagnosis-facts").replaceChildren();
    },
  };
}

function drawVerdict(verdict) {
  const tone = { healthy: "good", inconclusive: "quiet", unknown: "quiet", reachable_but_pending: "busy" }[verdict.verdict] ?? "bad";
  byId("diagnosis").dataset.tone = tone;
  byId("diagnosis-summary").textContent = sentence(verdict.summary);
  const facts = [
    ["Verdict", code(verdict.verdict)], ["First missing stage", verdict.stage && code(verdict.stage)], ["What to do", verdict.verdict !== "healthy" && verdict.remedy],
    ["Also", verdict.also.length > 0 && code(verdict.also.join(", "))],
  ];
  byId("diagnosis-facts").replaceChildren(
    ...facts.filter(([, value]) => value).map(([term, value]) => make("div", "fact", make("dt", "", term), make("dd", "", value))),
  );
  byId("diagnosis-evidence").hidden = verdict.evidence.length === 0;
  byId("diagnosis-lines").replaceChildren(
    ...verdict.evidence.map((one) => make("li", "", make("span", "muted", one.line ? `line ${one.line}` : (one.source ?? "")), make("code", "", one.text))),
  );
}

function factsOf(vm, session, now) {
  const facts = [
    ["Failed", vm.error?.message],
    ["Evidence", vm.error?.evidenceId && code(vm.error.evidenceId)],
    ["User", session && `${session.userId} · ${session.provider} (${stateText(session.state)})`],
    ["Machine", code(vm.id)],
    ["Session", vm.sessionId && code(vm.sessionId)],
    ["Image", code(vm.image)],
    ["Driver", vm.driver],
    ["Address", code(vm.address)],
    ["MAC", code(vm.mac)],
    ["TAP", code(vm.tap)],
    ["Process", vm.pid && `${vm.pid}`],
    ["Planned", `${vm.createdAt} (${agoText(vm.createdAt, now)} ago)`],
    ["Gone", vm.endedAt && `${vm.endedAt} (${agoText(vm.endedAt, now)} ago)`],
  ];
  return facts.filter(([, value]) => value);
}

function code(text) {
  return make("code", "", text);
}
