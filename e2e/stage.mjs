// What the tests of the pages share: a browser, the stand-ins, and a page that was opened like a person opens it.

import { openBrowser } from "./browser.mjs";
import { isDrawn, watchPage } from "./look.mjs";
import { startDaemon } from "./mock/daemon.mjs";
import { startPicture } from "./mock/rfb.mjs";

const WAIT_MS = 15_000;

/** Opens browser and stand-ins; `t` closes them. */
export async function openStage(t, { viewport, ...options } = {}) {
  const vnc = await startPicture();
  const daemon = await startDaemon({ vnc: { host: "127.0.0.1", port: vnc.port }, speed: 20 });
  const browser = await openBrowser({ colorScheme: "light", ...(viewport ? { viewport } : {}), ...options });
  await browser.context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: daemon.url });
  t.after(async () => {
    await browser.close();
    await daemon.close();
    await vnc.close();
  });
  return {
    vnc,
    daemon,
    context: browser.context,
    /** The viewer of a session; with a screen, once it is drawn and has the keyboard. Faults of the page fail `close()`. */
    async view(id, { screen = true, context = browser.context } = {}) {
      const page = await newPage(context);
      await page.goto(daemon.link(id));
      if (screen) await ready(page);
      vnc.forget();
      return page;
    },
    newPage,
  };

  async function newPage(context = browser.context) {
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.faults = watchPage(page);
    return page;
  }
}

/** Waits until the screen is drawn. */
export async function ready(page) {
  await page.waitForSelector("body[data-view=screen][data-screen=connected]");
  await page.waitForFunction(isDrawn);
}

/** Waits for something that happens outside of the page; names it when it does not. */
export async function until(what, happened, ms = WAIT_MS) {
  const end = Date.now() + ms;
  while (!happened()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((done) => setTimeout(done, 15));
  }
}

/** Keysyms that went down, in order. */
export function typed(vnc) {
  return vnc.seen.keys.filter(([, down]) => down).map(([keysym]) => keysym);
}

/** Keysym of a character (X11 protocol, appendix A). */
export function keysym(character) {
  const point = character.codePointAt(0);
  return point <= 0xff ? point : 0x01000000 + point;
}
