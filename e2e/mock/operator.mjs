// The stand-in's part for the operator page: a host at night, with sign-ins in every state, machines that live, failed and are gone, a
// console that goes on, images, and a build that runs. The token `operator` may everything, `sessions` nothing of builds.

import { BOOT } from "./scenarios.mjs";

const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();
const vmId = (n) => `c0ffee${String(n).padStart(2, "0")}-6c1e-4a57-b1d5-3f9c1d7a0008`;
const sessionId = (n) => `5b1f0c${String(n).padStart(2, "0")}-9a52-4d8e-8f9b-1f2e3d4c5b6a`;
const BROWSER = "browser@sha256:7d1e0b6f2a9c4e5d8b3f1a2c6e7d9081f2e3d4c5b6a798081726354455667788";

const stages = (count) => BOOT.slice(0, count).map(([stage, atMs]) => ({ stage, ok: true, atMs }));
const FAILED = [
  ...stages(9),
  { stage: "link_found", ok: false, atMs: 4160, errno: "ENODEV", detail: "no interface with MAC 06:00:c0:a8:64:0b; found: lo" },
];
const CONSOLE = `[    0.000000] Linux version 6.1.0-28-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC
[    0.000000] Command line: console=ttyS0 quiet ip=192.168.100.8::192.168.100.1:255.255.255.0:vm8:eth0:off
[    0.871204] printk: console [ttyS0] enabled
[    1.712200] Run /init as init process
@airlock {"v":1,"seq":1,"t_us":1910233,"stage":"init_started","ok":true}
@airlock {"v":1,"seq":2,"t_us":1912004,"stage":"config_read","ok":true}
[    2.120114] \u001b[33mvirtio_net virtio1 eth0: renamed\u001b[0m
@airlock {"v":1,"seq":3,"t_us":2140882,"stage":"modules_loaded","ok":true}
@airlock {"v":1,"seq":4,"t_us":2150019,"stage":"link_found","ok":true,"dev":"eth0"}
@airlock {"v":1,"seq":5,"t_us":2180711,"stage":"link_up","ok":true,"dev":"eth0"}
@airlock {"v":1,"seq":6,"t_us":2183044,"stage":"address_set","ok":true,"dev":"eth0","addr":"192.168.100.8/24"}
@airlock {"v":1,"seq":7,"t_us":2196930,"stage":"gateway_reachable","ok":true}
[    2.401180] overlayfs: upper fs is on tmpfs
@airlock {"v":1,"seq":8,"t_us":2460515,"stage":"root_mounted","ok":true}
init: xvnc started, pid 112
init: wm started, pid 118
init: firefox started, pid 121
`.replaceAll("\n", "\r\n");
const FAILED_CONSOLE = `${CONSOLE.split("\r\n").slice(0, 6).join("\r\n")}\r\n[    2.120114] virtio_blk virtio0: [vda] 804520 512-byte logical blocks\r\n@airlock {"v":1,"seq":4,"t_us":4160019,"stage":"link_found","ok":false,"errno":"ENODEV","detail":"no interface with MAC 06:00:c0:a8:64:0b; found: lo"}\r\n`;

const RECIPE = ["lock", "fetch", "packages", "configure", "initramfs", "rootfs", "boot_test", "publish"];

