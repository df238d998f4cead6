// auth.openai.com: a real OpenID provider (npm `oidc-provider`) on the vendor's paths, and what the vendor adds to the standard: a
// claim object in the ID token, the token exchange for an API key (RFC 8693), and its own shape of the device flow.

import { randomBytes } from "node:crypto";
import Provider, { interactionPolicy } from "oidc-provider";
import { isPerson, loginForm, readBody, sendHtml, sendJson } from "../page.mjs";

const NAME = "auth.openai.com";
const CLIENT = "app_EMoamEEZ73f0CkXaXp7hrann";
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const SCOPES = ["openid", "profile", "email", "offline_access", "api.connectors.read", "api.connectors.invoke"];
const AUDIENCE = "https://api.openai.com/v1";
const ACCOUNT_CLAIM = "https://api.openai.com/auth";

export const names = [NAME, "api.openai.com", "chatgpt.com"];

/** `device` says what becomes of a device login: `pending` for ever, or `disabled` as in an account that does not allow it. */
export function vendor(person, device) {
  const provider = makeProvider(person);
  const callback = provider.callback();
  return {
    names,
    async answer(request, response, { name, path }) {
      if (name !== NAME) return sendJson(response, { error: "not_found" }, 404);
      if (path.startsWith("/interaction/")) return interaction(provider, person, request, response);
      if (path === "/api/accounts/deviceauth/usercode") return deviceCode(response, device);
      if (path === "/api/accounts/deviceauth/token") return sendJson(response, { error: "authorization_pending" }, 403);
      return callback(request, response);
    },
  };
}

function makeProvider(person) {
  const ofAccount = {
    [ACCOUNT_CLAIM]: { chatgpt_account_id: "acct-test", chatgpt_plan_type: "plus", chatgpt_user_id: `user-${person.user}` },
  };
  const account = {
    accountId: person.user,
    claims: () => ({
      sub: person.user,
      email: `${person.user}@example.org`,
      email_verified: true,
      name: person.user,
      ...ofAccount,
    }),
  };
  // Signing in is the consent: the provider would ask once more, as for every native client.
  const policy = interactionPolicy.base();
  policy.remove("consent");
  const provider = new Provider(`https://${NAME}`, {
    clients: [
      {
        client_id: CLIENT,
        application_type: "native",
        token_endpoint_auth_method: "none",
        redirect_uris: ["http://127.0.0.1:1455/auth/callback", "http://localhost:1455/auth/callback"],
        grant_types: ["authorization_code", "refresh_token", EXCHANGE],
        response_types: ["code"],
      },
    ],
    routes: { authorization: "/oauth/authorize", token: "/oauth/token" },
    scopes: SCOPES,
    claims: { openid: ["sub", ACCOUNT_CLAIM], email: ["email", "email_verified"], profile: ["name"] },
    // The tool reads its claims from the ID token and never asks the userinfo endpoint.
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed("refresh_token"),
    features: {
      devInteractions: { enabled: false },
      // Access tokens are JWTs, as the vendor's are: the tool looks into them.
      resourceIndicators: {
        enabled: true,
        defaultResource: () => AUDIENCE,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({ scope: SCOPES.join(" "), audience: AUDIENCE, accessTokenFormat: "jwt" }),
      },
    },
    interactions: { policy, url: (_ctx, { uid }) => `/interaction/${uid}` },
    ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 3600, IdToken: 3600, Interaction: 3600, RefreshToken: 3600, Session: 3600 },
    cookies: { keys: [randomBytes(32).toString("hex")] },
    extraTokenClaims: () => ofAccount,
    findAccount: (_ctx, sub) => (sub === person.user ? account : undefined),
    async loadExistingGrant(ctx) {
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
      const scopes = [...ctx.oidc.requestParamScopes].join(" ");
      grant.addOIDCScope(scopes);
      grant.addResourceScope(AUDIENCE, scopes);
      await grant.save();
      return grant;
    },
  });
  provider.on("server_error", (_ctx, error) => console.error(`openai: ${error.stack}`));
  provider.registerGrantType(
    EXCHANGE,
    async (ctx) => {
      if (ctx.oidc.params.requested_token !== "openai-api-key" || !ctx.oidc.params.subject_token) {
        ctx.throw(400, "invalid_request");
      }
      ctx.body = { access_token: `sk-test-${randomBytes(24).toString("hex")}` };
    },
    ["requested_token", "subject_token", "subject_token_type"],
  );
  return provider;
}

async function interaction(provider, person, request, response) {
  const { uid } = await provider.interactionDetails(request, response);
  const form = { title: "Test sign-in", action: `/interaction/${uid}` };
  if (request.method !== "POST") return sendHtml(response, loginForm(form));
  const given = new URLSearchParams(await readBody(request));
  if (!isPerson(given, person)) return sendHtml(response, loginForm({ ...form, wrongFor: given.get("user") ?? "" }));
  return provider.interactionFinished(request, response, { login: { accountId: person.user } }, { mergeWithLastSubmission: false });
}

function deviceCode(response, device) {
  if (device === "disabled") return sendJson(response, { error: "not_found" }, 404);
  return sendJson(response, { device_auth_id: randomBytes(16).toString("hex"), user_code: "ABCD-EFGHI", interval: "1" });
}
