import assert from "node:assert/strict";
import { test } from "node:test";
import { clockOffset, countdown } from "../src/countdown.js";

const NOW = Date.parse("2026-11-23T10:00:00Z");
const at = (iso) => countdown(iso, NOW);

test("counts down to the deadline", () => {
  assert.deepEqual(at("2026-11-23T10:09:05Z"), { text: "9:05", spoken: "9 minutes left", urgency: "calm" });
  assert.deepEqual(at("2026-11-23T11:01:00Z"), { text: "1:01:00", spoken: "1 hour 1 minute left", urgency: "calm" });
  assert.deepEqual(at("2026-11-23T10:02:00Z").urgency, "soon");
  assert.deepEqual(at("2026-11-23T10:00:00.400Z"), { text: "0:01", spoken: "1 second left", urgency: "soon" });
  assert.deepEqual(at("2026-11-23T10:00:00Z").urgency, "over");
  assert.deepEqual(at("2026-11-23T09:00:00Z").text, "0:00");
});

test("without a deadline there is nothing to count", () => {
  assert.equal(at(undefined), null);
  assert.equal(at(null), null);
  assert.equal(at("soon"), null);
});

test("a wrong clock on this side is corrected", () => {
  assert.equal(clockOffset("Mon, 23 Nov 2026 10:00:30 GMT", NOW), 30_000);
  assert.equal(clockOffset("Mon, 23 Nov 2026 09:59:58 GMT", NOW), 0);
  assert.equal(clockOffset(null, NOW), 0);
});