function host() {
  const failure = {
    code: "vm_failed", cause: "link_missing", stage: "link_found", evidenceId: "ev-c0ffee03",
    message: "no interface has the MAC 06:00:c0:a8:64:0b", remedy: "add the virtio_net driver to the image",
  };
  const session = (n, user, provider, state, age, more = {}) => ({
    sessionId: sessionId(n), userId: user, provider, providerName: provider, state, stage: "ready", cause: null, remedy: null, evidenceId: null,
    vmId: vmId(n), browserIP: `192.168.100.${7 + n}`, createdAt: ago(age), deadline: ago(age - 900), latestDeadline: ago(age - 3600), moreTime: true, ...more,
  });
  const vm = (n, state, age, more = {}) => ({
    id: vmId(n), sessionId: sessionId(n), image: BROWSER, driver: "qemu-tcg", state, stage: "ready", address: `192.168.100.${7 + n}`,
    mac: `06:00:c0:a8:64:0${7 + n > 9 ? (7 + n).toString(16) : 7 + n}`, tap: `fc-c0ffee0${n}6c`, pid: 4200 + n, createdAt: ago(age), ...more,
  });
  const gone = { stage: "ready", pid: null };
  return {
    sessions: [
      session(6, "erin", "codex", "queued", 4, { stage: null, queuePosition: 1, browserIP: null }),
      session(2, "bob", "claude_code", "booting", 6, { stage: "display_up" }),
      session(1, "alice", "demo", "awaiting_user", 95),
      session(3, "carol", "demo", "failed", 1260, { stage: "link_found", cause: "link_missing", evidenceId: "ev-c0ffee03", endedAt: ago(1255), error: { ...failure, code: "session_failed" } }),
      session(4, "dave", "codex", "completed", 5400, { endedAt: ago(5220) }),
      session(5, "alice", "gh", "expired", 90_000, { endedAt: ago(89_100) }),
    ],
    vms: [
      vm(2, "starting", 6, { stage: "display_up" }),
      vm(1, "ready", 95),
      vm(3, "failed", 1260, { ...gone, stage: "link_found", endedAt: ago(1255), error: failure }),
      vm(4, "destroyed", 5400, { ...gone, endedAt: ago(5218) }),
      vm(7, "needs_attention", 7300, { ...gone, sessionId: null, error: { code: "vm_failed", cause: "undo_failed", message: "delete TAP fc-c0ffee076c: device is busy", remedy: "airlock doctor says what holds it" } }),
    ],
    images: [
      { name: "base", digest: "sha256:19ce3f00aa5b7d1e0b6f2a9c4e5d8b3f1a2c6e7d9081f2e3d4c5b6a798081726", kernelRelease: "6.1.0-28-cloud-amd64", sizeBytes: 96_468_992, current: true, verified: true },
      { name: "browser", digest: BROWSER.split("@")[1], kernelRelease: "6.1.0-28-cloud-amd64", sizeBytes: 411_041_792, current: true, verified: true },
      { name: "browser", digest: "sha256:00ab3f00aa5b7d1e0b6f2a9c4e5d8b3f1a2c6e7d9081f2e3d4c5b6a798081726", kernelRelease: "6.1.0-27-cloud-amd64", sizeBytes: 410_020_000, current: false, verified: true },
      { name: "seed", digest: "sha256:55ab3f00aa5b7d1e0b6f2a9c4e5d8b3f1a2c6e7d9081f2e3d4c5b6a798081726", kernelRelease: "6.1.0-28-cloud-amd64", sizeBytes: 60_020_000, current: true, verified: false },
    ],
    builds: [
      {
        id: "b-3f9c1d7a", name: "browser", state: "running", stage: "configure", remainingMs: 41_000, startedAt: ago(52), endedAt: null, image: null, error: null,
        stages: RECIPE.map((stage, i) => ({ stage, state: i < 3 ? "done" : i === 3 ? "running" : "waiting", elapsedMs: i < 3 ? [10, 300, 38_000][i] : undefined, expectedMs: [10, 400, 40_000, 21_000, 900, 12_000, 18_000, 100][i], reused: i === 1 })),
      },
      {
        id: "b-77aa01b2", name: "app", state: "failed", stage: null, remainingMs: null, startedAt: ago(7000), endedAt: ago(6900), image: null,
        stages: RECIPE.map((stage, i) => ({ stage, state: i < 6 ? "done" : "waiting", elapsedMs: i < 6 ? 1000 : undefined, reused: false })),
        error: { code: "boot_test_failed", message: "the image did not become ready: the kernel has no driver for the root file system", remedy: "add erofs to the recipe's modules" },
      },
    ],
  };
}

const DIAGNOSES = {
  3: {
    verdict: "link_missing", stage: "link_found",
    summary: "The guest found no network interface with the MAC of its lease: the driver of its card is not in the image.",
    remedy: "add virtio_net to the recipe's modules and build the image again: airlock image build browser",
    evidence: [
      { line: 8, text: '@airlock {"v":1,"seq":4,"stage":"link_found","ok":false,"errno":"ENODEV"}' },
      { text: "QEMU has a virtio-net card with the MAC 06:00:c0:a8:64:0a", source: "host" },
      { text: "virtio_net is not in the list of loaded modules", source: "guest" },
    ],
    also: ["agent_unreachable"],
  },
  2: { verdict: "reachable_but_pending", stage: "browser_up", summary: "The machine still boots; 19 of 22 stages are reached.", remedy: "", evidence: [], also: [] },
};
const HEALTHY = { verdict: "healthy", stage: null, summary: "Every stage is reached and the guest answers over its network.", remedy: "", evidence: [], also: [] };

