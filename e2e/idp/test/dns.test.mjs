// The responder's messages, byte for byte as RFC 1035 has them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { answer, readQuestion } from "../dns.mjs";

const query = (name, type) =>
  Buffer.from([0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0, ...name.split(".").flatMap((label) => [label.length, ...Buffer.from(label)]), 0, 0, type, 0, 1]);

test("a question is read, in lower case", () => {
  const found = readQuestion(query("Auth.OpenAI.com", 1));
  assert.deepEqual([found.name, found.type], ["auth.openai.com", 1]);
});

test("what is no question is left alone", () => {
  const response = query("a.b", 1);
  response[2] |= 0x80;
  assert.equal(readQuestion(response), null);
  assert.equal(readQuestion(Buffer.alloc(5)), null);
  assert.equal(readQuestion(query("a.b", 1).subarray(0, 18)), null);
});

test("a known name has its address, for A only; another one does not exist", () => {
  const asked = query("github.com", 1);
  const known = answer(asked, readQuestion(asked), "203.0.113.10");
  assert.deepEqual([...known.subarray(0, 8)], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
  assert.deepEqual([...known.subarray(-6)], [0, 4, 203, 0, 113, 10]);

  const ipv6 = query("github.com", 28);
  assert.deepEqual([...answer(ipv6, readQuestion(ipv6), "203.0.113.10").subarray(3, 8)], [0x80, 0, 1, 0, 0]);
  const unknown = answer(asked, readQuestion(asked), null);
  assert.deepEqual([...unknown.subarray(3, 8)], [0x83, 0, 1, 0, 0]);
});
