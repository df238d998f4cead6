// Whether everybody can read the pages: axe-core in every state, light and dark, large and phone size, and nothing that the pages' own
// policy forbids.

import assert from "node:assert/strict";
import { test } from "node:test";
import { findFaults } from "../look.mjs";
import { SCENARIOS } from "../mock/scenarios.mjs";
import { openStage, ready } from "../stage.mjs";

const LARGE = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844 };
/** Rules whose answer colours change, and those whose answer the layout changes. */
const COLOURS = ["color-contrast"];
const LAYOUT = ["color-contrast", "scrollable-region-focusable", "target-size", "meta-viewport"];

/** Light and large by every rule, then dark, then at phone size, each by the rules that may now answer otherwise. */
async function lookAt(page, name, found) {
  const add = (look, faults) => found.push(...faults.map((fault) => `${name} ${look}: ${fault}`));
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(LARGE);
  add("light", await findFaults(page));
  await page.emulateMedia({ colorScheme: "dark" });
  add("dark", await findFaults(page, COLOURS));
  await page.setViewportSize(PHONE);
  add("phone", await findFaults(page, LAYOUT));
  add("page", page.faults.splice(0));
}

test("every state of the viewer", { timeout: 120_000 }, async (t) => {
  const { daemon, newPage } = await openStage(t);
  const found = [];
  const page = await newPage();
  for (const id of Object.keys(SCENARIOS)) {
    await page.goto(daemon.link(id));
    if (SCENARIOS[id].screen) await ready(page);
    await page.waitForSelector(`body[data-state=${SCENARIOS[id].session.state}]`);
    if (id === "awaiting") {
      await page.click("#tool-clipboard");
      await page.click("#tool-keys");
    }
    if (id === "ending") {
      daemon.dropScreens(4008);
      await page.waitForSelector("#resume:not([hidden])");
    }
    await lookAt(page, id, found);
  }
  assert.deepEqual(found, []);
});

test("every view of the operator page", { timeout: 120_000 }, async (t) => {
  const { daemon, newPage } = await openStage(t);
  const found = [];
  for (const hash of [null, "#/", "#/vm/c0ffee03-6c1e-4a57-b1d5-3f9c1d7a0008", "#/images"]) {
    const page = await newPage();
    await page.goto(`${daemon.url}/operator${hash ?? ""}`);
    if (hash) {
      await page.fill("#token", "operator");
      await page.press("#token", "Enter");
      await page.waitForSelector("body[data-link=live]");
      if (hash.includes("vm")) await page.waitForSelector("#diagnosis[data-tone=bad]");
      if (hash === "#/images") await page.waitForSelector("#builds .row");
    }
    await lookAt(page, hash ?? "token", found);
    await page.close();
  }
  assert.deepEqual(found, []);
});
