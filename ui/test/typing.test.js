import assert from "node:assert/strict";
import { test } from "node:test";
import { canCopy } from "../src/clipboard.js";
import { loginNeeds } from "../src/login-panel.js";
import { difference, keysymsOf, meaningOf } from "../src/typing.js";
import { scalesOf } from "../src/zoom.js";

test("a character is its own keysym in Latin-1, and its code point above", () => {
  assert.deepEqual(keysymsOf("@{}~é"), [0x40, 0x7b, 0x7d, 0x7e, 0xe9]);
  assert.deepEqual(keysymsOf("한€😀"), [0x0100d55c, 0x010020ac, 0x0101f600]);
  assert.deepEqual(keysymsOf("a\r\nb\tc"), [0x61, 0xff0d, 0x62, 0xff09, 0x63]);
  assert.deepEqual(keysymsOf("e\u0301"), [0xe9], "a letter and its mark are one key");
  assert.deepEqual(keysymsOf("a\u0000\u001b\u007f"), [0x61], "what no key makes is left out");
});

test("a field that changed is told in characters, not in halves of them", () => {
  assert.deepEqual(difference("  ", "  a"), { removed: 0, added: "a" });
  assert.deepEqual(difference("help", "hello"), { removed: 1, added: "lo" });
  assert.deepEqual(difference("a😀", "a😁"), { removed: 1, added: "😁" });
  assert.deepEqual(difference("ab", "ab"), { removed: 0, added: "" });
  assert.deepEqual(difference("abc", ""), { removed: 3, added: "" });
});

test("what a key means", () => {
  const key = (name, more = {}) => meaningOf({ key: name, keyCode: 0, isComposing: false, ctrlKey: false, altKey: false, shiftKey: false, metaKey: false, ...more });
  assert.equal(key("a"), "key");
  assert.equal(key("F6"), "leave");
  assert.equal(key("F6", { ctrlKey: true }), "key");
  for (const name of ["Dead", "Process", "Unidentified"]) assert.equal(key(name), "compose");
  assert.equal(key("a", { isComposing: true }), "compose");
  assert.equal(key("a", { keyCode: 229 }), "compose");
  for (const modifier of ["ctrlKey", "metaKey"]) assert.equal(key("v", { [modifier]: true }), "paste");
  assert.equal(key("V", { ctrlKey: true, shiftKey: true }), "paste");
  assert.equal(key("Insert", { shiftKey: true }), "paste");
  assert.equal(key("v", { ctrlKey: true, altKey: true }), "key", "AltGr is Ctrl and Alt on some systems");
  assert.equal(key("c", { metaKey: true }), "command");
  assert.equal(key("c", { ctrlKey: true }), "key");
});

test("the panel for codes is shown only where the session has some", () => {
  assert.equal(loginNeeds(undefined), null);
  assert.equal(loginNeeds({ flow: "loopback", verificationUrl: "https://a" }), null);
  const asked = { userCode: "", address: "", wanted: false, ended: "", attempt: 1 };
  assert.equal(loginNeeds({ flow: "loopback", codeWanted: false, attempt: 1 }), null);
  assert.deepEqual(loginNeeds({ flow: "device_code", userCode: "A-B", verificationUrl: "https://a" }), { ...asked, userCode: "A-B", address: "https://a" });
  assert.deepEqual(loginNeeds({ flow: "paste_code", codeWanted: true }), { ...asked, wanted: true });
});

test("a try that ended is told in words, with what was asked for taken away", () => {
  const ended = (outcome) => loginNeeds({ flow: "device_code", userCode: "A-B", codeWanted: true, attempt: 2, outcome });
  assert.deepEqual(ended("denied"), { userCode: "", address: "", wanted: false, ended: "You or the provider said no.", attempt: 2 });
  assert.match(ended("something newer").ended, /ended without signing in/);
  assert.equal(ended("completed"), null);
  assert.equal(ended("cancelled"), null);
});

test("the zoom fills the height of a phone and always enlarges", () => {
  const phone = scalesOf({ width: 390, height: 700 });
  assert.ok(phone.fit < 0.31 && phone.zoomed === 0.875);
  const large = scalesOf({ width: 1920, height: 1000 });
  assert.deepEqual(large, { fit: 1.25, zoomed: 1.875 });
});

test("a key that can copy is told from one that selects", () => {
  for (const key of [{ key: "c", ctrlKey: true }, { key: "X", metaKey: true }, { key: "Insert", ctrlKey: true }, { key: "Enter" }, { key: " " }]) assert.ok(canCopy(key), key.key);
  for (const key of [{ key: "a", ctrlKey: true }, { key: "c" }, { key: "ArrowLeft" }, { key: "v", ctrlKey: true }]) assert.ok(!canCopy(key), key.key);
});
