// A stand-in for the daemon's viewer routes, only for developing the page and the sign-in script. It keeps the contract the page
// relies on (cookie for ticket, SSE replay, WebSocket codes, Content-Security-Policy) and nothing else.
//
// Session ids are the names of SCENARIOS, which stand still, and `live`, which plays a boot (faster than a real one by `speed`),
// bridges the WebSocket to `vnc` ({host, port}) and completes when `live.signedIn()` is called.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { WebSocketServer } from "ws";
import { BOOT, SCENARIOS } from "./scenarios.mjs";

const DIST = new URL("../../ui/dist/", import.meta.url);
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { "viewer.js": "text/javascript; charset=utf-8", "viewer.css": "text/css; charset=utf-8" };
const CLOSE = { completed: [4000, "completed"], failed: [4001, "failed"], cancelled: [4002, "cancelled"], expired: [4003, "expired"] };

/** Starts it on a free loopback port. */
export async function startDaemon({ vnc = null, speed = 1 } = {}) {
  const live = liveSession(speed);
  const tickets = new Map([["ticket-live", "live"], ...Object.keys(SCENARIOS).map((id) => [`ticket-${id}`, id])]);
  const server = createServer((request, response) => route(request, response).catch((error) => response.destroy(error)));
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => (offered.has("binary") ? "binary" : false) });
  server.on("upgrade", (request, socket, head) => {
    const id = /^\/api\/auth\/session\/([^/]+)\/vnc$/.exec(request.url)?.[1];
    if (!id || !allowed(request, id)) return socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (ws) => bridge(ws, id));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${server.address().port}`;

  return {
    url,
    live,
    /** The link a person gets for a session. */
    link: (id) => `${url}/api/auth/session/${id}/novnc?ticket=ticket-${id}`,
    /** Cuts every screen connection, as a lost network would. */
    dropScreens: () => sockets.clients.forEach((ws) => ws.terminate()),
    close: () => {
      sockets.clients.forEach((ws) => ws.terminate());
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };

  function allowed(request, id) {
    return new RegExp(`(^|; )airlock_viewer_${id}=yes(;|$)`).test(request.headers.cookie ?? "");
  }

  async function route(request, response) {
    const url = new URL(request.url, "http://mock");
    const asset = /^\/assets\/([a-z.]+)$/.exec(url.pathname)?.[1];
    if (asset in TYPES) return send(response, 200, TYPES[asset], await readFile(new URL(asset, DIST)));
    const [, id, rest = ""] = /^\/api\/auth\/session\/([^/]+)(\/[a-z]+)?$/.exec(url.pathname) ?? [];
    if (!id) return refuse(response, 404, "no such page");
    const ticket = url.searchParams.get("ticket");
    if (rest === "/novnc" && ticket) {
      if (tickets.get(ticket) !== id) return refuse(response, 401, "this link was used already");
      const cookie = `airlock_viewer_${id}=yes; HttpOnly; SameSite=Strict; Path=/api/auth/session/${id}`;
      response.writeHead(303, { location: url.pathname, "set-cookie": cookie });
      return response.end();
    }
    // Unlike the daemon, the page itself is served without a cookie, so that it can show that its link is refused.
    if (rest === "/novnc") return send(response, 200, "text/html; charset=utf-8", await readFile(new URL("viewer.html", DIST)));
    if (!allowed(request, id)) return refuse(response, 401, "no viewer cookie");
    if (rest === "") return send(response, 200, "application/json", JSON.stringify(sessionOf(id)));
    if (rest === "/events") return events(response, id);
    if (rest === "/cancel" && request.method === "POST") {
      if (id === "live") live.to("cancelled");
      return send(response, 200, "application/json", "{}");
    }
    return refuse(response, 404, "no such page");
  }

  function send(response, status, type, body) {
    response.writeHead(status, { "content-type": type, "content-security-policy": CSP, "cache-control": "no-store", "referrer-policy": "no-referrer" });
    response.end(body);
  }

  function refuse(response, status, message) {
    send(response, status, "application/json", JSON.stringify({ error: { code: "refused", message, requestId: "mock" } }));
  }

  function sessionOf(id) {
    if (id === "live") return live.session();
    const { session, ageMs = 31_000 } = SCENARIOS[id];
    return describe(id, Date.now() - ageMs, session);
  }

  function events(response, id) {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const say = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    if (id !== "live") {
      SCENARIOS[id].stages.forEach((report) => say("stage", report));
      say("state", sessionOf(id));
      if (sessionOf(id).state in CLOSE) response.end();
      return;
    }
    live.follow(say, () => response.end(), (stop) => response.on("close", stop));
  }

  function bridge(ws, id) {
    if (id !== "live" && !SCENARIOS[id].screen) return;
    const early = [];
    ws.on("message", (data) => (ws.tcp ? ws.tcp.write(data) : early.push(data)));
    ws.on("close", () => ws.tcp?.destroy());
    if (id !== "live") return join();
    live.follow(
      (event, data) => {
        if (event === "state" && data.state in CLOSE) ws.close(...CLOSE[data.state]);
        if (event === "stage" && data.stage === "display_up" && vnc) join();
      },
      () => {},
      (stop) => ws.on("close", stop),
    );

    function join() {
      ws.tcp = connect(vnc.port, vnc.host);
      early.forEach((chunk) => ws.tcp.write(chunk));
      ws.tcp.on("data", (chunk) => ws.send(chunk));
      ws.tcp.on("error", () => ws.close(4004, "vm_gone"));
      ws.tcp.on("close", () => ws.close(4004, "vm_gone"));
    }
  }
}

function describe(id, createdAt, patch) {
  return {
    sessionId: `5b1f0c5e-9a52-4d8e-8f9b-${id.padEnd(12, "0").slice(0, 12)}`,
    userId: "alice",
    provider: "demo",
    stage: null,
    cause: null,
    remedy: null,
    evidenceId: null,
    vmId: "c0ffee12-6c1e-4a57-b1d5-3f9c1d7a0008",
    browserIP: "192.168.100.8",
    createdAt: new Date(createdAt).toISOString(),
    deadline: new Date(createdAt + 600_000).toISOString(),
    ...patch,
  };
}

function liveSession(speed) {
  const createdAt = Date.now();
  const followers = new Set();
  const past = [];
  let state = "booting";

  const session = () => describe("live", createdAt, { state });
  const tell = (event, data) => {
    if (event === "stage") past.push(data);
    followers.forEach((one) => one.say(event, data));
    if (data.state in CLOSE) followers.forEach((one) => one.end());
  };
  const to = (next) => {
    if (state in CLOSE) return;
    state = next;
    tell("state", session());
  };
  for (const [stage, atMs] of BOOT) {
    setTimeout(() => {
      if (state !== "booting") return;
      tell("stage", { stage, ok: true, atMs });
      if (stage === "ready") to("awaiting_user");
    }, atMs / speed).unref();
  }
  return {
    session,
    to,
    signedIn() {
      to("capturing");
      setTimeout(() => to("completed"), 1500);
    },
    follow(say, end, onStop) {
      past.forEach((report) => say("stage", report));
      say("state", session());
      if (state in CLOSE) return end();
      const follower = { say, end };
      followers.add(follower);
      onStop(() => followers.delete(follower));
    },
  };
}
