// A person in front of a real machine, through the viewer page and nothing else: waits for the start, opens a site of the world outside,
// types and clicks, and the site says what arrived. The way to the daemon is cut for ten seconds, the page is loaded again, and a second
// person looks on.
//
//   node vm-viewer.mjs --url LINK --url LINK --site-namespace NAME --site ADDRESS --artifacts DIR
//
// The two links are of one session. Last line of stdout: {"ok": true, "ms": {STEP: N}} and exit 0, or the same with "step", "reason"
// (and the picture failure.png) and exit 1.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openBrowser } from "./browser.mjs";
import { startSite } from "./vm-record.mjs";
import { startRelay } from "./vm-relay.mjs";
import { visitor } from "./vm-visitor.mjs";

const { values: options } = parseArgs({
  options: {
    url: { type: "string", multiple: true },
    "site-namespace": { type: "string" },
    site: { type: "string" },
    artifacts: { type: "string" },
  },
});

/** How long an input may take from the key to the site's record, on an emulated machine that has other work. */
const ARRIVES_MS = 20_000;
/** How long such a machine may take to a painted browser. */
const BOOTS_MS = 150_000;
const CUT_MS = 10_000;
/** What every keyboard has, then what only other ones have. */
const PLAIN = "Hello, site 42";
const SPECIAL = "@ { } ~ é ß 한";
const PASTED = "Eingefügt: @{}~ é ß 한 中 😀";

const report = { ok: false, ms: {} };
const open = [];
let step = "start";
let seen;
try {
  await mkdir(options.artifacts, { recursive: true });
  await look();
  report.ok = true;
} catch (error) {
  Object.assign(report, { step, reason: error.message.split("\n")[0] });
  await seen?.picture("failure");
}
for (const one of open.reverse()) await one.close();
console.log(JSON.stringify(report));
process.exitCode = report.ok ? 0 : 1;

async function look() {
  const relay = keep(await startRelay(Number(new URL(options.url[0]).port)));
  const site = keep(await startSite(options["site-namespace"]));
  const [first, second] = options.url.map((url) => url.replace(/:\d+\//, `:${relay.port}/`));
  const person = (seen = await visit(first));

  await during("boot_stages", async () => {
    await person.bootStage("init_started", BOOTS_MS);
    await person.bootStage("display_up", BOOTS_MS);
    await person.picture("booting");
  });
  await during("screen", () => person.screen(BOOTS_MS));
  await during("site", async () => {
    await person.address(options.site);
    await site.next("its page", ({ kind }) => kind === "loaded", 3 * ARRIVES_MS);
    await person.shows((marks) => marks.ground > 0.3 && !marks.blank, ARRIVES_MS);
    await person.picture("site");
    fonts(site.all("glyphs")[0].glyphs);
  });
  await during("click", async () => {
    await person.click(site.place().button);
    await site.next("the click", ({ kind }) => kind === "click", ARRIVES_MS);
  });
  await during("typing", async () => {
    await person.click(site.place().field);
    await person.type(PLAIN);
    await site.next(PLAIN, typed(PLAIN), ARRIVES_MS);
    await person.press("Enter");
    await site.next("the end of the line", ({ kind, value }) => kind === "entered" && value === PLAIN, ARRIVES_MS);
  });
  await during("special_keys", async () => {
    await person.typeOnForeignKeys(SPECIAL);
    await site.next(SPECIAL, typed(SPECIAL), ARRIVES_MS);
    await person.picture("special-keys");
    await person.press("Enter");
    await person.composes("한글");
    await site.next("한글", typed("한글"), ARRIVES_MS);
    await person.press("Enter");
  });
  await during("clipboard_in", async () => {
    await person.pastes(PASTED);
    await site.next(PASTED, typed(PASTED), ARRIVES_MS);
    await person.picture("pasted");
    // The panel that was closed left the keyboard on the page.
    await person.click(site.place().field);
    await person.press("Enter");
    await site.next("the end of the line", ({ kind, value }) => kind === "entered" && value === PASTED, ARRIVES_MS);
  });
  await during("clipboard_out", async () => {
    await person.click(site.place().source);
    await person.press("Control+a");
    await person.press("Control+c");
    await site.next("the copying", ({ kind }) => kind === "copy", ARRIVES_MS);
    await person.receives(site.source, ARRIVES_MS);
    await person.picture("copied");
  });
  await during("reload", async () => {
    await person.reload();
    await person.screen(ARRIVES_MS);
    await stillTypes(person, site, "after a reload");
  });
  await during("lost_for_10_s", async () => {
    await relay.cut();
    await person.losesScreen(ARRIVES_MS);
    await person.picture("lost");
    await new Promise((done) => setTimeout(done, CUT_MS));
    await relay.mend();
    await person.screen(ARRIVES_MS);
    await stillTypes(person, site, "after a loss");
    await person.picture("reconnected");
  });
  await during("two_viewers", async () => {
    const other = await visit(second);
    await other.screen(ARRIVES_MS);
    await stillTypes(other, site, "from the second viewer");
    await stillTypes(person, site, "from the first viewer");
    await other.shows((marks) => marks.ground > 0.3, ARRIVES_MS);
    await other.picture("second-viewer");
  });
  await writeFile(join(options.artifacts, "record.json"), JSON.stringify(site.all("entered"), null, 1));
}

/** Every sample has a glyph of its own, but the last, which shows that a missing one would be seen. */
function fonts(glyphs) {
  const samples = Object.entries(glyphs);
  const missing = samples.filter(([, { ink, framed }]) => framed || ink === 0).map(([sample]) => sample);
  if (missing.join() !== samples.at(-1)[0]) throw new Error(`no font has ${missing.join(" ")}: ${JSON.stringify(glyphs)}`);
  if (!glyphs["😀"].coloured) throw new Error("the emoji has no colour");
}

async function stillTypes(person, site, text) {
  await person.click(site.place().field);
  await person.type(text);
  await person.press("Enter");
  await site.next(text, ({ kind, value }) => kind === "entered" && value === text, ARRIVES_MS);
}

/** One more person, in a browser of their own. */
async function visit(url) {
  const { context } = keep(await openBrowser({ permissions: ["clipboard-read", "clipboard-write"] }));
  return visitor(context, url, options.artifacts);
}

async function during(name, act) {
  step = name;
  const started = Date.now();
  await act();
  report.ms[name] = Date.now() - started;
}

function typed(text) {
  return ({ kind, value }) => kind === "input" && value === text;
}

function keep(one) {
  open.push(one);
  return one;
}
