// A stand-in for the login page of `airlock demo-idp`, with the same marks: ground #0b3d5c, card #f4f7fa, error bar #b00020,
// the user name focused. Calls `onSignedIn` when the password is right, `onRefused` when it is not.

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
    if (request.method !== "POST") return response.end(loginForm(false));
    attempts.push([form.get("user"), form.get("password")]);
    if (form.get("user") !== user || form.get("password") !== password) {
      onRefused();
      return response.end(loginForm(true));
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

function loginForm(wrong) {
  return `<!doctype html><meta charset="utf-8"><title>Sign in</title><style>
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: #0b3d5c; font: 16px sans-serif }
form { background: #f4f7fa; padding: 32px; width: 340px; border-radius: 8px; display: grid; gap: 12px }
input { font: inherit; padding: 10px; border: 1px solid #8aa; border-radius: 4px; background: #fff }
.error { background: #b00020; color: #fff; padding: 12px; border-radius: 4px }
button { font: inherit; padding: 10px; background: #0b6; color: #fff; border: 0; border-radius: 4px }</style>
<form method="post"><h1>Sign in</h1>${wrong ? '<div class="error">Wrong user name or password.</div>' : ""}
<label for="user">User name</label><input id="user" name="user" autofocus>
<label for="password">Password</label><input id="password" name="password" type="password"><button>Sign in</button></form>`;
}
