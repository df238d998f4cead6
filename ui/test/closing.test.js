import assert from "node:assert/strict";
import { test } from "node:test";
import { afterClose, backoff, reasonOf } from "../src/closing.js";

const after = (code, more = {}) => afterClose({ code, sessionOver: false, attempt: 0, random: 0, ...more });

test("a lost connection is tried again", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013]) assert.equal(after(code).action, "reconnect", code);
});

test("a verdict of the daemon is final", () => {
  for (const code of [4000, 4001, 4002, 4003, 4004, 4005, 4999, 1008]) assert.deepEqual(after(code), { action: "stop" }, code);
});

test("a screen at rest waits for the person", () => {
  for (const code of [4008, 4009]) assert.deepEqual(after(code), { action: "rest" }, code);
  for (const code of [4008, 4009, 4004, 4005, 1008, 4999]) assert.ok(reasonOf(code).endsWith("."), code);
  assert.notEqual(reasonOf(4008), reasonOf(4009));
});

test("nothing is tried after the session's end", () => {
  assert.equal(after(1006, { sessionOver: true }).action, "stop");
});

test("the pause doubles up to four seconds and is spread", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 50].map((n) => backoff(n, 0)), [500, 1000, 2000, 4000, 4000, 4000, 4000]);
  assert.equal(backoff(5, 1), 3000);
});
