// A machine's stages as bars over time. The arithmetic is pure; the bars are SVG made by DOM, so that no inline style is needed.

import { make } from "../dom.js";
import { formatMoment, labelOf } from "../stages.js";

const SVG = "http://www.w3.org/2000/svg";
/** A bar is seen also where its stage took no time, in percent of the width. */
const THINNEST = 0.6;

/**
 * Bars of `stages` (`{stage, ok, atMs, errno, detail}`) in order of time: each lasts from the stage before it to its own moment.
 * `[{stage, ok, fromMs, atMs, tookMs, left, width}]`, the last two in percent.
 */
export function barsOf(stages) {
  const sorted = [...stages].sort((a, b) => a.atMs - b.atMs);
  const whole = sorted.at(-1)?.atMs || 1;
  let before = 0;
  return sorted.map((stage) => {
    const fromMs = Math.min(before, stage.atMs);
    before = stage.atMs;
    const width = Math.max(THINNEST, ((stage.atMs - fromMs) / whole) * 100);
    const left = Math.min((fromMs / whole) * 100, 100 - width);
    return { ...stage, fromMs, tookMs: stage.atMs - fromMs, left, width };
  });
}

/** Fills `body` with a row for each stage. */
export function drawChart(body, stages) {
  body.replaceChildren(...barsOf(stages).flatMap(drawRow));
}

function drawRow(bar) {
  const name = make("th", "", make("code", "", bar.stage), make("span", "stage-words muted", labelOf(bar.stage)));
  name.scope = "row";
  const row = make("tr", "", name, make("td", "bar-cell", drawBar(bar)), make("td", "time", formatMoment(bar.atMs)), make("td", "time", formatMoment(bar.tookMs)));
  row.dataset.stage = bar.stage;
  row.dataset.ok = bar.ok;
  if (bar.ok) return [row];
  const why = make("td", "stage-why", ["failed", bar.errno, bar.detail].filter(Boolean).join(": "));
  why.colSpan = 4;
  return [row, make("tr", "why-row", why)];
}

function drawBar(bar) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar-picture");
  svg.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(SVG, "rect");
  const attributes = { x: `${bar.left}%`, width: `${bar.width}%`, y: "25%", height: "50%", rx: "2" };
  for (const [name, value] of Object.entries(attributes)) rect.setAttribute(name, value);
  svg.append(rect);
  return svg;
}
