// Sessions of the stand-in: some stand still, one plays a boot. All are told to their followers as the daemon does: the stages so far,
// the state, then what is new, until a final state.

import { BOOT } from "./scenarios.mjs";

export const CLOSE = {
  completed: [4000, "completed"], failed: [4001, "vm_failed"], cancelled: [4002, "cancelled"], expired: [4003, "expired"],
};
const MORE_MS = 600_000;

/** A session as the API shows it. */
export function describe(id, createdAt, patch) {
  return {
    sessionId: `5b1f0c5e-9a52-4d8e-8f9b-${id.padEnd(12, "0").slice(0, 12)}`,
    userId: "alice",
    provider: "demo",
    providerName: "Demo tool",
    stage: null,
    cause: null,
    remedy: null,
    evidenceId: null,
    vmId: "c0ffee12-6c1e-4a57-b1d5-3f9c1d7a0008",
    browserIP: "192.168.100.8",
    createdAt: new Date(createdAt).toISOString(),
    deadline: new Date(createdAt + 600_000).toISOString(),
    latestDeadline: new Date(createdAt + 3_600_000).toISOString(),
    moreTime: true,
    ...patch,
  };
}

function follow(followers, past, session, say, end, onStop) {
  past.forEach((report) => say("stage", report));
  say("state", session());
  if (session().state in CLOSE) return end();
  const follower = { say, end };
  followers.add(follower);
  onStop(() => followers.delete(follower));
}

/** One that changes only by `patch(change)`. */
export function stillSession(id, { session: fixed, stages, screen = false, ageMs = 31_000, diagnosis }) {
  const createdAt = Date.now() - ageMs;
  const followers = new Set();
  let patched = {};
  const session = () => describe(id, createdAt, { ...fixed, ...patched });
  const patch = (change) => {
    patched = { ...patched, ...change };
    followers.forEach((one) => one.say("state", session()));
    if (session().state in CLOSE) followers.forEach((one) => one.end());
  };
  return {
    session,
    patch,
    hasScreen: screen,
    to: (state) => patch({ state }),
    diagnosis: () => ({ sessionId: session().sessionId, verdict: "inconclusive", stage: null, summary: "", remedy: "", also: [], evidence: [], ...diagnosis }),
    moreTime() {
      patched = { ...patched, deadline: new Date(Date.now() + MORE_MS).toISOString(), moreTime: false };
      return session();
    },
    follow: (say, end, onStop) => follow(followers, stages, session, say, end, onStop),
  };
}

/** One that plays a boot. */
export function liveSession(speed) {
  const createdAt = Date.now();
  const followers = new Set();
  const past = [];
  let state = "booting";

  const session = () => describe("live", createdAt, { state });
  const tell = (event, data) => {
    if (event === "stage") past.push(data);
    followers.forEach((one) => one.say(event, data));
    if (data.state in CLOSE) followers.forEach((one) => one.end());
  };
  const to = (next) => {
    if (state in CLOSE) return;
    state = next;
    tell("state", session());
  };
  for (const [stage, atMs] of BOOT) {
    setTimeout(() => {
      if (state !== "booting") return;
      tell("stage", { stage, ok: true, atMs });
      if (stage === "ready") to("awaiting_user");
    }, atMs / speed).unref();
  }
  return {
    session,
    to,
    patch: () => {},
    hasScreen: true,
    diagnosis: () => ({ verdict: "inconclusive", summary: "", remedy: "", also: [], evidence: [] }),
    moreTime: session,
    signedIn() {
      to("capturing");
      setTimeout(() => to("completed"), 1500);
    },
    follow: (say, end, onStop) => follow(followers, past, session, say, end, onStop),
  };
}
