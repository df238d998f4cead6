// How the operator page says things. Pure.

const STATE_TONES = {
  queued: "wait", starting: "busy", booting: "busy", awaiting_user: "good", capturing: "busy", completed: "good", ready: "good",
  running: "busy", published: "good", destroying: "busy", failed: "bad", needs_attention: "bad", interrupted: "bad",
};

/** `good`, `busy`, `wait`, `bad` or `quiet` of a session's, machine's or build's state. */
export function toneOf(state) {
  return STATE_TONES[state] ?? "quiet";
}

/** A state in words. */
export function stateText(state) {
  return (state ?? "").replaceAll("_", " ");
}

/** The first part of an id, enough to tell it from others. */
export function shortId(id) {
  return (id ?? "").slice(0, 8);
}

/** How long ago a moment was: `12 s`, `4 min`, `3 h`, `2 d`; empty where it is not known. */
export function agoText(iso, now) {
  const then = Date.parse(iso ?? "");
  return Number.isFinite(then) ? spanText(now - then) : "";
}

/** A length of time in one unit. */
export function spanText(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** Bytes as people read them, in units of 1024. */
export function sizeText(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) (value /= 1024), (unit += 1);
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** An image's name and the start of its digest. */
export function imageText(image) {
  const [name, digest] = (image ?? "").split("@sha256:");
  return digest ? `${name} ${digest.slice(0, 8)}` : name;
}

/** `{done, total}` of a build: by the time its stages took before where that is known, else by their number. */
export function buildProgress({ stages, remainingMs }) {
  const known = stages.every((stage) => stage.state === "done" || stage.expectedMs !== undefined);
  if (known && Number.isFinite(remainingMs)) {
    const total = stages.reduce((sum, stage) => sum + (stage.elapsedMs ?? stage.expectedMs ?? 0), 0);
    if (total > 0) return { done: Math.max(0, total - remainingMs), total };
  }
  return { done: stages.filter((stage) => stage.state === "done").length, total: stages.length };
}
