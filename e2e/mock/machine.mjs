// A stand-in for the machine: a real Xtigervnc on loopback with a real Firefox in it. Ends with close(), by process id.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const QUIET = {
  "browser.shell.checkDefaultBrowser": false,
  "browser.aboutwelcome.enabled": false,
  "browser.startup.homepage_override.mstone": "ignore",
  "datareporting.policy.dataSubmissionEnabled": false,
  "datareporting.policy.firstRunURL": "",
  "toolkit.telemetry.reportingpolicy.firstRun": false,
  "app.update.enabled": false,
  "app.normandy.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "",
  "signon.rememberSignons": false,
  "browser.tabs.warnOnClose": false,
  "browser.warnOnQuitShortcut": false,
};

/** Opens `url` in Firefox on a new X display; returns `{port, browserClosed, close}`, the port being RFB on loopback. */
export async function startMachine(url) {
  const home = await mkdtemp(join(tmpdir(), "airlock-machine-"));
  const port = await freePort();
  const display = `:${port % 10_000}`;
  const prefs = Object.entries(QUIET).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});`);
  await writeFile(join(home, "user.js"), prefs.join("\n"));

  const children = [];
  const run = (program, args) => {
    const child = spawn(program, args, { env: { ...process.env, HOME: home, DISPLAY: display }, stdio: "ignore", detached: true });
    child.on("error", (error) => console.error(`${program}: ${error.message}`));
    children.push(child);
    return new Promise((done) => child.on("exit", done));
  };
  run("Xtigervnc", [display, "-rfbport", `${port}`, "-localhost", "-SecurityTypes", "None", "-geometry", "1280x800", "-depth", "24", "-AlwaysShared"]);
  await listening(port);
  const browserClosed = run("firefox-esr", ["--no-remote", "--profile", home, "--width", "1280", "--height", "800", url]);

  return {
    port,
    browserClosed,
    async close() {
      for (const child of children.reverse()) {
        if (child.exitCode !== null) continue;
        const gone = new Promise((done) => child.on("exit", done));
        // Its own process group: Firefox leaves content processes behind otherwise.
        process.kill(-child.pid, "SIGKILL");
        await gone;
      }
      await rm(home, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

async function listening(port) {
  for (let i = 0; i < 100; i += 1) {
    const up = await new Promise((done) => {
      const socket = connect(port, "127.0.0.1", () => (socket.destroy(), done(true)));
      socket.on("error", () => done(false));
    });
    if (up) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`Xtigervnc does not listen on port ${port}`);
}
