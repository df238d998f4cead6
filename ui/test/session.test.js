import assert from "node:assert/strict";
import { test } from "node:test";
import { isOver, outcomeOf, statusText, viewOf } from "../src/session.js";

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

test("a failure names cause, step, remedy and evidence, and leaves out what is not known", () => {
  const outcome = outcomeOf({
    state: "failed", stage: "link_found", cause: "link_missing", remedy: "load virtio_net", evidenceId: "ev-1",
    error: { code: "boot_failed", message: "The network card did not appear." },
  });
  assert.equal(outcome.text, "The network card did not appear.");
  assert.deepEqual(outcome.facts.map(([term, value]) => [term, value]), [
    ["What to do", "load virtio_net"], ["Cause", "link_missing"], ["Failed step", "link_found"], ["Evidence", "ev-1"],
  ]);
  assert.deepEqual(outcomeOf({ state: "failed" }).facts, []);
});

test("every state has a status line", () => {
  for (const state of ["queued", "starting", "booting", "awaiting_user", "capturing", "completed", "failed", "cancelled", "expired", "refused"]) {
    assert.notEqual(statusText(state), "Connecting", state);
  }
  assert.equal(statusText("queued", 3), "Waiting for a free machine, place 3");
  assert.equal(statusText("something newer"), "Connecting");
});
