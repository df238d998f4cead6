// What a session's state means for the page. Pure.

import { sentence } from "./words.js";

const OVER = new Set(["completed", "failed", "cancelled", "expired"]);

/** Whether a state is final. */
export function isOver(state) {
  return OVER.has(state);
}

/**
 * Which part of the page is shown: `boot` (the list of stages), `screen`, or `outcome`. The screen waits for a drawn page, so
 * that nobody looks at a black rectangle.
 */
export function viewOf({ state, connected, painted }) {
  if (isOver(state) || state === "refused") return "outcome";
  const usable = painted || state === "awaiting_user" || state === "capturing";
  return connected && usable ? "screen" : "boot";
}

/** Whether the machine is ready and shows nothing, since it has no screen. */
export function isBare({ state, reports }) {
  return state === "awaiting_user" && Boolean(reports.get("ready")?.ok) && !reports.has("display_up");
}

/** One line on what happens now, for the top bar and screen readers. `place` is that of a session that waits, from 1. */
export function statusText(state, place) {
  switch (state) {
    case "queued":
      return place ? `Waiting for a free machine, place ${place}` : "Waiting for a free machine";
    case "starting":
    case "booting":
      return "Starting";
    case "awaiting_user":
      return "Waiting for you to sign in";
    case "capturing":
      return "Signed in, saving";
    case "completed":
      return "Signed in";
    case "failed":
      return "Failed";
    case "cancelled":
      return "Cancelled";
    case "expired":
      return "Expired";
    case "refused":
      return "Link not valid";
    default:
      return "Connecting";
  }
}

/** What a session signs in to, in words for a person. */
export function toolOf(session) {
  return session.providerName || session.provider || "";
}

/**
 * The outcome panel of a final state: `{tone, title, text, facts: [[term, value, kind]]}`; tone is `good`, `bad` or `quiet`.
 * `verdict` is the diagnosis of a failed session's machine, once it is known; its words come first.
 */
export function outcomeOf(session, verdict = null) {
  const tool = toolOf(session) || "the tool";
  switch (session.state) {
    case "completed":
      return {
        tone: "good",
        title: "You are signed in",
        text: `The sign-in to ${tool} is sealed in the vault, and the machine you used is being destroyed. You can close this window.`,
        facts: [],
      };
    case "cancelled":
      return {
        tone: "quiet",
        title: "Sign-in cancelled",
        text: "Nothing was saved. The machine is being destroyed. You can close this window.",
        facts: [],
      };
    case "expired":
      return {
        tone: "quiet",
        title: "The time ran out",
        text: "Nobody finished the sign-in before the deadline, so the machine is being destroyed. Nothing was saved.",
        facts: [["What to do", session.remedy ?? session.error?.remedy ?? "Start a new sign-in when you are ready."]],
      };
    case "refused":
      return {
        tone: "quiet",
        title: "This link is no longer valid",
        text: "A viewer link works once, in one browser. It may have been used already, or its session is gone.",
        facts: [["What to do", "Ask for a new link, or start a new sign-in."]],
      };
    default:
      return failed(session, verdict);
  }
}

/** Verdicts that name no cause: then the session's own words say more. */
const NO_CAUSE = new Set(["healthy", "inconclusive", "reachable_but_pending"]);

function failed(session, verdict) {
  const error = session.error ?? {};
  const found = verdict && !NO_CAUSE.has(verdict.verdict) ? verdict : null;
  const facts = [
    ["What to do", sentence(found?.remedy || error.remedy || session.remedy) || "Start a new sign-in. If it fails again, tell whoever runs Airlock here."],
    ["Failed step", found?.stage ?? error.stage ?? session.stage, "stage"],
    ["Cause", found?.verdict ?? error.cause ?? session.cause, "code"],
    ["Evidence", verdict?.evidenceId ?? session.evidenceId ?? error.evidenceId, "code"],
  ];
  return {
    tone: "bad",
    title: "The sign-in failed",
    text: sentence(found?.summary || error.message) || "The session ended without a credential. Nothing was saved.",
    facts: facts.filter(([, value]) => value),
  };
}

/** What to hand to whoever runs the daemon, as text. */
export function detailsOf(session, outcome) {
  const lines = [`Airlock sign-in ${session.sessionId ?? ""}: ${session.state}`, outcome.text, ...outcome.facts.map(([term, value]) => `${term}: ${value}`)];
  if (session.vmId) lines.push(`Machine: ${session.vmId}`);
  return lines.join("\n");
}
