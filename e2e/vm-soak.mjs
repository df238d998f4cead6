// A person who stays: in front of a real machine for a long time, with an input every 20 seconds that a site outside writes down. Fails
// at the first input that does not arrive, and when the screen was ever not connected.
//
//   node vm-soak.mjs --url LINK --site-namespace NAME --site ADDRESS --artifacts DIR [--minutes 30]
//
// Last line of stdout: {"ok": true, "minutes": N, "inputs": N, "lost": N, "disconnects": N, "more_time": N, "worst_ms": N, "median_ms": N}
// and exit 0, or the same with "reason" (and the picture soak-failure.png) and exit 1.

import { mkdir } from "node:fs/promises";
import { parseArgs } from "node:util";
import { openBrowser } from "./browser.mjs";
import { startSite } from "./vm-record.mjs";
import { visitor } from "./vm-visitor.mjs";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    "site-namespace": { type: "string" },
    site: { type: "string" },
    artifacts: { type: "string" },
    minutes: { type: "string", default: "30" },
  },
});

const INPUT_EVERY_MS = 20_000;
/** Later than this an input counts as lost; the next one is due then. */
const ARRIVES_MS = INPUT_EVERY_MS;
const BOOTS_MS = 150_000;
/** A person who sees less than this on the countdown asks for more. */
const SHORT_MS = 4 * 60_000;

const report = { ok: false, minutes: 0, inputs: 0, lost: 0, disconnects: 0, more_time: 0, worst_ms: 0, median_ms: 0 };
const took = [];
const open = [];
let person;
try {
  await mkdir(options.artifacts, { recursive: true });
  await stay();
  report.ok = true;
} catch (error) {
  report.reason = error.message.split("\n")[0];
  await person?.picture("soak-failure");
}
for (const one of open.reverse()) await one.close();
took.sort((a, b) => a - b);
Object.assign(report, { worst_ms: took.at(-1) ?? 0, median_ms: took[Math.floor(took.length / 2)] ?? 0 });
console.log(JSON.stringify(report));
process.exitCode = report.ok ? 0 : 1;

async function stay() {
  const site = keep(await startSite(options["site-namespace"]));
  const { context } = keep(await openBrowser());
  person = await visitor(context, options.url, options.artifacts);
  await person.screen(BOOTS_MS);
  await person.address(options.site);
  await site.next("its page", ({ kind }) => kind === "loaded", 3 * ARRIVES_MS);
  const started = Date.now();
  const seconds = () => Math.round((Date.now() - started) / 1000);
  await person.watchesScreen((screen) => {
    console.log(JSON.stringify({ after_s: seconds(), screen }));
    if (screen !== "connected") report.disconnects += 1;
  });
  const until = started + Number(options.minutes) * 60_000;
  for (let due = started; due <= until; due += INPUT_EVERY_MS) {
    await new Promise((done) => setTimeout(done, Math.max(0, due - Date.now())));
    await input(site);
    report.minutes = Math.round((Date.now() - started) / 6000) / 10;
    if (report.disconnects > 0) throw new Error(`the screen was not connected after ${seconds()} s`);
    if (await person.hasLessThan(SHORT_MS)) {
      await person.asksForMoreTime(ARRIVES_MS);
      report.more_time += 1;
    }
  }
  await person.picture("soak-end");
}

/** By turns a line that is typed and a click. */
async function input(site) {
  report.inputs += 1;
  const began = Date.now();
  const text = `input ${report.inputs}`;
  const arrived = report.inputs % 2 === 0 ? ({ kind }) => kind === "click" : ({ kind, value }) => kind === "entered" && value === text;
  if (report.inputs % 2 === 0) {
    await person.click(site.place().button);
  } else {
    await person.click(site.place().field);
    await person.type(text);
    await person.press("Enter");
  }
  await site.next(text, arrived, ARRIVES_MS).catch((error) => {
    report.lost += 1;
    throw error;
  });
  took.push(Date.now() - began);
}

function keep(one) {
  open.push(one);
  return one;
}
