// Images and their builds. A build that runs is followed by its events, which bring its progress and the lines of its log.

import { byId, make } from "../dom.js";
import { wordsOf } from "../words.js";
import { confirmThen } from "./confirm.js";
import { drawRows, fillRow, makeRow } from "./rows.js";
import { agoText, buildProgress, shortId, sizeText, spanText, stateText, toneOf } from "./words.js";

const LAST_LINES = 200;

/** Opens the page; returns `{draw({images, builds, buildsError}), close()}`. */
export function openImages(api, { now, changed }) {
  const closing = new AbortController();
  const followed = new Set();
  const live = new Map();

  function follow(build, row) {
    if (followed.has(build.id)) return;
    followed.add(build.id);
    const log = row.querySelector(".build-log");
    const onEvent = (name, data) => {
      if (name === "build") {
        live.set(data.id, data);
        fill(row, data);
        if (data.state !== "running") changed();
      } else if (name === "line") {
        log.append(make("div", "console-line", data.line || " "));
        while (log.childElementCount > LAST_LINES) log.firstElementChild.remove();
        log.scrollTop = log.scrollHeight;
        log.hidden = false;
      }
    };
    // A stream that is lost is opened again by the next look at the list.
    const again = () => followed.delete(build.id);
    api.followBuild(build.id, closing.signal, onEvent).then(again, again);
  }

  function create() {
    const row = makeRow({ action: "Cancel", onAction: (build) => cancel(build) });
    row.classList.add("build");
    const progress = make("progress", "");
    progress.setAttribute("aria-label", "Progress of the build");
    const log = make("div", "console build-log");
    log.tabIndex = 0;
    log.hidden = true;
    log.setAttribute("role", "log");
    log.setAttribute("aria-live", "off");
    log.setAttribute("aria-label", "Log of the build");
    row.append(make("div", "build-more", progress, make("ol", "build-stages"), make("p", "problem"), log));
    return row;
  }

  function fill(row, build) {
    const runs = build.state === "running";
    const left = runs && Number.isFinite(build.remainingMs) ? `about ${spanText(build.remainingMs)} left` : "";
    fillRow(row, build, {
      tone: toneOf(build.state),
      title: build.name,
      state: stateText(build.state),
      sub: runs ? `${build.stage ?? "waiting"}` : (build.image ?? `build ${shortId(build.id)}`),
      note: left || `${agoText(build.endedAt ?? build.startedAt, now())} ago`,
      canAct: runs,
    });
    const progress = row.querySelector("progress");
    const { done, total } = buildProgress(build);
    progress.hidden = !runs;
    progress.max = total;
    progress.value = done;
    row.querySelector(".build-stages").replaceChildren(...(runs ? build.stages.map(drawStage) : []));
    row.querySelector(".problem").textContent = build.error ? wordsOf(build.error) : "";
    if (!runs) row.querySelector(".build-log").hidden = true;
  }

  async function cancel(build) {
    const question = { title: `Cancel the build of ${build.name}?`, text: "Nothing is published. What is in the cache stays.", label: "Cancel build" };
    if (await confirmThen(question, () => api.cancelBuild(build.id))) changed();
  }

  return {
    draw({ images, builds, buildsError }) {
      drawRows(byId("builds"), builds, {
        keyOf: (build) => build.id,
        create,
        update(row, build) {
          const known = live.get(build.id);
          fill(row, known && known.state !== "running" ? known : build);
          if (build.state === "running") follow(build, row);
        },
      });
      byId("builds-none").hidden = builds.length > 0;
      byId("builds-none").textContent = buildsError || "No image was built here.";
      drawRows(byId("images"), images, {
        keyOf: (image) => `${image.name} ${image.digest}`,
        create: () => makeRow({}),
        update: (row, image) =>
          fillRow(row, image, {
            tone: image.current ? (image.verified ? "good" : "wait") : "quiet",
            title: image.name,
            state: image.current ? "current" : "older",
            sub: [image.digest.slice(0, 19), `kernel ${image.kernelRelease}`, image.verified ? "boot-tested" : "never boot-tested"].join(" · "),
            note: sizeText(image.sizeBytes),
          }),
      });
      byId("images-none").hidden = images.length > 0;
    },
    close: () => closing.abort(),
  };
}

function drawStage(stage) {
  const took = Number.isFinite(stage.elapsedMs) ? ` ${spanText(stage.elapsedMs)}` : "";
  const item = make("li", "", `${stateText(stage.stage)}${stage.reused ? " (cached)" : took}`);
  item.dataset.state = stage.state;
  if (stage.state === "running") item.setAttribute("aria-current", "step");
  return item;
}
