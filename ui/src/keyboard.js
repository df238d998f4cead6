// The keyboard in front of the screen. A hidden text field has the focus instead of noVNC's canvas, because only a field gets what
// input methods, dead keys and the keyboards of phones make, and what is pasted.
//
//   keydown --a key--> copied to the canvas, where noVNC makes keysyms of it     (the field never sees it)
//           --composing--> the field; what it holds in the end is sent as keysyms
//           --paste--> the browser's own paste event, which needs no permission; then the machine's Ctrl+V
//
// On a hardware keyboard a composed text is sent when it is finished. A phone composes every word, so there each change is sent as it
// comes, with Backspace for what the phone takes back.

import { KEYS, difference, keysymsOf, meaningOf } from "./typing.js";

/** Stands in the field, so that a phone has something to take away when its Backspace is for the machine. */
const PADDING = " ".repeat(24);
const LONGEST = 400;

/**
 * Wires `field`. `canvas()` is noVNC's canvas or null; `send(keysym, code, down?)` presses a key; `paste(text)` fills the machine's
 * clipboard unless what the machine copied is newer (`machineIsNewer()`); `leave()` moves the focus to the page; `typed(key)` is
 * called after every key that is no modifier.
 */
export function wireKeyboard(field, { canvas, send, paste, machineIsNewer, leave, typed }) {
  const held = new Map();
  let pasteKey = null;
  let composing = false;
  let onPhone = false;
  let sent = "";

  reset();
  field.addEventListener("keydown", keydown);
  field.addEventListener("keyup", keyup);
  field.addEventListener("paste", pasted);
  field.addEventListener("drop", (event) => event.preventDefault());
  field.addEventListener("compositionstart", () => (composing = true));
  field.addEventListener("compositionend", () => {
    composing = false;
    flush();
  });
  field.addEventListener("input", () => {
    if (!composing || onPhone) flush();
  });
  field.addEventListener("blur", letGo);

  function keydown(event) {
    // The keyboard of a phone names no physical key.
    onPhone = event.code === "";
    switch (meaningOf(event)) {
      case "compose":
        return;
      case "leave":
        event.preventDefault();
        return leave();
      case "paste":
        pasteKey = event;
        return;
      case "command":
        event.preventDefault();
        letGo();
        return withControl(event.key.toLowerCase());
      default:
        event.preventDefault();
        forward(event);
    }
  }

  function keyup(event) {
    if (pasteKey && pasteKey.code === event.code) return pressPaste();
    if (held.has(nameOf(event))) {
      event.preventDefault();
      forward(event);
    }
  }

  function forward(event, type = event.type) {
    const name = nameOf(event);
    if (type === "keydown") held.set(name, event);
    else held.delete(name);
    canvas()?.dispatchEvent(copyOf(event, type));
    if (type === "keydown" && !["Control", "Shift", "Alt", "Meta", "AltGraph", "CapsLock"].includes(event.key)) typed(event);
  }

  function pasted(event) {
    event.preventDefault();
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (text && !machineIsNewer()) paste(text);
    if (pasteKey) pressPaste();
    else withControl("v");
  }

  /** The key that pastes in the machine: here the text was put on its clipboard first, or there was none to put. */
  function pressPaste() {
    const event = pasteKey;
    pasteKey = null;
    if (event.metaKey) {
      letGo();
      return withControl("v");
    }
    forward(event, "keydown");
    forward(event, "keyup");
  }

  function withControl(letter) {
    send(...KEYS.Control, true);
    send(letter.codePointAt(0), null);
    send(...KEYS.Control, false);
    typed({ key: letter, ctrlKey: true });
  }

  function flush() {
    const { removed, added } = difference(sent, field.value);
    for (let i = 0; i < removed; i += 1) send(...KEYS.Backspace);
    for (const keysym of keysymsOf(added)) send(keysym, null);
    if (removed > 0 || added) typed({ key: added });
    sent = field.value;
    if (!composing && (sent.length < PADDING.length / 2 || sent.length > LONGEST || added.includes("\n"))) reset();
  }

  /** A key whose release is not seen here any more must not stay down in the machine. */
  function letGo() {
    for (const event of [...held.values()]) forward(event, "keyup");
    composing = false;
    pasteKey = null;
    reset();
  }

  function reset() {
    field.value = PADDING;
    sent = PADDING;
    field.setSelectionRange(PADDING.length, PADDING.length);
  }
}

function nameOf(event) {
  return event.code || `key ${event.keyCode}`;
}

function copyOf(event, type) {
  const { key, code, location, repeat, ctrlKey, shiftKey, altKey, metaKey, keyCode } = event;
  const modifiers = Object.fromEntries(["AltGraph", "CapsLock", "NumLock"].map((name) => [`modifier${name}`, event.getModifierState(name)]));
  return new KeyboardEvent(type, { key, code, location, repeat, ctrlKey, shiftKey, altKey, metaKey, keyCode, ...modifiers, cancelable: true });
}
