// What a person does and sees on the viewer page of a real machine. Every wait has an end and says what it missed.

import { join } from "node:path";
import { guestScreen } from "./guest-screen.mjs";
import { typeOnForeignKeys } from "./vm-keys.mjs";

/** Where the machine's browser has it, in the machine's pixels. */
const ADDRESS_BAR = { x: 640, y: 65 };

/** Opens the viewer link in a browser. */
export async function visitor(context, url, artifacts) {
  const page = context.pages()[0] ?? (await context.newPage());
  const screen = guestScreen(page);
  // A link's ticket must not end up in an error message.
  await page.goto(url).catch((error) => {
    throw new Error(`open the link: ${error.message.split(" at ")[0]}`);
  });

  async function waits(what, condition, wanted, timeout) {
    await page.waitForFunction(condition, wanted, { timeout }).catch(async () => {
      const data = JSON.stringify(await page.evaluate(() => ({ ...document.body.dataset })));
      throw new Error(`${what} not after ${timeout} ms; the page says ${data}`);
    });
  }

  return {
    page,

    /** Waits until the list of the start shows a stage as done, with its time. */
    async bootStage(stage, timeout) {
      await waits(`the stage ${stage}`, isStageDone, stage, timeout);
    },

    /** Waits until the machine's screen is shown at its place, with a picture, in the state in which the person's part begins. */
    async screen(timeout) {
      await waits("the machine's screen", isShown, null, timeout);
      await waits("a screen that stands still", standsStill, null, timeout);
    },

    async losesScreen(timeout) {
      await waits("the loss of the screen", () => document.body.dataset.screen !== "connected", null, timeout);
    },

    /** Waits until the pixels are `wanted`. */
    async shows(wanted, timeout) {
      if (!(await screen.until(wanted, Date.now() + timeout))) throw new Error(`the screen shows ${JSON.stringify(await screen.look())}`);
    },

    /** Goes to an address as people do: by the address bar. (Ctrl+L is offered to the page first, and what follows at once as well.) */
    async address(text) {
      await screen.click(ADDRESS_BAR.x, ADDRESS_BAR.y);
      await screen.type(text);
      await screen.press("Enter");
    },

    click: ({ x, y }) => screen.click(x, y),
    press: (key) => screen.press(key),
    type: (text) => screen.type(text),
    typeOnForeignKeys: (text) => typeOnForeignKeys(page, text),

    /** What an input method makes of several keys, at once: no key of it reaches the page. */
    composes: (text) => page.keyboard.insertText(text),

    /** Pastes a text by the page's clipboard panel into what has the keyboard in the machine. */
    async pastes(text) {
      await page.click("#tool-clipboard");
      await page.fill("#clip-in", text);
      await page.click("#clip-paste");
      await page.click("#clip-close");
    },

    /** Waits until the panel shows what was copied in the machine. */
    async receives(text, timeout) {
      await waits("the machine's clipboard", isReceived, text, timeout);
    },

    /** Tells every change of the connection to the screen from now on. */
    async watchesScreen(changed) {
      await page.exposeFunction("airlockScreenChanged", changed);
      await page.evaluate(() => {
        const tell = () => globalThis.airlockScreenChanged(document.body.dataset.screen);
        new MutationObserver(tell).observe(document.body, { attributeFilter: ["data-screen"] });
      });
    },

    /** Whether the countdown shows less than `ms`. */
    async hasLessThan(ms) {
      const seconds = (await page.textContent("#countdown-text")).split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
      return seconds * 1000 < ms;
    },

    async asksForMoreTime(timeout) {
      const before = await page.textContent("#countdown-text");
      await page.click("#more-time");
      await waits("more time", hasMoreThan, before, timeout);
    },

    async reload() {
      await page.reload();
    },

    async picture(name) {
      // A picture is evidence, not the test: without one the report still stands.
      await page.screenshot({ path: join(artifacts, `${name}.png`) }).catch(() => {});
    },
  };
}

function isStageDone(stage) {
  const item = document.querySelector(`#phases [data-stage="${stage}"][data-status="done"]`);
  return document.body.dataset.view === "boot" && /\d/.test(item?.querySelector(".stage-time")?.textContent ?? "");
}

/** The page makes the canvas fit after it is shown: a click in between would go astray. */
function standsStill() {
  const boxNow = () => {
    const { x, y, width, height } = document.querySelector("#screen canvas").getBoundingClientRect();
    return [x, y, width, height].join();
  };
  const before = boxNow();
  const isBlank = () => {
    const { data } = document.querySelector("#screen canvas").getContext("2d").getImageData(0, 0, 400, 400);
    return data.every((value, i) => value === data[i % 4]);
  };
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  return frame()
    .then(frame)
    .then(() => boxNow() === before && !before.endsWith(",0,0") && !isBlank());
}

function hasMoreThan(before) {
  const seconds = (text) => text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
  return seconds(document.querySelector("#countdown-text").textContent) > seconds(before) + 30;
}

function isReceived(text) {
  return document.querySelector("#clip-out").value === text;
}

function isShown() {
  const { view, screen, state } = document.body.dataset;
  return view === "screen" && screen === "connected" && state === "awaiting_user";
}
