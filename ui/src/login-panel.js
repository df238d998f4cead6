// What a sign-in without a callback needs from the person: a code to carry to the page (device code, RFC 8628), or a place for the code
// that the page shows at its end (paste code). Shown only where the session's `login` says so.

import { wordsOf } from "./api.js";
import { announce, byId } from "./dom.js";

/** What to show for a session's `login`: `{userCode, address, wanted}`, or `null` for nothing. Pure. */
export function loginNeeds(login) {
  const { userCode, verificationUrl, codeWanted } = login ?? {};
  if (!userCode && !codeWanted) return null;
  return { userCode: userCode ?? "", address: userCode ? (verificationUrl ?? "") : "", wanted: Boolean(codeWanted) };
}

/**
 * Wires the panel: `sendCode(code)` is a promise that fails with words for the person; `screen()` is the screen or null.
 * Returns `draw(login)`.
 */
export function wireLogin({ sendCode, screen, back }) {
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
    announce(needs.userCode ? `The page asks for this code: ${[...needs.userCode].join(" ")}` : "The tool waits for a code. The field for it is above the screen.");
  };
}
