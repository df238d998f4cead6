// The machine's screen as a person has it: looks at the noVNC canvas in the viewer page, points and types on it. Only pixels and
// keys; nothing reaches the machine in another way.

import { isLoginPage, readMarks } from "./marks.mjs";

const CANVAS = "#screen canvas";
const LOOK_EVERY_MS = 250;
/** Between two keys. Down and up travel together, so a slow machine never sees a key held long enough to repeat. */
const KEY_PAUSE_MS = 70;

/** Eyes and hands on the viewer page `page`. */
export function guestScreen(page) {
  /** The marks on the screen now, with the ink in `boxes`; `null` without a screen. */
  async function look(boxes = []) {
    return page.evaluate(`(() => {
      const canvas = document.querySelector(${JSON.stringify(CANVAS)});
      if (!canvas || !canvas.width || document.body.dataset.screen !== "connected") return null;
      return (${readMarks})(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), ${JSON.stringify(boxes)});
    })()`);
  }

  /** Looks until `wanted(marks)` holds; `null` when `deadline` (ms of `Date.now()`) passes or the person's part is over. */
  async function until(wanted, deadline, boxes = []) {
    for (;;) {
      const marks = await look(boxes);
      if (marks && wanted(marks)) return marks;
      if (Date.now() > deadline || (await isPast())) return null;
      await page.waitForTimeout(LOOK_EVERY_MS);
    }
  }

  /** Whether the session has left the state in which it waits for the person. */
  async function isPast() {
    return (await page.evaluate(() => document.body.dataset.state)) !== "awaiting_user";
  }

  return {
    look,
    until,
    isPast,

    /** Waits for the login page to stand still: the same card in two looks, since a browser paints in pieces. */
    async loginPage(deadline) {
      let before = "";
      return until((marks) => {
        const seen = isLoginPage(marks) ? JSON.stringify([marks.cardBox, marks.fields.length]) : "";
        const still = seen !== "" && seen === before;
        before = seen;
        return still;
      }, deadline);
    },

    /** Clicks a point given in the machine's pixels. */
    async click(x, y) {
      const [scale, box] = await page.evaluate((selector) => {
        const canvas = document.querySelector(selector);
        const { left, top, width } = canvas.getBoundingClientRect();
        return [width / canvas.width, { left, top }];
      }, CANVAS);
      await page.mouse.click(box.left + x * scale, box.top + y * scale);
    },

    /** Gives the keyboard to the screen without pointing at anything in it. */
    async focus() {
      await page.focus(CANVAS);
    },

    async press(key) {
      await page.keyboard.press(key);
      await page.waitForTimeout(KEY_PAUSE_MS);
    },

    async type(text) {
      for (const key of text) await this.press(key);
    },
  };
}
