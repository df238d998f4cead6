// What stands on a picture of the machine's screen: the login page's known colours and where its fields are. Pure, and without
// anything from outside its body, because it also runs inside the viewer page, next to the canvas.

/**
 * Reads RGBA pixels. Returns the shares (0..1) of the screen that are the page's `ground` (#0b3d5c), `card` (#f4f7fa) and error
 * bar (`error`, #b00020); `cardBox` and the empty text `fields` in it, top to bottom, as `{x, y, width, height, ink}`, where `ink`
 * counts dark pixels; `blank`, true if every pixel is the same; and `ink` of each of `boxes`, so that typing into a field that was
 * found while it was empty can be seen.
 */
export function readMarks({ data, width, height }, boxes = []) {
  // A screen of 16 bits per pixel rounds a colour by up to 5.
  const near = (i, r, g, b) => Math.abs(data[i] - r) <= 6 && Math.abs(data[i + 1] - g) <= 6 && Math.abs(data[i + 2] - b) <= 6;
  const counts = { ground: 0, card: 0, error: 0 };
  const box = { left: width, right: -1, top: height, bottom: -1 };
  let blank = true;
  for (let i = 0, p = 0; p < width * height; i += 4, p += 1) {
    if (blank && (data[i] !== data[0] || data[i + 1] !== data[1] || data[i + 2] !== data[2])) blank = false;
    if (near(i, 0x0b, 0x3d, 0x5c)) counts.ground += 1;
    else if (near(i, 0xb0, 0x00, 0x20)) counts.error += 1;
    else if (near(i, 0xf4, 0xf7, 0xfa)) counts.card += 1;
  }
  // The card is where its colour fills much of a row; a few such pixels in the browser's own frame are not it.
  const rowRuns = [];
  for (let y = 0; y < height; y += 1) {
    let best = { length: 0, start: 0 };
    let start = 0;
    for (let x = 0; x <= width; x += 1) {
      if (x < width && near((y * width + x) * 4, 0xf4, 0xf7, 0xfa)) continue;
      if (x - start > best.length) best = { length: x - start, start };
      start = x + 1;
    }
    // Bounded by the ground on its left: a toolbar of a similar colour reaches the edge of the screen.
    const bounded = best.start > 2 && best.start + best.length < width - 2 && near((y * width + best.start - 3) * 4, 0x0b, 0x3d, 0x5c);
    rowRuns.push(bounded && best.length > 120 ? best : null);
  }
  rowRuns.forEach((run, y) => {
    if (!run) return;
    box.left = Math.min(box.left, run.start);
    box.right = Math.max(box.right, run.start + run.length);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
  });
  const cardBox = box.right < 0 ? null : { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top };
  const total = width * height || 1;
  const ink = boxes.map(inkIn);
  const marks = { width, height, blank, ink, ground: counts.ground / total, card: counts.card / total, error: counts.error / total, cardBox, fields: [] };
  if (cardBox) marks.fields = findFields();
  return marks;

  // A field is a band of rows with a long run of pure white inside the card.
  function findFields() {
    const fields = [];
    let band = null;
    for (let y = cardBox.y; y <= cardBox.y + cardBox.height; y += 1) {
      const run = y < cardBox.y + cardBox.height ? whiteRow(y) : null;
      if (run) {
        band ??= { x: run.first, y, width: 0, height: 0 };
        band.width = Math.max(band.width, run.last - band.x);
        band.height += 1;
      } else if (band) {
        if (band.height >= 14) fields.push({ ...band, ink: inkIn(band) });
        band = null;
      }
    }
    return fields;
  }

  function whiteRow(y) {
    let count = 0;
    let first = -1;
    let last = -1;
    for (let x = cardBox.x; x < cardBox.x + cardBox.width; x += 1) {
      const i = (y * width + x) * 4;
      if (data[i] < 254 || data[i + 1] < 254 || data[i + 2] < 254) continue;
      count += 1;
      if (first < 0) first = x;
      last = x;
    }
    return count > cardBox.width * 0.35 ? { first, last } : null;
  }

  function inkIn(box) {
    let dark = 0;
    for (let y = box.y + 2; y < box.y + box.height - 2; y += 1) {
      for (let x = box.x + 2; x < box.x + box.width - 2; x += 1) {
        const i = (y * width + x) * 4;
        if (data[i] + data[i + 1] + data[i + 2] < 330) dark += 1;
      }
    }
    return dark;
  }
}

/** Whether the marks are those of the login page, wholly painted. */
export function isLoginPage(marks) {
  return marks.ground > 0.15 && marks.card > 0.02 && marks.cardBox !== null;
}

/** Whether the login page complains about what was typed. */
export function hasErrorBar(marks) {
  return isLoginPage(marks) && marks.error > 0.001;
}
