// Fills the login page through the screen and says what became of it.

import { hasErrorBar } from "./marks.mjs";

/** More dark pixels than a text cursor has; a few letters or dots are well above. */
const TYPED_INK = 30;

/**
 * Types both values and presses Enter. Returns `refused` when the form is back with its error bar, `accepted` when the session stopped
 * waiting for a person, and otherwise what did not happen in time. The login page's disappearance alone says nothing: a browser
 * paints an empty page in between, and a screen that lost its connection starts black.
 */
export async function submitForm(screen, { user, password }, deadline) {
  const before = await screen.look();
  const fields = before?.fields ?? [];
  const [field] = fields;
  // Fields that cannot be made out are no obstacle: the page puts the keyboard into the first one.
  if (field) await screen.click(field.x + field.width / 2, field.y + field.height / 2);
  else await screen.focus();
  const verified = fields.length >= 2;

  await replace(user);
  if (verified && !(await shows(0))) return "the user name never showed";
  await screen.press("Tab");
  await replace(password);
  if (verified && !(await shows(1))) return "the password never showed";
  await screen.press("Enter");

  const hadError = before ? hasErrorBar(before) : false;
  if (await screen.until(isRefusal, deadline)) return "refused";
  return (await screen.isPast()) ? "accepted" : "neither accepted nor refused";

  async function replace(text) {
    await screen.press("Control+a");
    await screen.type(text);
  }

  function shows(index) {
    return screen.until((marks) => marks.ink[index] > TYPED_INK, deadline, fields);
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
