// Fills the login page through the screen and says what became of it.

import { hasErrorBar } from "./marks.mjs";

/** More dark pixels than a text cursor has; a few letters or dots are well above. */
const TYPED_INK = 30;
/** After this a person who sees nothing of what was typed points at the field and types again. */
const SEEN_WITHIN_MS = 15_000;
/** After this a person whose form still stands there sends it again. */
const ANSWERED_WITHIN_MS = 60_000;

/**
 * Types both values and presses Enter. Returns `refused` when the form is back with its error bar, `unanswered` when it stands there as
 * if nothing was sent, `accepted` when the session stopped waiting for a person, and otherwise what did not happen in time. The login
 * page's disappearance alone says nothing: a browser paints an empty page in between, and a screen that lost its connection starts black.
 */
export async function submitForm(screen, { user, password }, deadline) {
  const before = await screen.look();
  const fields = before?.fields ?? [];
  // Fields that cannot be made out are no obstacle: the page puts the keyboard into the first one.
  const verified = fields.length >= 2;
  if (fields.length > 0) await point(0);
  else await screen.focus();

  if (!(await fill(0, user))) return "the user name never showed";
  await screen.press("Tab");
  if (!(await fill(1, password))) return "the password never showed";
  await screen.press("Enter");

  const hadError = before ? hasErrorBar(before) : false;
  if (await screen.until(isRefusal, soon(ANSWERED_WITHIN_MS))) return "refused";
  // What was typed may stand on the screen for a moment after the session went on.
  if (await screen.isPast()) return "accepted";
  if (verified && (await screen.look([fields[1]]))?.ink[0] > TYPED_INK) return "unanswered";
  if (await screen.until(isRefusal, deadline)) return "refused";
  return (await screen.isPast()) ? "accepted" : "neither accepted nor refused";

  // A browser that has only just painted may not have its keyboard in the page yet: what does not show is pointed at and typed again.
  async function fill(index, text) {
    await replace(text);
    if (!verified) return true;
    while (!(await shows(index, soon(SEEN_WITHIN_MS)))) {
      if (Date.now() > deadline || (await screen.isPast())) return false;
      await point(index);
      await replace(text);
    }
    return true;
  }

  async function replace(text) {
    await screen.press("Control+a");
    await screen.type(text);
  }

  function point(index) {
    const field = fields[index];
    return screen.click(field.x + field.width / 2, field.y + field.height / 2);
  }

  function shows(index, until) {
    return screen.until((marks) => marks.ink[index] > TYPED_INK, until, fields);
  }

  function soon(ms) {
    return Math.min(Date.now() + ms, deadline);
  }

  // An error bar may be left from the time before; the form that came back has an empty password field of its full height (of a
  // field with text only stripes above and below the text are white).
  function isRefusal(marks) {
    if (!hasErrorBar(marks)) return false;
    if (!verified) return !hadError;
    const again = marks.fields[1];
    return again !== undefined && again.ink <= TYPED_INK && again.height >= fields[1].height - 2;
  }
}

/** Presses the page's Deny, which stands behind both fields and the button that agrees. */
export async function denyForm(screen) {
  const field = (await screen.look())?.fields?.[0];
  if (field) await screen.click(field.x + field.width / 2, field.y + field.height / 2);
  else await screen.focus();
  for (const key of ["Tab", "Tab", "Tab", "Enter"]) await screen.press(key);
}