/** Routes of the operator page; `send(response, status, type, body)` and `refuse(response, status, message)` are the daemon's. */
export function operatorRoutes({ send, refuse }) {
  const state = host();
  const asked = [];
  const consoles = new Set();
  const builds = new Set();

  return {
    state,
    /** What was ended, `["DELETE /api/vms/..."]`. */
    asked,
    /** Text that machine 1 writes on its console from now on. */
    write: (text) => consoles.forEach((response) => response.write(text)),
    /** A line of the running build's log. */
    buildSays(line) {
      builds.forEach((response) => response.write(`event: line\ndata: ${JSON.stringify({ stage: "configure", line })}\n\n`));
    },
    /** Changes the running build and tells its followers. */
    patchBuild(change) {
      Object.assign(state.builds[0], change);
      builds.forEach((response) => response.write(`event: build\ndata: ${JSON.stringify(state.builds[0])}\n\n`));
      if (change.state) builds.forEach((response) => response.end());
    },
    answer,
  };

  function answer(request, response, { pathname: path }) {
    const json = (body) => send(response, 200, "application/json", JSON.stringify(body));
    if (path === "/api/auth/health") return json({ status: "ok", dependencies: { database: true, network: true, driver: "qemu-tcg", images: true }, liveVms: 2 });
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1];
    if (token !== "operator" && token !== "sessions") return refuse(response, 401, "this token is not known");
    if (path.startsWith("/api/images/builds") && token !== "operator") return refuse(response, 403, "the token has not the scope admin");
    if (request.method !== "GET") asked.push(`${request.method} ${path}`);

    if (path === "/api/auth/sessions") return json({ sessions: state.sessions });
    if (path === "/api/vms") return json({ vms: state.vms });
    if (path === "/api/images") return json({ images: state.images });
    if (path === "/api/images/builds") return json({ builds: state.builds });
    const session = state.sessions.find((one) => path === `/api/auth/session/${one.sessionId}/cancel`);
    if (session) return json(Object.assign(session, { state: "cancelled", endedAt: ago(0) }));
    const build = /^\/api\/images\/builds\/([^/]+)(\/events)?$/.exec(path);
    if (build) return answerBuild(request, response, build, json);
    const [, id, rest = ""] = /^\/api\/vms\/([^/]+)(\/[a-z]+)?$/.exec(path) ?? [];
    const vm = state.vms.find((one) => one.id === id);
    if (!vm) return refuse(response, 404, `there is no ${path}`);
    return answerVm(request, response, vm, rest, json);
  }

  function answerBuild(request, response, [, id, events], json) {
    const build = state.builds.find((one) => one.id === id);
    if (!events) return json(Object.assign(build, request.method === "DELETE" ? { state: "cancelled", endedAt: ago(0) } : {}));
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`event: build\ndata: ${JSON.stringify(build)}\n\n`);
    builds.add(response);
    response.on("close", () => builds.delete(response));
  }

  function answerVm(request, response, vm, rest, json) {
    const n = Number(vm.id.slice(6, 8));
    if (request.method === "DELETE") {
      if (n === 7) return refuse(response, 409, "delete TAP fc-c0ffee076c: device is busy");
      Object.assign(vm, { state: "destroyed", endedAt: ago(0), pid: null });
      const session = state.sessions.find((one) => one.sessionId === vm.sessionId);
      if (session) Object.assign(session, { state: "cancelled", endedAt: ago(0) });
      return send(response, 204, "text/plain", "");
    }
    if (rest === "/timeline") return json({ stages: n === 3 ? FAILED : stages(n === 2 ? 19 : 22) });
    if (rest === "/diagnosis") return json(DIAGNOSES[n] ?? HEALTHY);
    if (rest !== "/console") return json(vm);
    response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
    response.write(n === 3 ? FAILED_CONSOLE : CONSOLE);
    if (vm.endedAt) return response.end();
    consoles.add(response);
    response.on("close", () => consoles.delete(response));
  }
}
