import assert from "node:assert/strict";
import { test } from "node:test";
import { detailsOf, isOver, outcomeOf, statusText, viewOf } from "../src/session.js";

test("the screen is shown when it is connected and something is drawn on it", () => {
  assert.equal(viewOf({ state: "booting", connected: false, painted: false }), "boot");
  assert.equal(viewOf({ state: "booting", connected: true, painted: false }), "boot");
  assert.equal(viewOf({ state: "booting", connected: true, painted: true }), "screen");
  assert.equal(viewOf({ state: "awaiting_user", connected: false, painted: true }), "boot");
  assert.equal(viewOf({ state: "awaiting_user", connected: true, painted: false }), "screen");
  assert.equal(viewOf({ state: "capturing", connected: true, painted: true }), "screen");
});

test("a final state always shows its outcome", () => {
  for (const state of ["completed", "failed", "cancelled", "expired"]) {
    assert.ok(isOver(state));
    assert.equal(viewOf({ state, connected: true, painted: true }), "outcome");
    assert.ok(outcomeOf({ state }).title);
  }
  assert.ok(!isOver("capturing"));
  assert.equal(viewOf({ state: "refused", connected: false, painted: false }), "outcome");
});

test("a failure says what to do, names step, cause and evidence, and leaves out what is not known", () => {
  const failed = {
    state: "failed", stage: "link_found", cause: "link_missing", remedy: "load virtio_net", evidenceId: "ev-1",
    error: { code: "boot_failed", message: "The network card did not appear." },
  };
  const outcome = outcomeOf(failed);
  assert.equal(outcome.text, "The network card did not appear.");
  assert.deepEqual(outcome.facts.map(([term, value]) => [term, value]), [
    ["What to do", "Load virtio_net."], ["Failed step", "link_found"], ["Cause", "link_missing"], ["Evidence", "ev-1"],
  ]);
  assert.deepEqual(outcomeOf({ state: "failed" }).facts.map(([term]) => term), ["What to do"]);

  const verdict = { verdict: "driver_missing", stage: "link_found", summary: "No driver for the card.", remedy: "rebuild the image", evidenceId: "ev-1" };
  const judged = outcomeOf(failed, verdict);
  assert.equal(judged.text, "No driver for the card.");
  assert.deepEqual(judged.facts.map(([, value]) => value), ["Rebuild the image.", "link_found", "driver_missing", "ev-1"]);
  assert.equal(outcomeOf(failed, { ...verdict, verdict: "inconclusive" }).text, "The network card did not appear.");

  const details = detailsOf({ ...failed, sessionId: "s-1", vmId: "vm-1" }, judged);
  for (const part of ["s-1", "failed", "vm-1", "Rebuild the image.", "driver_missing", "ev-1"]) assert.ok(details.includes(part), part);
});

test("every state has a status line", () => {
  for (const state of ["queued", "starting", "booting", "awaiting_user", "capturing", "completed", "failed", "cancelled", "expired", "refused"]) {
    assert.notEqual(statusText(state), "Connecting", state);
  }
  assert.equal(statusText("queued", 3), "Waiting for a free machine, place 3");
  assert.equal(statusText("something newer"), "Connecting");
});
