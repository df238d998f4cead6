// claude.ai, claude.com and platform.claude.com: the authorization page and the token endpoint of the manual and the loopback flow.

import { createHash, randomBytes } from "node:crypto";
import { isPerson, loginForm, notice, readBody, sendHtml, sendJson } from "../page.mjs";

export const names = ["claude.ai", "claude.com", "platform.claude.com", "console.anthropic.com", "api.anthropic.com"];

/** `mode` says what the token endpoint answers: `accept`, or `refuse` as to a code that was used or made up. */
export function vendor(person, mode) {
  const codes = new Map();
  return {
    names,
    async answer(request, response, { path }) {
      if (path.endsWith("/oauth/authorize")) return authorize(person, codes, request, response);
      if (path === "/v1/oauth/token") return token(mode, codes, request, response);
      if (path === "/api/oauth/profile") return sendJson(response, profile(person));
      return sendJson(response, { type: "error", error: { type: "not_found_error", message: "Not found" } }, 404);
    },
  };
}

async function authorize(person, codes, request, response) {
  const query = new URL(request.url, "https://claude.ai").searchParams;
  const form = { title: "Test sign-in", action: request.url };
  if (request.method !== "POST") return sendHtml(response, loginForm(form));
  const given = new URLSearchParams(await readBody(request));
  if (!isPerson(given, person)) return sendHtml(response, loginForm({ ...form, wrongFor: given.get("user") ?? "" }));
  const code = randomBytes(24).toString("base64url");
  codes.set(code, query.get("code_challenge"));
  const [redirect, state] = [query.get("redirect_uri"), query.get("state") ?? ""];
  if (!redirect || !/^http:\/\/(localhost|127\.0\.0\.1):\d+\//.test(redirect)) {
    return sendHtml(response, notice("Your code", `${code}#${state}`));
  }
  const back = new URL(redirect);
  back.searchParams.set("code", code);
  back.searchParams.set("state", state);
  return response.writeHead(302, { location: back.href }).end();
}

async function token(mode, codes, request, response) {
  const given = JSON.parse(await readBody(request));
  const challenge = createHash("sha256").update(given.code_verifier ?? "").digest("base64url");
  const known = given.grant_type === "refresh_token" || (codes.has(given.code) && codes.get(given.code) === challenge);
  codes.delete(given.code);
  if (mode !== "accept" || !known) {
    return sendJson(response, { error: "invalid_grant", error_description: "Invalid 'code' in request." }, 400);
  }
  return sendJson(response, {
    token_type: "Bearer",
    access_token: `sk-ant-oat01-${randomBytes(32).toString("base64url")}`,
    refresh_token: `sk-ant-ort01-${randomBytes(32).toString("base64url")}`,
    expires_in: 28_800,
    scope: given.scope ?? "user:inference user:profile",
    account: { uuid: "00000000-0000-4000-8000-000000000001", email_address: "alice@example.org" },
    organization: { uuid: "00000000-0000-4000-8000-000000000002", name: "test" },
  });
}

function profile({ user }) {
  return {
    account: { uuid: "00000000-0000-4000-8000-000000000001", email: `${user}@example.org`, display_name: user, has_claude_pro: true },
    organization: { uuid: "00000000-0000-4000-8000-000000000002", name: "test", organization_type: "claude_pro", rate_limit_tier: "default" },
  };
}
