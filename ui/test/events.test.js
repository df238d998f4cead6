import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError } from "../src/api.js";
import { followSession } from "../src/events.js";

/** An EventSource that the test speaks through. */
class Stream extends EventTarget {
  closed = false;
  close() {
    this.closed = true;
  }
  say(event, data) {
    this.dispatchEvent(Object.assign(new Event(event), { data: JSON.stringify(data) }));
  }
}

function follow(t, answers) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const streams = [];
  const seen = [];
  const api = {
    events: () => streams[streams.push(new Stream()) - 1],
    session: async () => {
      const answer = answers.shift();
      if (answer instanceof Error) throw answer;
      return { session: { state: answer }, date: null };
    },
  };
  followSession(api, {
    onState: (session) => seen.push(session.state),
    onStage: (report) => seen.push(report.stage),
    onLink: (link) => seen.push(link),
    onRefused: () => seen.push("refused"),
  });
  return { streams, seen };
}

const settled = () => new Promise((done) => setImmediate(done));

test("a page opened after the end still gets the stages", async (t) => {
  const { streams, seen } = follow(t, ["completed"]);
  await settled();
  assert.equal(streams[0].closed, false);
  streams[0].say("stage", { stage: "planned" });
  streams[0].say("state", { state: "completed" });
  assert.deepEqual(seen, ["completed", "planned", "completed"]);
  assert.equal(streams[0].closed, true);
});

test("a late answer does not bring an older state back", async (t) => {
  const { streams, seen } = follow(t, ["capturing"]);
  streams[0].say("state", { state: "completed" });
  await settled();
  assert.deepEqual(seen, ["completed"]);
});

test("an answer that the stream overtook changes nothing", async (t) => {
  const { streams, seen } = follow(t, ["booting"]);
  streams[0].say("state", { state: "awaiting_user" });
  await settled();
  assert.deepEqual(seen, ["awaiting_user", "awaiting_user"]);
});

test("a lost stream is opened again, later each time, until the end", async (t) => {
  const { streams, seen } = follow(t, ["booting", new TypeError("network"), new TypeError("network")]);
  await settled();
  streams[0].say("error");
  assert.deepEqual([streams[0].closed, streams.length], [true, 1]);
  t.mock.timers.tick(500);
  assert.equal(streams.length, 2);
  streams[1].say("error");
  t.mock.timers.tick(700);
  assert.equal(streams.length, 2);
  t.mock.timers.tick(300);
  assert.equal(streams.length, 3);
  streams[2].say("open");
  assert.deepEqual(seen, ["booting", "lost", "lost", "live"]);
  streams[2].say("state", { state: "failed" });
  streams[2].say("error");
  t.mock.timers.tick(60_000);
  assert.equal(streams.length, 3);
});

test("a refusal ends it", async (t) => {
  const { streams, seen } = follow(t, [new ApiError(401, { error: { message: "no viewer cookie" } })]);
  await settled();
  assert.deepEqual(seen, ["refused"]);
  streams[0].say("error");
  t.mock.timers.tick(60_000);
  assert.equal(streams.length, 1);
});

test("an answer of a daemon in trouble is no refusal", async (t) => {
  const { seen } = follow(t, [new ApiError(503, null)]);
  await settled();
  assert.deepEqual(seen, []);
});
