import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { isBare } from "../src/session.js";
import { STAGE_NAMES, addReport, doingOf, formatMoment, listOf, noReports } from "../src/stages.js";

const reach = (names, reports = noReports()) =>
  names.reduce((all, stage, i) => addReport(all, { stage, ok: true, atMs: i * 100 }), reports);

test("the stages are those of the protocol, in its order", () => {
  const source = readFileSync(new URL("../../common/protocol/src/stage.rs", import.meta.url), "utf8");
  const names = [...source.matchAll(/= "([a-z_]+)" by /g)].map((match) => match[1]);
  assert.ok(names.length > 20);
  assert.deepEqual(STAGE_NAMES, names);
  assert.ok(STAGE_NAMES.every((name) => doingOf(name) !== name));
});

test("the first missing stage is the active one", () => {
  const list = listOf(reach(["planned", "leased", "disk_ready"]));
  assert.equal(list.active, "tap_up");
  assert.equal(list.done, 3);
  assert.deepEqual(list.phases[0].stages.map((s) => s.status), ["done", "done", "active", "done", "waiting"]);
  assert.equal(list.phases[0].status, "active");
  assert.equal(list.phases[0].stages[2].label, "Plugging in the network cable");
  assert.equal(list.phases[1].status, "waiting");
});

test("a replay after a reconnect changes nothing", () => {
  const reports = reach(["planned", "leased"]);
  assert.equal(addReport(reports, { stage: "leased", ok: true, atMs: 9999 }), reports);
});

test("a failure stays and nothing is active behind it", () => {
  let reports = reach(STAGE_NAMES.slice(0, 9));
  reports = addReport(reports, { stage: "link_found", ok: false, atMs: 2300, errno: "ENODEV" });
  reports = addReport(reports, { stage: "link_found", ok: true, atMs: 2400 });
  const list = listOf(reports);
  assert.equal(list.failed, "link_found");
  assert.equal(list.active, undefined);
  const stage = list.phases[2].stages[0];
  assert.deepEqual([stage.status, stage.errno, list.phases[2].status], ["failed", "ENODEV", "failed"]);
  assert.equal(stage.label, "Finding the network card");
});

test("a stage that was reached and failed later shows the failure", () => {
  let reports = reach(["planned"]);
  reports = addReport(reports, { stage: "planned", ok: false, atMs: 5 });
  assert.equal(listOf(reports).failed, "planned");
});

test("unknown stages are ignored and a complete boot is done", () => {
  let reports = addReport(noReports(), { stage: "warp_drive", ok: true, atMs: 1 });
  assert.equal(reports.size, 0);
  reports = reach(STAGE_NAMES);
  const list = listOf(reports);
  assert.equal(list.active, undefined);
  assert.ok(list.phases.every((phase) => phase.status === "done"));
  assert.deepEqual([list.phases[0].atMs, list.phases.at(-1).atMs], [400, 2100]);
});

test("a machine without a browser is ready without one", () => {
  const names = STAGE_NAMES.filter((name) => !["display_up", "browser_up", "page_painted"].includes(name));
  const list = listOf(reach(names));
  assert.deepEqual([list.done, list.total, list.active], [names.length, names.length, undefined]);
  assert.ok(!list.phases.some((phase) => phase.name === "browser"));
  assert.ok(isBare({ state: "awaiting_user", reports: reach(names) }));
  assert.ok(!isBare({ state: "awaiting_user", reports: reach(STAGE_NAMES) }));
  assert.ok(!isBare({ state: "awaiting_user", reports: reach(names.slice(0, 5)) }));
});

test("nothing is active once the session is over", () => {
  assert.equal(listOf(reach(["planned"]), { over: true }).active, undefined);
});

test("moments read like a stopwatch", () => {
  assert.deepEqual([0, 124, 999, 8440, 59_960, 63_000, NaN, undefined].map(formatMoment), [
    "0.00 s", "0.12 s", "1.0 s", "8.4 s", "1 min 00 s", "1 min 03 s", "", "",
  ]);
});
