// Starts the site (vm-site.mjs) in a network namespace and waits for what happens in its page.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const PORT = 80;

/** The wait for something ended without it. */
export class Missed extends Error {}

/** Starts the site in `namespace`; returns its `source` text, `next()`, `place()` and `close()`. */
export async function startSite(namespace) {
  const dir = await mkdtemp(join(tmpdir(), "airlock-site-"));
  const socket = join(dir, "record.sock");
  const program = join(dirname(fileURLToPath(import.meta.url)), "vm-site.mjs");
  const args = ["netns", "exec", namespace, process.execPath, program, `${PORT}`, socket];
  const site = spawn("ip", args, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(site, "exit");
  const lines = createInterface(site.stdout);
  const first = await Promise.race([once(lines, "line"), ended]);
  if (site.exitCode !== null) throw new Error(`the site ended with ${first[0]}`);
  const { source } = JSON.parse(first[0]);

  const events = [];
  let looked = 0;

  async function more(until) {
    const signal = AbortSignal.timeout(Math.max(1, until - Date.now()));
    events.push(...(await ask(socket, events.length, signal)));
  }

  return {
    source,

    /**
     * The first event that `wanted` accepts among those that no earlier `next` has passed. Fails after `ms`, saying `what` was missed
     * and the last event that came instead.
     */
    async next(what, wanted, ms) {
      const until = Date.now() + ms;
      for (;;) {
        while (looked < events.length) {
          const event = events[looked++];
          if (wanted(event)) return event;
        }
        await more(until).catch((error) => {
          const last = events.at(-1);
          const seen = last ? `the last it wrote down is ${JSON.stringify(last)}` : "it has written down nothing";
          throw error.name === "AbortError" || error.name === "TimeoutError" ? new Missed(`the site missed ${what} for ${ms} ms; ${seen}`) : error;
        });
      }
    },

    /** Where the page's parts are on the machine's screen, as it said last. */
    place() {
      return events.findLast(({ kind }) => kind === "loaded" || kind === "resized");
    },

    /** Everything of a kind so far. */
    all(kind) {
      return events.filter((event) => event.kind === kind);
    },

    async close() {
      site.stdin.end();
      await ended;
      await rm(dir, { recursive: true, force: true });
    },
  };
}

function ask(socketPath, after, signal) {
  return new Promise((done, failed) => {
    const asking = request({ socketPath, path: `/record?after=${after}`, signal }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => done(JSON.parse(body)));
      response.on("error", failed);
    });
    asking.on("error", failed);
    asking.end();
  });
}
