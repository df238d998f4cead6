// What a sign-in without a callback needs from the person: a code to carry to the page (device code, RFC 8628), or a place for the code
// that the page shows at its end (paste code). Shown only where the session's `login` says so.

import { announce, byId } from "./dom.js";
import { wordsOf } from "./words.js";

/** How a try of the tool ended, in words; those that end the session are not here. */
const ENDS = {
  denied: "You or the provider said no.",
  expired: "The provider’s time for this sign-in is over.",
  invalid_code: "The code was not right.",
  device_flow_not_enabled: "This account does not allow a sign-in by code.",
  account_not_eligible: "The provider does not serve this account.",
  timed_out: "The tool waited too long.",
  no_egress: "The tool does not reach its provider.",
  credential_stale: "The tool kept an older sign-in.",
  credential_malformed: "What the tool stored cannot be used.",
  credential_rejected: "The tool does not accept its own sign-in.",
};
const OTHER_END = "The tool ended without signing in.";

/** What to show for a session's `login`: `{userCode, address, wanted, ended, attempt}`, or `null` for nothing. Pure. */
export function loginNeeds(login) {
  const { userCode = "", verificationUrl = "", codeWanted = false, outcome, attempt = 1 } = login ?? {};
  if (outcome === "completed" || outcome === "cancelled") return null;
  const ended = outcome ? (ENDS[outcome] ?? OTHER_END) : "";
  if (ended) return { userCode: "", address: "", wanted: false, ended, attempt };
  return userCode || codeWanted ? { userCode, address: userCode && verificationUrl, wanted: codeWanted, ended, attempt } : null;
}

/**
 * Wires the panel: `sendCode(code)` and `retry()` are promises that fail with words for the person; `screen()` is the screen or null.
 * Returns `draw(login)`.
 */
export function wireLogin({ sendCode, retry, screen, back }) {
  const field = byId("login-code");
  const note = byId("login-note");
  const button = byId("login-send");
  let before = "";

  byId("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const code = field.value.trim();
    if (!code) return field.focus();
    button.disabled = true;
    say("Sending");
    try {
      await sendCode(code);
      field.value = "";
      say("Sent. The tool checks it now.");
    } catch (error) {
      say(wordsOf(error));
      field.focus();
    }
    button.disabled = false;
  });

  byId("login-retry").addEventListener("click", async () => {
    byId("login-retry").disabled = true;
    say("Beginning again");
    try {
      await retry();
      back();
    } catch (error) {
      say(wordsOf(error));
    }
    byId("login-retry").disabled = false;
  });

  byId("login-copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(byId("login-user-code").textContent);
      say("Copied to this computer.");
    } catch {
      getSelection().selectAllChildren(byId("login-user-code"));
      say("Selected. Copy it with Ctrl+C, or Cmd+C on a Mac.");
    }
  });

  byId("login-paste").addEventListener("click", () => {
    if (!screen()) return say("The screen is not connected.");
    screen().type(byId("login-user-code").textContent);
    say("Typed where the cursor of the machine stands.");
    back();
  });

  function say(text) {
    note.textContent = text;
    if (text) announce(text);
  }

  return function draw(login) {
    const needs = loginNeeds(login);
    byId("login-panel").hidden = !needs;
    const key = JSON.stringify(needs);
    if (key === before) return;
    before = key;
    say("");
    if (!needs) return;
    byId("login-give").hidden = !needs.userCode;
    byId("login-user-code").textContent = needs.userCode;
    byId("login-address").hidden = !needs.address;
    byId("login-address-text").textContent = needs.address;
    byId("login-form").hidden = !needs.wanted;
    byId("login-again").hidden = !needs.ended;
    byId("login-outcome").textContent = needs.ended;
    announce(newsOf(needs), { important: true });
  };
}

function newsOf({ userCode, ended }) {
  if (ended) return `${ended} There is a button to try again above the screen.`;
  return userCode ? `The page asks for this code: ${[...userCode].join(" ")}` : "The tool waits for a code. The field for it is above the screen.";
}
