// The time left until the session's deadline. Pure: the clock comes in as an argument.

/** The header has whole seconds and is a little old: smaller differences say nothing. */
const SAME_CLOCK_MS = 2500;

/** How the server's clock differs from ours, in ms, by the `Date` header of an answer; 0 if it has none or they agree. */
export function clockOffset(dateHeader, now) {
  const offset = Date.parse(dateHeader ?? "") - now;
  return Math.abs(offset) > SAME_CLOCK_MS ? offset : 0;
}

/**
 * What to show at `now` (ms): `{text, spoken, urgency}` with urgency `calm`, `soon` (two minutes or less) or `over`; `null` without
 * a readable deadline.
 */
export function countdown(deadline, now) {
  const end = Date.parse(deadline ?? "");
  if (!Number.isFinite(end)) return null;
  const left = Math.ceil((end - now) / 1000);
  if (left <= 0) return { text: "0:00", spoken: "The time is up", urgency: "over" };
  const hours = Math.floor(left / 3600);
  const minutes = Math.floor((left % 3600) / 60);
  const seconds = String(left % 60).padStart(2, "0");
  const text = hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
  return { text, spoken: spoken(hours, minutes, left), urgency: left <= 120 ? "soon" : "calm" };
}

function spoken(hours, minutes, left) {
  if (hours > 0) return `${count(hours, "hour")} ${count(minutes, "minute")} left`;
  return minutes > 0 ? `${count(minutes, "minute")} left` : `${count(left, "second")} left`;
}

function count(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}
