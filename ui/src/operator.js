// Entry of the operator page: the token, which page is shown, and the look at the daemon every two seconds. `body` says it in
// attributes, for style and for tests:
//   data-view    token | overview | vm | images
//   data-link    idle | live | lost
//
// The token is kept in the tab's session storage and sent only in the Authorization header. A loss leaves what was last known on the
// page, says how old it is, and goes on asking; a token that is not accepted any more leads back to the question for one.

import { ApiError } from "./api.js";
import { clockOffset } from "./countdown.js";
import { announce, byId } from "./dom.js";
import { operatorApi } from "./operator/api.js";
import { openImages } from "./operator/images-view.js";
import { drawOverview } from "./operator/overview.js";
import { openVm } from "./operator/vm-view.js";
import { spanText, stateText } from "./operator/words.js";

const TOKEN = "airlock-operator-token";
const LOOK_EVERY_MS = 2000;

const page = document.body.dataset;
let api = null;
let known = null;
let knownAt = 0;
let opened = null;
let openedRoute = "";
let timer = null;
let looks = 0;
const spoken = new Map();

const stored = sessionStorage.getItem(TOKEN);
if (stored) enter(stored);
else askToken("");

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  try {
    await operatorApi(token).sessions();
  } catch (error) {
    return askToken(tokenProblem(error));
  }
  byId("token").value = "";
  sessionStorage.setItem(TOKEN, token);
  enter(token);
});
byId("forget").addEventListener("click", () => leave(""));
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && look());
setInterval(drawStale, 1000);

function tokenProblem(error) {
  if (!(error instanceof ApiError)) return "The daemon does not answer. Is airlock serve running?";
  if (error.status === 401) return "This token is not known here, or it was revoked.";
  if (error.status === 403) return "This token may not see sessions: it needs the scope sessions:write.";
  return error.message;
}

function enter(token) {
  api = operatorApi(token);
  byId("tabs").hidden = false;
  byId("forget").hidden = false;
  show();
}

function leave(problem) {
  sessionStorage.removeItem(TOKEN);
  api = null;
  known = null;
  clearTimeout(timer);
  openedRoute = "";
  opened?.close();
  opened = null;
  askToken(problem);
}

function askToken(problem) {
  for (const id of ["tabs", "forget", "health", "stale"]) byId(id).hidden = true;
  page.link = "idle";
  view("token");
  byId("token-error").textContent = problem;
  byId("token").focus();
}

function view(name) {
  page.view = name;
  for (const one of ["token", "overview", "vm", "images"]) byId(`view-${one}`).hidden = one !== name;
  for (const tab of document.querySelectorAll("#tabs a")) {
    if (tab.dataset.tab === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
}

/** Opens what the address says: `#/`, `#/images` or `#/vm/{id}`. */
function show() {
  if (!api) return;
  const route = location.hash.replace(/^#\/?/, "");
  if (location.hash === "#content") return;
  const options = { now: () => Date.now() + ahead(), changed: look };
  const vm = /^vm\/([0-9a-f-]+)$/.exec(route)?.[1];
  const name = vm ? "vm" : route === "images" ? "images" : "overview";
  if (openedRoute !== `${name} ${vm}`) {
    const moved = openedRoute !== "";
    openedRoute = `${name} ${vm}`;
    opened?.close();
    opened = vm ? openVm(api, vm, options) : name === "images" ? openImages(api, options) : null;
    view(name);
    document.title = `${name === "vm" ? `Machine ${vm.slice(0, 8)}` : name === "images" ? "Images" : "Operator"} · Airlock`;
    if (moved) byId(name === "vm" ? "vm-title" : `${name}-title`).focus();
  }
  draw();
  look();
}

function ahead() {
  return known?.ahead ?? 0;
}

/** Asks for what the open page shows, then again in two seconds. */
async function look() {
  clearTimeout(timer);
  if (!api || document.visibilityState !== "visible") return;
  const mine = (looks += 1);
  try {
    const next = await fetchAll();
    if (mine !== looks || !api) return;
    known = next;
    knownAt = Date.now();
    page.link = "live";
    draw();
  } catch (error) {
    if (mine !== looks || !api) return;
    if (error instanceof ApiError && error.status === 401) return leave("This token is not accepted any more.");
    page.link = "lost";
  }
  drawStale();
  timer = setTimeout(look, LOOK_EVERY_MS);
}

async function fetchAll() {
  const wantsImages = page.view === "images";
  let buildsError = "";
  const builds = wantsImages
    ? api.builds().catch((error) => {
        if (!(error instanceof ApiError) || error.status !== 403) throw error;
        buildsError = "Builds are shown to tokens with the scope admin.";
        return [];
      })
    : [];
  const [health, sessions, vms, images, built] = await Promise.all([api.health(), api.sessions(), api.vms(), wantsImages ? api.images() : [], builds]);
  return { health, ahead: clockOffset(health.date, Date.now()), sessions, vms, images, builds: built, buildsError };
}

function draw() {
  if (!known) return;
  drawHealth(known.health);
  const options = { api, now: Date.now() + ahead(), changed: look };
  if (page.view === "overview") drawOverview(known, options);
  if (page.view === "images") opened.draw(known);
  if (page.view === "vm") {
    const vm = known.vms.find((one) => openedRoute.endsWith(one.id));
    if (vm) opened.draw({ vm, session: known.sessions.find((one) => one.vmId === vm.id) });
    else byId("vm-state").textContent = "not there yet, or not any more";
  }
  speakChanges();
}

function drawHealth(health) {
  const missing = Object.entries(health.dependencies ?? {}).filter(([, value]) => value === false).map(([name]) => name);
  byId("health").hidden = false;
  byId("health").dataset.tone = missing.length > 0 ? "bad" : "good";
  byId("health-text").textContent = missing.length > 0 ? `Not usable: ${missing.join(", ")}` : `Serving with ${health.dependencies?.driver ?? "?"}`;
}

/** Says to screen readers what became of sign-ins since the last look. */
function speakChanges() {
  for (const { sessionId, userId, state } of known.sessions) {
    const before = spoken.get(sessionId);
    if (before && before !== state) announce(`${userId}: ${stateText(state)}`);
    spoken.set(sessionId, state);
  }
}

function drawStale() {
  const stale = byId("stale");
  const lost = page.link === "lost";
  stale.hidden = !lost;
  if (lost) {
    byId("health").dataset.tone = "quiet";
    byId("health-text").textContent = "No answer";
  }
  if (lost) stale.textContent = known ? `The daemon has not answered for ${spanText(Date.now() - knownAt)}. Trying again.` : "The daemon does not answer. Trying again.";
}
