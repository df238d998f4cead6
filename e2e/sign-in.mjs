// A person's part of a sign-in, through the viewer page and nothing else: opens the link, waits until the machine's browser shows the
// login page (by the session's state and by pixels), types user name and password on the canvas, waits for the outcome.
// `--help` names the options. Last line of stdout: {"outcome": STATE, "ms": N, "attempts": N, "at_ms": {...}} and exit 0, or the same
// with "reason" (and the picture viewer-failure.png) and exit 1. Exit 2: usage.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { openBrowser } from "./browser.mjs";
import { denyForm, submitForm } from "./form.mjs";
import { guestScreen } from "./guest-screen.mjs";
import { isLoginPage } from "./marks.mjs";
import { readOptions } from "./options.mjs";

const MAX_ATTEMPTS = 3;
/** After this a person who denied and sees nothing of it denies again. */
const DENIED_WITHIN_MS = 30_000;

/** The wait for something ended without it. */
class GaveUp extends Error {}

/** The session stopped waiting for the person while something on its screen was awaited: what is left is its outcome. */
class SessionWentOn extends Error {}

const options = readOptions();
const startedAt = Date.now();
const report = { outcome: "unknown", attempts: 0, at_ms: {} };
let browser;
let page;
let ok = false;
try {
  await mkdir(options.artifacts, { recursive: true });
  browser = await openBrowser();
  page = browser.context.pages()[0] ?? (await browser.context.newPage());
  await signIn(guestScreen(page)).catch((error) => {
    if (!(error instanceof SessionWentOn)) throw error;
  });
  if (!options.deny) await isOverWhen("no further state");
  Object.assign(report, options.deny ? { outcome: "denied" } : await outcome());
  ok = report.outcome === options.expect;
} catch (error) {
  report.reason = error.message.replaceAll(options.password, "(password)").split("\n")[0];
  report.outcome = error instanceof GaveUp ? ((await data().catch(() => ({}))).state ?? "unknown") : "error";
}
await picture(ok ? `viewer-${options.expect}` : "viewer-failure");
await browser?.close();
report.ms = Date.now() - startedAt;
console.log(JSON.stringify(report));
process.exitCode = ok ? 0 : 1;

async function signIn(screen) {
  // The link's ticket must not end up in an error message.
  await page.goto(options.url).catch((error) => {
    throw new GaveUp(`open the link: ${error.message.split(" at ")[0]}`);
  });
  mark("opened");
  if (await isOverWhen("awaiting_user")) return;
  mark("awaiting_user");
  await need(screen, screen.loginPage(deadline()), "the login page was not painted");
  mark("login_painted");
  await picture("viewer-signin");

  if (options.closeBrowser) {
    await screen.focus();
    await screen.press("Control+q");
    await need(screen, screen.until((marks) => !isLoginPage(marks), deadline()), "the machine's browser did not close");
    mark("browser_closed");
    await need(screen, screen.loginPage(deadline()), "the login page did not come back after the browser was closed");
    mark("browser_back");
  }
  if (options.deny) return deny(screen);
  if (options.wrongFirst) {
    const result = await submit(screen, `${options.password}-wrong`);
    if (result !== "refused") throw new GaveUp(`the wrong password was not refused (${result})`);
    mark("wrong_refused");
    await picture("viewer-wrong-password");
  }
  // A key can be lost on a machine that is too busy. The form then comes back and a person would type again; the report counts it.
  let result;
  do result = await submit(screen, options.password);
  while ((result === "refused" || result === "unanswered") && report.attempts < MAX_ATTEMPTS);
  if (result !== "accepted") throw new GaveUp(`the form was not accepted (${result})`);
  mark("accepted");
}

/** Denies until the viewer page says that this try is over; a key can be lost on a machine that is too busy. */
async function deny(screen) {
  const ended = page.locator("#login-again");
  do {
    report.attempts += 1;
    await denyForm(screen);
    if (await ended.waitFor({ timeout: DENIED_WITHIN_MS }).then(() => true, () => false)) return mark("denied");
  } while (report.attempts < MAX_ATTEMPTS);
  throw new GaveUp("the viewer page does not say that this try ended");
}

async function submit(screen, password) {
  report.attempts += 1;
  return submitForm(screen, { user: options.user, password }, deadline());
}

/** Waits for a state of the session; true when it is over instead. */
async function isOverWhen(state) {
  const reached = page.waitForFunction(
    (wanted) => (document.body.dataset.view === "outcome" || document.body.dataset.state === wanted) && document.body.dataset.view,
    state,
    { timeout: options.waitMs },
  );
  const view = await reached.catch(() => {
    throw new GaveUp(`no outcome and not ${state} after ${options.waitMs} ms`);
  });
  return (await view.jsonValue()) === "outcome";
}

async function need(screen, found, reason) {
  if (await found) return;
  if (await screen.isPast()) throw new SessionWentOn();
  throw new GaveUp(reason);
}

/** What the page says in the end; in words unless it is the expected outcome. */
async function outcome() {
  const { state, view } = await data();
  if (view !== "outcome") return { outcome: state, reason: "the session is not over" };
  mark(state);
  if (state === options.expect) return { outcome: state };
  const words = await page.locator("#outcome .card").innerText();
  return { outcome: state, reason: words.replace(/\s+/g, " ").trim() };
}

async function data() {
  return page.evaluate(() => ({ ...document.body.dataset }));
}

async function picture(name) {
  // A picture is evidence, not the test: without one the report still stands.
  await page?.screenshot({ path: join(options.artifacts, `${name}.png`) }).catch(() => {});
}

function mark(name) {
  report.at_ms[name] = Date.now() - startedAt;
}

function deadline() {
  return Date.now() + options.waitMs;
}
