// accounts.google.com and the token endpoint: the web flow of gemini and its paste-code flow.

import { randomBytes } from "node:crypto";
import { isPerson, loginForm, notice, readBody, sendHtml, sendJson } from "../page.mjs";

export const names = ["accounts.google.com", "oauth2.googleapis.com", "www.googleapis.com", "cloudcode-pa.googleapis.com"];

/** `mode`: `accept`, or `ineligible` for an account that the service behind the sign-in no longer serves. */
export function vendor(person, mode) {
  const codes = new Set();
  return {
    names,
    async answer(request, response, { name, path }) {
      if (name === "accounts.google.com") return authorize(person, codes, request, response);
      if (path === "/token") return token(codes, request, response);
      if (path.endsWith("/userinfo")) return sendJson(response, { id: "1", email: `${person.user}@example.org` });
      if (path === "/tokeninfo") return sendJson(response, { expires_in: 3600 });
      if (path.includes(":loadCodeAssist")) return sendJson(response, tiers(mode));
      await readBody(request);
      return sendJson(response, { error: { code: 404, status: "NOT_FOUND", message: "Not found" } }, 404);
    },
  };
}

async function authorize(person, codes, request, response) {
  const query = new URL(request.url, "https://accounts.google.com").searchParams;
  const form = { title: "Test sign-in", action: request.url };
  if (request.method !== "POST") return sendHtml(response, loginForm(form));
  const given = new URLSearchParams(await readBody(request));
  if (!isPerson(given, person)) return sendHtml(response, loginForm({ ...form, wrongFor: given.get("user") ?? "" }));
  const code = `4/${randomBytes(20).toString("base64url")}`;
  codes.add(code);
  const redirect = query.get("redirect_uri") ?? "";
  if (!/^http:\/\/(localhost|127\.0\.0\.1):\d+\//.test(redirect)) return sendHtml(response, notice("Your code", code));
  const back = new URL(redirect);
  back.searchParams.set("code", code);
  back.searchParams.set("state", query.get("state") ?? "");
  return response.writeHead(302, { location: back.href }).end();
}

async function token(codes, request, response) {
  const given = new URLSearchParams(await readBody(request));
  if (given.get("grant_type") !== "refresh_token" && !codes.delete(given.get("code"))) {
    return sendJson(response, { error: "invalid_grant", error_description: "Malformed auth code." }, 400);
  }
  return sendJson(response, {
    access_token: `ya29.${randomBytes(32).toString("base64url")}`,
    refresh_token: `1//${randomBytes(32).toString("base64url")}`,
    expires_in: 3599,
    token_type: "Bearer",
    scope: "https://www.googleapis.com/auth/cloud-platform",
  });
}

function tiers(mode) {
  const tier = { id: "free-tier", name: "Test", description: "test", isDefault: true };
  if (mode === "accept") return { currentTier: tier, allowedTiers: [tier], cloudaicompanionProject: "test" };
  return { allowedTiers: [], ineligibleTiers: [{ ...tier, reasonCode: "INELIGIBLE_ACCOUNT", reasonMessage: "no longer served" }] };
}
