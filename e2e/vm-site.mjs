// A site that writes down what happens in its page: what was typed, clicked, copied, pasted, and which glyphs the browser has. It stands
// for the world outside of the machine, so it runs in a network namespace of the test:
//
//   ip netns exec NAMESPACE node vm-site.mjs PORT SOCKET
//
// The page is on PORT. The record is on the Unix socket: `GET /record?after=N` waits until there is an event with a number above N.
// It ends when its input ends, so that it never outlives whoever started it.

import { createServer } from "node:http";

const [port, socket] = process.argv.slice(2);
const MAX_BODY = 64 * 1024;
const events = [];
let waiting = [];

function note(event) {
  events.push({ n: events.length + 1, ...event });
  waiting.splice(0).forEach((answer) => answer());
}

/** What the machine's browser is served. */
const site = createServer((request, response) => {
  if (request.method === "GET" && request.url === "/") {
    response.writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" });
    return response.end(PAGE);
  }
  if (request.method !== "POST" || request.url !== "/event") return response.writeHead(404).end();
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => (body += chunk).length > MAX_BODY && request.destroy());
  request.on("end", () => {
    note(JSON.parse(body));
    response.writeHead(204).end();
  });
});

/** What the test asks. */
const record = createServer((request, response) => {
  const after = Number(new URL(request.url, "http://site").searchParams.get("after"));
  const answer = () => {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(events.slice(after)));
  };
  if (events.length > after) return answer();
  waiting.push(answer);
  response.on("close", () => (waiting = waiting.filter((other) => other !== answer)));
});

/** Runs in the machine's browser. Boxes are centres on the machine's screen, in its pixels. */
function inPage() {
  const byId = (id) => document.getElementById(id);
  const field = byId("field");
  let last = Promise.resolve();
  // One after another, so that the record has the order of the events.
  const say = (event) => (last = last.then(() => fetch("/event", { method: "POST", body: JSON.stringify(event) })));
  const centre = (id) => {
    const box = byId(id).getBoundingClientRect();
    return { x: Math.round(mozInnerScreenX + box.x + box.width / 2), y: Math.round(mozInnerScreenY + box.y + box.height / 2) };
  };
  const place = (kind) => say({ kind, width: screen.width, height: screen.height, field: centre("field"), source: centre("source"), button: centre("button") });

  field.addEventListener("input", () => say({ kind: "input", value: field.value }));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    say({ kind: "entered", value: field.value });
    field.value = "";
  });
  byId("source").addEventListener("copy", () => say({ kind: "copy" }));
  byId("button").addEventListener("click", () => say({ kind: "click" }));
  addEventListener("resize", () => place("resized"));
  requestAnimationFrame(() => requestAnimationFrame(() => place("loaded")));
  say({ kind: "glyphs", glyphs: Object.fromEntries([...byId("samples").textContent].map((sample) => [sample, glyph(sample)])) });

  // A character that no font has is drawn as a frame with its number in it: ink all along the four sides of its box.
  function glyph(sample) {
    const canvas = document.createElement("canvas");
    const [width, height] = [(canvas.width = 80), (canvas.height = 80)];
    const drawing = canvas.getContext("2d", { willReadFrequently: true });
    drawing.font = "40px sans-serif";
    drawing.fillText(sample, 15, 55);
    const { data } = drawing.getImageData(0, 0, width, height);
    const ink = (x, y) => data[(y * width + x) * 4 + 3] > 20;
    const points = [...Array(width * height).keys()].map((i) => [i % width, Math.floor(i / width)]).filter(([x, y]) => ink(x, y));
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const share = (list) => list.filter(Boolean).length / list.length;
    const column = (x) => share(Array.from({ length: bottom - top + 1 }, (_, i) => ink(x, top + i)));
    const row = (y) => share(Array.from({ length: right - left + 1 }, (_, i) => ink(left + i, y)));
    const coloured = points.some(([x, y]) => Math.max(...data.slice((y * width + x) * 4, (y * width + x) * 4 + 3)) > 100);
    const sides = [column(left), column(right), row(top), row(bottom)];
    return { ink: points.length, framed: points.length > 0 && Math.min(...sides) > 0.9, coloured };
  }
}

const SOURCE = "Copied: @{}~ é ß 한 中 😀";
/** The last one belongs to nobody: it shows that a missing glyph is seen as one. */
const SAMPLES = "Aéß한中あ😀\u{10fffd}";
const PAGE = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Site</title><link rel="icon" href="data:,">
<style>
html, body { margin: 0; height: 100%; background: #0b3d5c; color: #fff; font: 22px/1.5 sans-serif }
body { padding: 40px; box-sizing: border-box }
input { display: block; box-sizing: border-box; width: 640px; height: 56px; margin: 20px 0; padding: 0 12px; font: 26px sans-serif; border: 0 }
button { width: 240px; height: 56px; font: 22px sans-serif }
</style></head>
<body><p>The world outside <span id="samples">${SAMPLES}</span></p>
<input id="field" autocomplete="off" spellcheck="false" aria-label="Field" autofocus>
<input id="source" readonly aria-label="Source" value="${SOURCE}">
<button id="button" type="button">Press</button>
<script>(${inPage})();</script></body></html>
`;

await new Promise((done) => site.listen(Number(port), "0.0.0.0", done));
await new Promise((done) => record.listen(socket, done));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
console.log(JSON.stringify({ source: SOURCE }));
