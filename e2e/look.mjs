// How a page is looked at: what it complains about, what axe-core finds, whether it fits its window.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Collects script errors and violations of the page's own Content-Security-Policy from now on. */
export function watchPage(page) {
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => /Content Security/.test(message.text()) && faults.push(message.text()));
  return faults;
}

/** What axe-core finds, by all its rules or only `rules`, and whether the page is wider than its window. */
export async function findFaults(page, rules = null) {
  const faults = [];
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) faults.push(`${wide} px wider than the window`);
  // The tool is brought in through the debugger, which the page's own policy does not bind.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(AXE);
  const options = { resultTypes: ["violations"], ...(rules ? { runOnly: rules } : {}) };
  const { violations } = await page.evaluate((options) => globalThis.axe.run(options), options);
  for (const one of violations) faults.push(`${one.id}: ${one.help}: ${one.nodes[0].target} ${one.nodes[0].failureSummary}`);
  return faults;
}

/** Runs in the page: whether the stand-in's picture is on the screen. */
export function isDrawn() {
  const canvas = document.querySelector("#screen canvas");
  return canvas?.width > 0 && canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height - 20, 1, 1).data[2] === 0x5c;
}
