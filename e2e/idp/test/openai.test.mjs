// The OpenID provider, asked as the tool and its browser ask it.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { test } from "node:test";
import { vendor } from "../vendors/openai.mjs";

const CLIENT = "app_EMoamEEZ73f0CkXaXp7hrann";
const REDIRECT = "http://127.0.0.1:1455/auth/callback";
const person = { user: "alice", password: "right" };

async function serving(run) {
  const openai = vendor(person, "pending");
  const server = createServer((request, response) => {
    // The provider is told that the connection is secure, as it is in the tests with a machine.
    request.socket.encrypted = true;
    openai.answer(request, response, { name: "auth.openai.com", path: request.url.split("?")[0] });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const cookies = new Map();
  const ask = async (path, form) => {
    const response = await fetch(`http://127.0.0.1:${server.address().port}${path}`, {
      method: form ? "POST" : "GET",
      body: form && new URLSearchParams(form),
      redirect: "manual",
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") },
    });
    for (const cookie of response.headers.getSetCookie()) {
      const [name, value] = cookie.split(";")[0].split("=");
      cookies.set(name, value);
    }
    return response;
  };
  try {
    await run(ask);
  } finally {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
}

const pathOf = (response) => {
  const { pathname, search } = new URL(response.headers.get("location"), "https://auth.openai.com");
  return pathname + search;
};
const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));

test("a person signs in, and the tool gets tokens and a key for them", () =>
  serving(async (ask) => {
    const verifier = randomBytes(32).toString("base64url");
    const query = new URLSearchParams({
      response_type: "code", client_id: CLIENT, redirect_uri: REDIRECT, state: "s", scope: "openid profile email offline_access",
      code_challenge: createHash("sha256").update(verifier).digest("base64url"), code_challenge_method: "S256",
    });
    const interaction = pathOf(await ask(`/oauth/authorize?${query}`));
    assert.match(await (await ask(interaction)).text(), /name="password"/);
    assert.match(await (await ask(interaction, { user: "alice", password: "wrong" })).text(), /class="error"/);
    const resumed = pathOf(await ask(interaction, person));
    const back = new URL((await ask(resumed)).headers.get("location"));
    assert.equal(back.searchParams.get("state"), "s");

    const code = { grant_type: "authorization_code", code: back.searchParams.get("code"), redirect_uri: REDIRECT, client_id: CLIENT };
    assert.equal((await ask("/oauth/token", { ...code, code_verifier: verifier.replace(/./, "x").slice(1) + "y" })).status, 400);
    const tokens = await (await ask("/oauth/token", { ...code, code_verifier: verifier })).json();
    assert.equal(claims(tokens.id_token)["https://api.openai.com/auth"].chatgpt_account_id, "acct-test");
    assert.equal(claims(tokens.access_token)["https://api.openai.com/auth"].chatgpt_plan_type, "plus");
    assert.ok(tokens.refresh_token);

    const exchange = {
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange", client_id: CLIENT, requested_token: "openai-api-key",
      subject_token: tokens.id_token, subject_token_type: "urn:ietf:params:oauth:token-type:id_token",
    };
    assert.match((await (await ask("/oauth/token", exchange)).json()).access_token, /^sk-test-/);
  }));

test("an account without the device flow says so as the vendor does", async () => {
  const answered = await new Promise((done) => {
    const response = { writeHead: (status) => ({ end: () => done(status) }) };
    vendor(person, "disabled").answer({}, response, { name: "auth.openai.com", path: "/api/accounts/deviceauth/usercode" });
  });
  assert.equal(answered, 404);
});
