// The pages a person sees: the login form with the marks that the e2e scripts know (ground #0b3d5c, card #f4f7fa, error bar #b00020),
// the same as those of `airlock demo-idp`. No script, no external resource.

import { timingSafeEqual } from "node:crypto";

const STYLE = `
html,body { height: 100%; margin: 0 }
body { background: #0b3d5c; display: flex; align-items: center; justify-content: center; font: 16px/1.5 sans-serif; color: #10202c }
main { background: #f4f7fa; border-radius: 8px; padding: 32px; width: 340px; box-sizing: border-box }
h1 { font-size: 20px; margin: 0 0 4px } p { margin: 0 0 16px }
label { display: block; margin: 0 0 12px }
input { display: block; width: 100%; box-sizing: border-box; padding: 8px; font: inherit; border: 1px solid #8899a6; border-radius: 4px }
button { font: inherit; padding: 8px 16px; border: 1px solid #0b3d5c; border-radius: 4px; background: #0b3d5c; color: #fff }
.error { background: #b00020; color: #fff; padding: 8px 12px; border-radius: 4px }`;

/** The login form, posted to `action`; `wrongFor` is the user of an attempt that was turned down. */
export function loginForm({ title, action, hidden = {}, wrongFor = "" }) {
  const [focusUser, focusPassword] = wrongFor ? ["", "autofocus"] : ["autofocus", ""];
  const kept = Object.entries(hidden).map(([name, value]) => `<input type="hidden" name="${escape(name)}" value="${escape(value)}">`);
  return html(
    title,
    `<h1>${escape(title)}</h1><p>The tool asks to use your account.</p>
     ${wrongFor ? '<p class="error" role="alert">User name or password is wrong.</p>' : ""}
     <form method="post" action="${escape(action)}" autocomplete="off">${kept.join("")}
     <label>User name<input name="user" value="${escape(wrongFor)}" required ${focusUser}></label>
     <label>Password<input name="password" type="password" required ${focusPassword}></label>
     <button>Sign in</button></form>`,
  );
}

/** A page that only says something. */
export function notice(title, text) {
  return html(title, `<h1>${escape(title)}</h1><p>${escape(text)}</p>`);
}

/** Whether the form's values are the person's. */
export function isPerson(form, { user, password }) {
  return same(form.get("user") ?? "", user) && same(form.get("password") ?? "", password);
}

/** The whole body of a request, at most 64 KiB. */
export async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > 65_536) throw new Error("the body is longer than 64 KiB");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

export function sendHtml(response, text, status = 200) {
  response.writeHead(status, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" }).end(text);
}

export function sendJson(response, value, status = 200) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(value));
}

function html(title, body) {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title><style>${STYLE}</style><main>${body}</main></html>`;
}

function same(given, wanted) {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => ESCAPES[c]);
}
