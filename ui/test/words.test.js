import assert from "node:assert/strict";
import { test } from "node:test";
import { sentence, wordsOf } from "../src/words.js";

test("an error and its remedy are two sentences", () => {
  assert.equal(wordsOf({ message: "the tool did not take it", remedy: "send it again" }), "The tool did not take it. Send it again.");
  assert.equal(wordsOf({ message: "Really?", remedy: undefined }), "Really?");
  assert.equal(wordsOf({ message: "", remedy: "wait." }), "Wait.");
  assert.equal(sentence(undefined), undefined);
  assert.equal(sentence(""), "");
});
