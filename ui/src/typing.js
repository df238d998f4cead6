// From text to keys of the machine. Pure.
//
// RFB (RFC 6143 section 7.5.4) carries X keysyms, so a character arrives whatever layout either side has: Latin-1 is its own keysym,
// everything else is 0x01000000 plus its code point (X11 protocol, appendix A).

/** Keys without a character, by the name the page gives them: `[keysym, KeyboardEvent.code]`. */
export const KEYS = {
  Escape: [0xff1b, "Escape"],
  Tab: [0xff09, "Tab"],
  Enter: [0xff0d, "Enter"],
  Backspace: [0xff08, "Backspace"],
  Delete: [0xffff, "Delete"],
  Home: [0xff50, "Home"],
  End: [0xff57, "End"],
  PageUp: [0xff55, "PageUp"],
  PageDown: [0xff56, "PageDown"],
  ArrowLeft: [0xff51, "ArrowLeft"],
  ArrowUp: [0xff52, "ArrowUp"],
  ArrowRight: [0xff53, "ArrowRight"],
  ArrowDown: [0xff54, "ArrowDown"],
  Control: [0xffe3, "ControlLeft"],
  Alt: [0xffe9, "AltLeft"],
  Shift: [0xffe1, "ShiftLeft"],
};

const CONTROLS = new Map([["\n", KEYS.Enter[0]], ["\t", KEYS.Tab[0]], ["\b", KEYS.Backspace[0]]]);

/** The keysym of one character, or `null` for a control character that no key makes. */
export function keysymOf(character) {
  if (CONTROLS.has(character)) return CONTROLS.get(character);
  const point = character.codePointAt(0);
  if (point < 0x20 || (point >= 0x7f && point < 0xa0)) return null;
  return point <= 0xff ? point : 0x01000000 + point;
}

/** The keysyms of a text, in order; letters with marks as one character, line ends as Enter. */
export function keysymsOf(text) {
  return [...text.replace(/\r\n?/g, "\n").normalize("NFC")].map(keysymOf).filter((keysym) => keysym !== null);
}

/** What was done to a field: how many characters were removed at its end, and which came instead. */
export function difference(before, after) {
  const old = [...before];
  const now = [...after];
  let same = 0;
  while (same < old.length && same < now.length && old[same] === now[same]) same += 1;
  return { removed: old.length - same, added: now.slice(same).join("") };
}

/**
 * What a key that was pressed on the screen is: `leave` (F6, back to the page), `compose` (the browser is still making a character of
 * it), `paste`, `command` (a shortcut with the command key of a Mac, which the machine knows with Ctrl), or `key`.
 */
export function meaningOf({ key, keyCode, isComposing, ctrlKey, altKey, shiftKey, metaKey }) {
  if (isComposing || keyCode === 229 || key === "Dead" || key === "Process" || key === "Unidentified") return "compose";
  if (key === "F6" && !ctrlKey && !altKey && !metaKey && !shiftKey) return "leave";
  const letter = key.toLowerCase();
  if (letter === "v" && !altKey && ctrlKey !== metaKey) return "paste";
  if (key === "Insert" && shiftKey && !ctrlKey && !altKey) return "paste";
  if (metaKey && !ctrlKey && !altKey && ["a", "c", "x", "z"].includes(letter)) return "command";
  return "key";
}
