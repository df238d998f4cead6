// A stand-in for the login page of `airlock demo-idp`, with the same marks: ground #0b3d5c, card #f4f7fa, error bar #b00020,
// the user name focused, and the password after a wrong one. The first form is deaf, as a browser that has only just painted can be:
// no key arrives before it is pointed at a second time. Calls `onSignedIn` when the password is right, `onRefused` when it is not.

import { createServer } from "node:http";

/** Starts it on a free loopback port. */
export async function startLoginPage({ user, password, onSignedIn, onRefused = () => {}, slowMs = 0 }) {
  const attempts = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk));
    request.on("end", () => setTimeout(() => answer(request, response, new URLSearchParams(body)), slowMs));
  });
  function answer(request, response, form) {
    response.setHeader("content-type", "text/html; charset=utf-8");
    if (request.method !== "POST") return response.end(loginForm(""));
    attempts.push([form.get("user"), form.get("password")]);
    if (form.get("user") !== user || form.get("password") !== password) {
      onRefused();
      return response.end(loginForm(user));
    }
    response.end("<!doctype html><title>Done</title><body style='background:#e8f4ea;font:24px sans-serif'><p>You are signed in.");
    onSignedIn();
  }
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}/authorize`,
    attempts,
    close: () => new Promise((done) => (server.closeAllConnections(), server.close(done))),
  };
}

const DEAF = `<script>
let pointed = 0;
addEventListener("pointerdown", () => { pointed += 1; }, true);
addEventListener("keydown", (event) => { if (pointed < 2) event.preventDefault(); }, true);
</script>`;

function loginForm(wrongFor) {
  const [focusUser, focusPassword] = wrongFor ? ["", "autofocus"] : ["autofocus", ""];
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>Demo sign-in</title><style>
html,body { height: 100%; margin: 0 }
body { background: #0b3d5c; display: flex; align-items: center; justify-content: center; font: 16px/1.5 sans-serif; color: #10202c }
main { background: #f4f7fa; border-radius: 8px; padding: 32px; width: 340px; box-sizing: border-box }
h1 { font-size: 20px; margin: 0 0 4px } p { margin: 0 0 16px }
label { display: block; margin: 0 0 12px }
input { display: block; width: 100%; box-sizing: border-box; padding: 8px; font: inherit; border: 1px solid #8899a6; border-radius: 4px }
button { font: inherit; padding: 8px 16px; border: 1px solid #0b3d5c; border-radius: 4px; background: #0b3d5c; color: #fff; margin-right: 8px }
.quiet { background: transparent; color: #0b3d5c }
.error { background: #b00020; color: #fff; padding: 8px 12px; border-radius: 4px }</style>
<main><h1>Demo sign-in</h1><p>The tool asks to use your account.</p>${wrongFor ? '<p class="error">User name or password is wrong.</p>' : ""}
<form method="post"><label>User name<input name="user" value="${wrongFor}" required ${focusUser}></label>
<label>Password<input name="password" type="password" required ${focusPassword}></label>
<button>Sign in</button><button type="button" class="quiet">Deny</button></form></main>${wrongFor ? "" : DEAF}`;
}
