// Pictures of every state of the page, light, dark and phone size, against the mock daemon; each is checked with axe-core and for
// violations of the Content-Security-Policy. `node screenshots.mjs DIR`; exit 1 names what was found.

import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { openBrowser } from "./browser.mjs";
import { startDaemon } from "./mock/daemon.mjs";
import { startPicture } from "./mock/rfb.mjs";
import { SCENARIOS } from "./mock/scenarios.mjs";

const directory = process.argv[2] ?? "artifacts";
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const LOOKS = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  "phone-dark": { colorScheme: "dark", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};
const found = [];

await mkdir(directory, { recursive: true });
const vnc = await startPicture();
const daemon = await startDaemon({ vnc: { host: "127.0.0.1", port: vnc.port } });
for (const [look, options] of Object.entries(LOOKS)) {
  const { context, close } = await openBrowser(options);
  for (const id of [...Object.keys(SCENARIOS), "refused"]) await picture(context, look, id);
  await close();
}
await daemon.close();
await vnc.close();
found.forEach((line) => console.error(line));
console.log(JSON.stringify({ pictures: Object.keys(LOOKS).length * (Object.keys(SCENARIOS).length + 1), found: found.length }));
process.exit(found.length === 0 ? 0 : 1);

async function picture(context, look, id) {
  const page = await context.newPage();
  page.on("pageerror", (error) => found.push(`${look} ${id}: ${error.message}`));
  page.on("console", (message) => /Content Security/.test(message.text()) && found.push(`${look} ${id}: ${message.text()}`));
  // A session without a cookie is a link that is not valid.
  await page.goto(id === "refused" ? `${daemon.url}/api/auth/session/booting/novnc` : daemon.link(id));
  const state = id === "refused" ? "refused" : SCENARIOS[id].session.state;
  await page.waitForFunction((wanted) => document.body.dataset.state === wanted, state, { timeout: 10_000 });
  if (SCENARIOS[id]?.screen) await page.waitForFunction(isDrawn, undefined, { timeout: 10_000 });
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  if (id === "awaiting" && look === "light") await questionAndLoss(page);
  await page.screenshot({ path: join(directory, `viewer-${id}-${look}.png`), fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) found.push(`${look} ${id}: ${wide} px wider than the window`);
  // The tool is brought in through the debugger, which the page's own policy does not bind.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  for (const one of violations) found.push(`${look} ${id}: ${one.id}: ${one.help}: ${one.nodes[0].target} ${one.nodes[0].failureSummary}`);
  await context.clearCookies();
  await page.close();
}

function isDrawn() {
  const canvas = document.querySelector("#screen canvas");
  return canvas?.width > 0 && canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height - 20, 1, 1).data[2] === 0x5c;
}

/** The dialog that asks before cancelling, and the screen after a lost connection; both come back to where they were. */
async function questionAndLoss(page) {
  await page.click("#cancel");
  await page.screenshot({ path: join(directory, "viewer-cancel-question.png") });
  await page.keyboard.press("Escape");
  daemon.dropScreens();
  await page.waitForSelector("#veil:not([hidden])", { timeout: 10_000 });
  await page.screenshot({ path: join(directory, "viewer-reconnecting.png") });
  await page.waitForSelector("#veil", { state: "hidden", timeout: 10_000 });
}
