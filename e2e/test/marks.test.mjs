import assert from "node:assert/strict";
import { test } from "node:test";
import { hasErrorBar, isLoginPage, readMarks } from "../marks.mjs";

const GROUND = [0x0b, 0x3d, 0x5c];
const CARD = [0xf4, 0xf7, 0xfa];
const WHITE = [255, 255, 255];
const BLACK = [20, 20, 20];
const RED = [0xb0, 0x00, 0x20];

/** A picture of rectangles `[colour, x, y, width, height]`, painted in order. */
function paint(width, height, ...rectangles) {
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (const [colour, left, top, w, h] of rectangles) {
    for (let y = top; y < top + h; y += 1) for (let x = left; x < left + w; x += 1) data.set(colour, (y * width + x) * 4);
  }
  return { data, width, height };
}

const TOOLBAR = [CARD, 0, 0, 640, 40];
const PAGE = [TOOLBAR, [GROUND, 0, 40, 640, 440], [CARD, 170, 120, 300, 240], [WHITE, 200, 180, 240, 40], [WHITE, 200, 260, 240, 40]];

test("finds the card and its two fields, not the browser's toolbar", () => {
  const marks = readMarks(paint(640, 480, ...PAGE));
  assert.ok(isLoginPage(marks));
  assert.ok(!hasErrorBar(marks));
  assert.deepEqual(marks.cardBox, { x: 170, y: 120, width: 300, height: 240 });
  assert.deepEqual(marks.fields.map(({ x, y, height, ink }) => [x, y, height, ink]), [[200, 180, 40, 0], [200, 260, 40, 0]]);
});

test("sees what was typed and the error bar", () => {
  const marks = readMarks(paint(640, 480, ...PAGE, [BLACK, 210, 192, 30, 12], [RED, 200, 140, 240, 24]));
  assert.equal(marks.fields[0].ink, 360);
  const full = readMarks(paint(640, 480, ...PAGE, [BLACK, 204, 272, 232, 14]), marks.fields);
  assert.deepEqual(full.ink, [0, 232 * 14], "a field that is full of dots is not found any more, but its box still tells");
  assert.equal(marks.fields[1].ink, 0);
  assert.ok(hasErrorBar(marks));
});

test("a screen without the page is not the page", () => {
  for (const picture of [paint(640, 480, [GROUND, 0, 0, 640, 480]), paint(640, 480, [CARD, 0, 0, 640, 480]), paint(640, 480, TOOLBAR), paint(0, 0)]) {
    assert.ok(!isLoginPage(readMarks(picture)));
  }
  assert.ok(readMarks(paint(64, 48, [BLACK, 0, 0, 64, 48])).blank);
  assert.ok(!readMarks(paint(64, 48, [BLACK, 0, 0, 64, 47])).blank);
});
