// The sign-in script against stand-ins: the mock daemon, and a real Xtigervnc with a real Firefox on the mock login page.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { startDaemon } from "../mock/daemon.mjs";
import { startLoginPage } from "../mock/login-page.mjs";
import { startMachine } from "../mock/machine.mjs";

const PASSWORD = "Corr3ct-Horse_@{}~!";
const missing = ["/usr/bin/Xtigervnc", "/usr/bin/firefox-esr", "/usr/bin/chromium"].filter((path) => !existsSync(path));
const skip = missing.length > 0 && `not installed: ${missing.join(", ")}`;

/** Runs the script; returns its exit code, its report and everything it printed. */
function run(args) {
  const child = spawn(process.execPath, [new URL("../sign-in.mjs", import.meta.url).pathname, ...args], {
    env: { ...process.env, E2E_PASSWORD: PASSWORD },
  });
  let printed = "";
  child.stdout.on("data", (chunk) => (printed += chunk));
  child.stderr.on("data", (chunk) => (printed += chunk));
  return new Promise((done) =>
    child.on("exit", (code) => done({ code, printed, report: JSON.parse(printed.trim().split("\n").at(-1) || "null") })),
  );
}

async function withStandIns(use) {
  let daemon;
  const login = await startLoginPage({
    user: "alice",
    password: PASSWORD,
    slowMs: 300,
    onSignedIn: () => daemon.live.signedIn(),
    // The network drops at the worst moment; the page must come back by itself.
    onRefused: () => daemon.dropScreens(),
  });
  const machine = await startMachine(login.url);
  daemon = await startDaemon({ vnc: { host: "127.0.0.1", port: machine.port }, speed: 8 });
  const artifacts = process.env.E2E_ARTIFACTS ?? (await mkdtemp(join(tmpdir(), "airlock-artifacts-")));
  try {
    await use({ daemon, login, machineClosed: machine.browserClosed, artifacts });
  } finally {
    await daemon.close();
    await machine.close();
    await login.close();
    if (!process.env.E2E_ARTIFACTS) await rm(artifacts, { recursive: true, force: true });
  }
}

test("signs in through the canvas, after lost keys, a wrong password and a lost connection", { skip, timeout: 180_000 }, () =>
  withStandIns(async ({ daemon, login, artifacts }) => {
    const { code, report, printed } = await run(
      ["--url", daemon.link("live"), "--user", "alice", "--artifacts", artifacts, "--events-timeout", "90", "--wrong-first"],
    );
    assert.equal(code, 0, printed);
    assert.equal(report.outcome, "completed");
    assert.equal(report.attempts, 2);
    assert.deepEqual(login.attempts, [["alice", `${PASSWORD}-wrong`], ["alice", PASSWORD]]);
    assert.ok(!printed.includes(PASSWORD));
    const pictures = await readdir(artifacts);
    for (const name of ["viewer-signin.png", "viewer-wrong-password.png", "viewer-completed.png"]) assert.ok(pictures.includes(name), name);
  }),
);

test("a session that ends when its browser is closed is reported as such", { skip, timeout: 120_000 }, () =>
  withStandIns(async ({ daemon, machineClosed, artifacts }) => {
    const args = ["--url", daemon.link("live"), "--user", "alice", "--artifacts", artifacts, "--events-timeout", "40", "--close-browser"];
    const running = run([...args, "--expect", "cancelled"]);
    machineClosed.then(() => daemon.live.to("cancelled"));
    const { code, report, printed } = await running;
    assert.equal(code, 0, printed);
    // Only the end of Firefox, which Ctrl+Q on the canvas brought about, cancels this session.
    assert.equal(report.attempts, 0);
  }),
);

test("reports a failed session with its reason", { skip, timeout: 60_000 }, async () => {
  const daemon = await startDaemon();
  const artifacts = await mkdtemp(join(tmpdir(), "airlock-artifacts-"));
  try {
    const args = ["--user", "alice", "--artifacts", artifacts, "--events-timeout", "20", "--url"];
    const { code, report } = await run([...args, daemon.link("failed-network")]);
    assert.equal(code, 1);
    assert.equal(report.outcome, "failed");
    assert.match(report.reason, /link_missing.*ev-20261123-3f9c1d7a/);
    assert.deepEqual(await readdir(artifacts), ["viewer-failure.png"]);
    assert.equal((await run([...args, daemon.link("failed-network"), "--expect", "failed"])).code, 0);
    assert.equal((await run([...args, daemon.link("booting"), "--events-timeout", "1"])).report.outcome, "booting");
  } finally {
    await daemon.close();
    await rm(artifacts, { recursive: true, force: true });
  }
});

test("refuses a wrong command line", async () => {
  const child = spawn(process.execPath, [new URL("../sign-in.mjs", import.meta.url).pathname, "--user", "alice"], { stdio: "ignore" });
  assert.equal(await new Promise((done) => child.on("exit", done)), 2);
});
