// The vendors' sign-in endpoints for the end-to-end tests, all on one address: a DNS responder that gives every vendor's name that
// address, and HTTPS by the name the client asked for. Runs inside a network namespace of the test, so none of it reaches anybody.
//
//   E2E_PASSWORD=... node main.mjs --address A --certificates DIR [--user U] [--openai-device M] [--github M] [--claude M] [--google M]
//   node main.mjs --names
//
// DIR holds cert.pem and key.pem of a test CA's certificate for the names that `--names` prints; the modes M are in vendors/. Every request and every name asked for is one JSON
// line on stdout, `{"seen":"dns"|"http",...}`, without query, form or token; the first line is {"ready":true,"names":[...]}. Ends on
// SIGTERM and when stdin closes, so it never outlives its test.

import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { createServer as createPlainServer } from "node:http";
import { parseArgs } from "node:util";
import { startDns } from "./dns.mjs";
import * as claude from "./vendors/claude.mjs";
import * as github from "./vendors/github.mjs";
import * as google from "./vendors/google.mjs";
import * as openai from "./vendors/openai.mjs";

const { values: options } = parseArgs({
  options: {
    address: { type: "string" },
    certificates: { type: "string" },
    names: { type: "boolean", default: false },
    user: { type: "string", default: "alice" },
    "openai-device": { type: "string", default: "pending" },
    github: { type: "string", default: "pending" },
    claude: { type: "string", default: "accept" },
    google: { type: "string", default: "accept" },
  },
});
const say = (line) => console.log(JSON.stringify(line));
const person = { user: options.user, password: process.env.E2E_PASSWORD };
if (options.names) {
  console.log([openai, github, claude, google].flatMap((vendor) => vendor.names).join("\n"));
  process.exit(0);
}
if (!options.address || !options.certificates || !person.password) {
  console.error("usage: E2E_PASSWORD=... node main.mjs --address A --certificates DIR [--user U]");
  process.exit(2);
}
const vendors = [
  openai.vendor(person, options["openai-device"]),
  github.vendor(person, options.github),
  claude.vendor(person, options.claude),
  google.vendor(person, options.google),
];
const byName = new Map(vendors.flatMap((vendor) => vendor.names.map((name) => [name, vendor])));

function answer(request, response) {
  const name = (request.headers.host ?? "").split(":")[0];
  const path = request.url.split("?")[0];
  // A path may hold a one-time id; what was asked is clear without it.
  const said = path.replace(/[A-Za-z0-9_-]{20,}/g, "ID");
  response.on("close", () => say({ seen: "http", name, method: request.method, path: said, status: response.statusCode }));
  const vendor = byName.get(name);
  if (!vendor) return response.writeHead(404).end();
  Promise.resolve(vendor.answer(request, response, { name, path })).catch((error) => {
    say({ seen: "fault", name, path: said, error: error.message });
    if (!response.headersSent) response.writeHead(500);
    response.end();
  });
}

const read = (file) => readFileSync(join(options.certificates, file));
const secure = createServer({ cert: read("cert.pem"), key: read("key.pem") }, answer);
secure.on("tlsClientError", (error) => say({ seen: "tls", error: error.code ?? error.message }));
// Who follows a plain link to a vendor is sent to the secure one, as the vendors do.
const plain = createPlainServer((request, response) => {
  const name = (request.headers.host ?? "").split(":")[0];
  say({ seen: "http", name, method: request.method, path: "(plain)", status: 301 });
  response.writeHead(301, { location: `https://${name}/` }).end();
});
const listening = (server, port) => new Promise((done, failed) => server.once("error", failed).listen(port, options.address, done));
await Promise.all([listening(secure, 443), listening(plain, 80), startDns(options.address, [...byName.keys()], say)]);
say({ ready: true, names: [...byName.keys()] });

const end = () => process.exit(0);
process.on("SIGTERM", end);
process.stdin.on("end", end).resume();
