// Pictures of every state of both pages, light, dark and phone size, against the mock daemon; each is checked with axe-core, for
// violations of the Content-Security-Policy, and for text wider than the window. `node screenshots.mjs DIR [WORD]`, where WORD picks
// those whose name has it; exit 1 names what was found.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { openBrowser } from "./browser.mjs";
import { findFaults, isDrawn, watchPage } from "./look.mjs";
import { startDaemon } from "./mock/daemon.mjs";
import { startPicture } from "./mock/rfb.mjs";
import { SCENARIOS } from "./mock/scenarios.mjs";

const directory = process.argv[2] ?? "artifacts";
const wanted = process.argv[3] ?? "";
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const LOOKS = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { colorScheme: "light", ...PHONE },
  "phone-dark": { colorScheme: "dark", ...PHONE },
};

/** What is done to a page before its picture, by the name of the picture; the state it starts from comes first. */
const VIEWER = {
  ...Object.fromEntries(Object.keys(SCENARIOS).map((id) => [id, [id]])),
  clipboard: ["awaiting", async (page) => {
    await page.click("#tool-clipboard");
    await page.fill("#clip-in", "correct horse battery staple");
    vnc.copy("https://example.org/device?code=한글-é");
    await page.waitForFunction(() => document.querySelector("#clip-out").value !== "");
  }],
  keys: ["awaiting", (page) => page.click("#tool-keys")],
  "cancel-question": ["awaiting", (page) => page.click("#cancel")],
  reconnecting: ["awaiting", async (page) => {
    daemon.dropScreens();
    await page.waitForSelector("#veil:not([hidden])");
  }],
  resting: ["awaiting", async (page) => {
    daemon.dropScreens(4008);
    await page.waitForSelector("#resume:not([hidden])");
  }],
  refused: ["awaiting", async (page, context) => {
    await context.clearCookies();
    daemon.setOffline(true);
    await page.waitForSelector("body[data-link=lost]");
    daemon.setOffline(false);
    await page.waitForSelector("body[data-state=refused]");
  }],
};

const OPERATOR = {
  token: [null],
  overview: ["#/"],
  "vm-ready": [`#/vm/c0ffee01-6c1e-4a57-b1d5-3f9c1d7a0008`, isDiagnosed],
  "vm-booting": [`#/vm/c0ffee02-6c1e-4a57-b1d5-3f9c1d7a0008`, isDiagnosed],
  "vm-failed": [`#/vm/c0ffee03-6c1e-4a57-b1d5-3f9c1d7a0008`, async (page) => {
    await isDiagnosed(page);
    await page.click("#diagnosis-evidence summary");
  }],
  images: ["#/images", async (page) => {
    await page.waitForSelector("#builds .row");
    daemon.operator.buildSays("Setting up firefox-esr (128.5.0esr-1~deb12u1) ...");
    daemon.operator.buildSays("Processing triggers for libc-bin (2.36-9+deb12u9) ...");
    await page.waitForSelector(".build-log .console-line");
  }],
  destroy: ["#/", (page) => page.locator("#vms .button:not([hidden])").first().click()],
  lost: ["#/", async (page) => {
    daemon.setOffline(true);
    await page.waitForSelector("#stale:not([hidden])");
    daemon.setOffline(false);
  }],
};

const found = [];
let pictures = 0;

await mkdir(directory, { recursive: true });
const vnc = await startPicture();
const daemon = await startDaemon({ vnc: { host: "127.0.0.1", port: vnc.port } });
for (const [look, options] of Object.entries(LOOKS)) {
  const { context, close } = await openBrowser(options);
  for (const [name, [id, prepare]] of Object.entries(VIEWER)) {
    await picture(context, `viewer-${name}-${look}`, async (page) => {
      await page.goto(daemon.link(id));
      await page.waitForFunction((state) => document.body.dataset.state === state, SCENARIOS[id].session.state);
      if (SCENARIOS[id].screen) await page.waitForFunction(isDrawn);
      await prepare?.(page, context);
    });
  }
  for (const [name, [hash, prepare]] of Object.entries(OPERATOR)) {
    await picture(context, `operator-${name}-${look}`, async (page) => {
      await page.goto(`${daemon.url}/operator${hash ?? ""}`);
      if (hash === null) return;
      await page.fill("#token", "operator");
      await page.press("#token", "Enter");
      await page.waitForSelector("body[data-link=live]");
      await prepare?.(page);
    });
  }
  await close();
}
await daemon.close();
await vnc.close();
found.forEach((line) => console.error(line));
console.log(JSON.stringify({ pictures, found: found.length }));
process.exit(found.length === 0 ? 0 : 1);

async function picture(context, name, prepare) {
  if (!name.includes(wanted)) return;
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const faults = watchPage(page);
  try {
    await prepare(page);
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    await page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });
    faults.push(...(await findFaults(page)));
    pictures += 1;
  } catch (error) {
    faults.push(error.message.split("\n")[0]);
  }
  found.push(...faults.map((fault) => `${name}: ${fault}`));
  await context.clearCookies();
  await page.close();
}

async function isDiagnosed(page) {
  await page.waitForSelector("#diagnosis[data-tone]");
  await page.waitForSelector("#timeline-rows tr");
  await page.waitForSelector(".console-line");
}
