import assert from "node:assert/strict";
import { test } from "node:test";
import { barsOf } from "../src/operator/chart.js";
import { eventParser, kindOfLine, lineSplitter, plainLine } from "../src/operator/stream.js";
import { agoText, buildProgress, imageText, sizeText, toneOf } from "../src/operator/words.js";

const NOW = Date.parse("2026-11-23T10:00:00Z");

test("bars follow each other and end where the last stage does", () => {
  const bars = barsOf([{ stage: "c", ok: false, atMs: 400 }, { stage: "a", ok: true, atMs: 0 }, { stage: "b", ok: true, atMs: 100 }]);
  assert.deepEqual(bars.map((bar) => [bar.stage, bar.fromMs, bar.tookMs]), [["a", 0, 0], ["b", 0, 100], ["c", 100, 300]]);
  assert.deepEqual([bars[1].left, bars[1].width, bars[2].left, bars[2].width], [0, 25, 25, 75]);
  assert.ok(bars.every((bar) => bar.width > 0 && bar.left + bar.width <= 100));
  assert.deepEqual(barsOf([]), []);
  assert.ok(Number.isFinite(barsOf([{ stage: "a", ok: true, atMs: 0 }])[0].width));
});

test("events are taken apart wherever the network cut them", () => {
  const text = 'event: build\r\ndata: {"a":1}\r\n\r\n: keep alive\n\ndata: one\ndata:two\n\nevent: line\ndata: half';
  for (const size of [1, 2, 7, text.length]) {
    const parser = eventParser();
    const events = [];
    for (let i = 0; i < text.length; i += size) events.push(...parser.take(text.slice(i, i + size)));
    assert.deepEqual(events, [["build", '{"a":1}'], ["message", "one\ntwo"]], `pieces of ${size}`);
  }
});

test("a console is text without a terminal's commands", () => {
  assert.equal(plainLine("\u001b[1;31mred\u001b[0m\u001b]0;title\u0007 \u001b(Bx\u0000\u009by\r"), "red xy");
  assert.equal(plainLine("10%\r50%\r100%"), "100%");
  const splitter = lineSplitter();
  assert.deepEqual(splitter.take("one\r\ntw"), ["one"]);
  assert.equal(splitter.rest(), "tw");
  assert.deepEqual(splitter.take("o\u001b[3"), []);
  assert.deepEqual(splitter.take("2m!\n"), ["two!"]);
  assert.equal(splitter.take("x".repeat(10_000)).length, 1, "a line without an end does not grow for ever");
});

test("stages stand out in a console", () => {
  assert.equal(kindOfLine('@airlock {"v":1,"stage":"link_up","ok":true}'), "stage");
  assert.equal(kindOfLine('@airlock {"v":1,"stage":"link_up","ok": false}'), "failed");
  assert.equal(kindOfLine("[ 1.0] @airlock"), "text");
});

test("times, sizes and names are short", () => {
  assert.deepEqual(["09:59:48", "09:56:00", "07:00:00"].map((time) => agoText(`2026-11-23T${time}Z`, NOW)), ["12 s", "4 min", "3 h"]);
  assert.equal(agoText("2026-11-20T10:00:00Z", NOW), "3 d");
  assert.equal(agoText(null, NOW), "");
  assert.deepEqual([0, 1023, 1536, 411_041_792].map(sizeText), ["0 B", "1023 B", "1.5 KiB", "392 MiB"]);
  assert.equal(imageText("browser@sha256:7d1e0b6f2a9c"), "browser 7d1e0b6f");
  assert.equal(imageText("browser"), "browser");
  assert.deepEqual(["awaiting_user", "needs_attention", "something newer"].map(toneOf), ["good", "bad", "quiet"]);
});

test("a build's progress is by time where that is known, else by stages", () => {
  const stages = [{ state: "done", elapsedMs: 100, expectedMs: 120 }, { state: "running", expectedMs: 300 }, { state: "waiting", expectedMs: 100 }];
  assert.deepEqual(buildProgress({ stages, remainingMs: 200 }), { done: 300, total: 500 });
  assert.deepEqual(buildProgress({ stages, remainingMs: null }), { done: 1, total: 3 });
  assert.deepEqual(buildProgress({ stages: stages.map(({ state }) => ({ state })), remainingMs: 200 }), { done: 1, total: 3 });
});
