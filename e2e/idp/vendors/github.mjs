// github.com: the device flow of RFC 8628 with its page, and the few API answers that the tools ask for afterwards.

import { randomBytes } from "node:crypto";
import { isPerson, loginForm, notice, readBody, sendHtml, sendJson } from "../page.mjs";

const USER_CODE = "WDJB-MJHT";

export const names = ["github.com", "api.github.com", "api.githubcopilot.com", "copilot-proxy.githubusercontent.com"];

/** `mode` says what a poll answers: `pending` until the person signed in on the page, or at once `denied` or `expired`. */
export function vendor(person, mode) {
  const granted = { yes: false };
  return {
    names,
    async answer(request, response, { name, path }) {
      if (name === "api.github.com") return api(person, request, response, path);
      if (name !== "github.com") return sendJson(response, { message: "Not Found" }, 404);
      if (path === "/login/device/code") return deviceCode(request, response);
      if (path === "/login/oauth/access_token") return poll(request, response, mode, granted);
      if (path === "/login/device") return page(person, request, response, granted);
      return sendHtml(response, notice("Not found", path), 404);
    },
  };
}

async function deviceCode(request, response) {
  await readBody(request);
  return send(request, response, {
    device_code: randomBytes(20).toString("hex"),
    user_code: USER_CODE,
    verification_uri: "https://github.com/login/device",
    expires_in: 900,
    interval: 1,
  });
}

async function poll(request, response, mode, granted) {
  await readBody(request);
  const errors = { denied: "access_denied", expired: "expired_token" };
  if (errors[mode]) return send(request, response, { error: errors[mode], error_description: `test: ${mode}` });
  if (!granted.yes) return send(request, response, { error: "authorization_pending", error_description: "test: pending" });
  const token = `gho_${randomBytes(18).toString("hex")}`;
  return send(request, response, { access_token: token, token_type: "bearer", scope: "gist,read:org,repo,workflow" });
}

// The vendor's page asks for the code as well; that is the person's affair and says nothing about the tool.
async function page(person, request, response, granted) {
  const form = { title: "Test device sign-in", action: "/login/device" };
  if (request.method !== "POST") return sendHtml(response, loginForm(form));
  const given = new URLSearchParams(await readBody(request));
  if (!isPerson(given, person)) return sendHtml(response, loginForm({ ...form, wrongFor: given.get("user") ?? "" }));
  granted.yes = true;
  return sendHtml(response, notice("Device connected", "You may close this page."));
}

async function api(person, request, response, path) {
  await readBody(request);
  // gh reads what a token may do from this header.
  response.setHeader("x-oauth-scopes", "gist, read:org, repo, workflow");
  if (path === "/user") return sendJson(response, { login: person.user, id: 1, type: "User" });
  if (path === "/copilot_internal/user") return sendJson(response, copilotUser(person));
  if (path === "/graphql") return sendJson(response, { data: { viewer: { login: person.user } } });
  if (path === "/") return sendJson(response, { current_user_url: "https://api.github.com/user" });
  return sendJson(response, { message: "Not Found" }, 404);
}

function copilotUser({ user }) {
  const endpoints = { api: "https://api.githubcopilot.com", telemetry: "https://api.githubcopilot.com" };
  return { login: user, access_type_sku: "free_limited_copilot", copilot_plan: "individual", chat_enabled: true, endpoints };
}

// GitHub answers in the form's own coding unless JSON is asked for.
function send(request, response, value) {
  if ((request.headers.accept ?? "").includes("json")) return sendJson(response, value);
  response.writeHead(200, { "content-type": "application/x-www-form-urlencoded" }).end(new URLSearchParams(value).toString());
}
