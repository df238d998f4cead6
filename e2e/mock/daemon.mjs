// A stand-in for the daemon's routes, only for developing the pages and the sign-in script. It keeps the contract the pages rely on
// (one-time tickets, cookie and Origin, SSE replay, WebSocket codes, Content-Security-Policy, bearer tokens) and nothing else.
//
// Session ids are the names of SCENARIOS, which stand still until `patch()` changes them, and `live`, which plays a boot (faster than
// a real one by `speed`), bridges the WebSocket to `vnc` ({host, port}) and completes when `live.signedIn()` is called.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { WebSocketServer } from "ws";
import { operatorRoutes } from "./operator.mjs";
import { CLOSE, liveSession, stillSession } from "./sessions.mjs";
import { SCENARIOS } from "./scenarios.mjs";

const DIST = new URL("../../ui/dist/", import.meta.url);
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", html: "text/html; charset=utf-8" };
const NOTICE = "<!doctype html><html lang=en><meta charset=utf-8><title>Airlock</title><h1>This link is no longer valid</h1>";

/** Starts it on a free loopback port. */
export async function startDaemon({ vnc = null, speed = 1 } = {}) {
  const live = liveSession(speed);
  const sessions = new Map(Object.entries(SCENARIOS).map(([id, scenario]) => [id, stillSession(id, scenario)]));
  sessions.set("live", live);
  const tickets = new Map();
  const cookies = new Map();
  const asked = [];
  let offline = false;
  const operator = operatorRoutes({ send, refuse });
  const server = createServer((request, response) => route(request, response).catch((error) => response.destroy(error)));
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => (offered.has("binary") ? "binary" : false) });
  // A network that is down lets nobody in and says nothing.
  server.on("connection", (socket) => offline && socket.destroy());
  server.on("upgrade", (request, socket, head) => {
    const id = /^\/api\/auth\/session\/([^/]+)\/vnc$/.exec(request.url)?.[1];
    if (!allowed(request, id)) return socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    if (!isOurs(request)) return socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (ws) => bridge(ws, sessions.get(id)));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${server.address().port}`;

  return {
    url,
    live,
    operator,
    /** What pages asked for that does something, `[[method, path, body]]`. */
    asked,
    /** A new link for a session, good for one browser. */
    link(id) {
      const ticket = randomUUID();
      tickets.set(ticket, id);
      return `${url}/api/auth/session/${id}/novnc?ticket=${ticket}`;
    },
    /** Changes a session that stands still, and tells its pages. */
    patch: (id, change) => sessions.get(id).patch(change),
    /** Cuts every screen connection, as a lost network would, or with a close code. */
    dropScreens: (code) => sockets.clients.forEach((ws) => (code ? ws.close(code) : ws.terminate())),
    /** Takes the network away, and gives it back with `false`. */
    setOffline(down) {
      offline = down;
      if (!down) return;
      sockets.clients.forEach((ws) => ws.terminate());
      server.closeAllConnections();
    },
    close: () => {
      sockets.clients.forEach((ws) => ws.terminate());
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };

  function allowed(request, id) {
    const cookie = /(?:^|; )airlock_viewer=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
    return id !== undefined && cookies.get(cookie) === id;
  }

  /** A browser names the origin of whatever acts; only our own page may. */
  function isOurs(request) {
    return request.headers.origin === `http://${request.headers.host}`;
  }

  async function route(request, response) {
    const address = new URL(request.url, "http://mock");
    const asset = /^\/assets\/((?:viewer|operator)\.(js|css))$/.exec(address.pathname);
    if (asset) return send(response, 200, TYPES[asset[2]], await readFile(new URL(asset[1], DIST)));
    if (address.pathname === "/operator") return send(response, 200, TYPES.html, await readFile(new URL("operator.html", DIST)));
    if (request.headers.authorization || !address.pathname.startsWith("/api/auth/session/")) return operator.answer(request, response, address);
    const [, id, rest = ""] = /^\/api\/auth\/session\/([^/]+)(\/[a-z]+)?$/.exec(address.pathname) ?? [];
    if (!sessions.has(id)) return refuse(response, 404, "no such page");
    if (rest === "/novnc") return page(request, response, address, id);
    if (!allowed(request, id)) return refuse(response, 401, "no viewer cookie");
    if (request.method === "POST") {
      if (!isOurs(request)) return refuse(response, 403, "this request does not come from the viewer page");
      let body = "";
      for await (const chunk of request) body += chunk;
      asked.push([rest, body]);
      return act(response, sessions.get(id), rest, body);
    }
    if (rest === "") return json(response, 200, sessions.get(id).session());
    if (rest === "/events") return events(response, sessions.get(id));
    if (rest === "/diagnosis") return json(response, 200, sessions.get(id).diagnosis());
    return refuse(response, 404, "no such page");
  }

  async function page(request, response, address, id) {
    const ticket = address.searchParams.get("ticket");
    const known = allowed(request, id);
    if (!ticket && known) return send(response, 200, TYPES.html, await readFile(new URL("viewer.html", DIST)));
    if (tickets.get(ticket) !== id && !known) return send(response, 403, TYPES.html, NOTICE);
    const headers = { location: address.pathname };
    if (tickets.get(ticket) === id) {
      tickets.delete(ticket);
      const secret = randomUUID();
      cookies.set(secret, id);
      headers["set-cookie"] = `airlock_viewer=${secret}; HttpOnly; SameSite=Strict; Path=/api/auth/session/${id}`;
    }
    response.writeHead(303, headers);
    response.end();
  }

  function act(response, session, rest, body) {
    if (rest === "/cancel") {
      session.to("cancelled");
      return json(response, 200, session.session());
    }
    if (rest === "/heartbeat") return json(response, 200, session.moreTime());
    if (rest === "/retry") {
      const { userCode, outcome, ...login } = session.session().login;
      session.patch({ login: { ...login, codeWanted: true, attempt: 2 } });
      return json(response, 200, session.session());
    }
    if (rest !== "/code") return refuse(response, 404, "no such page");
    const { code } = JSON.parse(body);
    if (code === "wrong") return refuse(response, 422, "the tool did not take this code", "copy the whole code from the page and send it again");
    session.patch({ login: undefined });
    return json(response, 200, {});
  }

  function send(response, status, type, body) {
    response.writeHead(status, { "content-type": type, "content-security-policy": CSP, "cache-control": "no-store", "referrer-policy": "no-referrer" });
    response.end(body);
  }

  function json(response, status, body) {
    send(response, status, "application/json", JSON.stringify(body));
  }

  function refuse(response, status, message, remedy) {
    json(response, status, { error: { code: "refused", message, remedy, requestId: "mock" } });
  }

  function events(response, session) {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const say = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    session.follow(say, () => response.end(), (stop) => response.on("close", stop));
  }

  function bridge(ws, session) {
    const early = [];
    let joined = false;
    ws.on("message", (data) => (ws.tcp ? ws.tcp.write(data) : early.push(data)));
    ws.on("close", () => ws.tcp?.destroy());
    session.follow(
      (event, data) => {
        if (event === "state" && data.state in CLOSE) ws.close(...CLOSE[data.state]);
        if (event === "stage" && data.stage === "display_up" && session.hasScreen && vnc && !joined) join();
      },
      () => {},
      (stop) => ws.on("close", stop),
    );

    function join() {
      joined = true;
      ws.tcp = connect(vnc.port, vnc.host);
      early.forEach((chunk) => ws.tcp.write(chunk));
      ws.tcp.on("data", (chunk) => ws.send(chunk));
      ws.tcp.on("error", () => ws.close(4004, "machine_gone"));
      ws.tcp.on("close", () => ws.close(4004, "machine_gone"));
    }
  }
}
