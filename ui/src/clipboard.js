// The clipboard of the machine: a panel that works without any permission, and the browser's clipboard where it is allowed.
//
// What the machine copied is shown and copied out only by a button: the machine is not trusted with the clipboard of the person's own
// computer. Nothing is remembered after the page is closed.
//
// An X server also tells of text that was only selected. What came after a key that copies, Enter, or one click is taken for a copy,
// which the machine's own paste then brings; a selection by dragging, two clicks or Ctrl+A is not, and leaves Ctrl+V to this computer.

import { announce, byId } from "./dom.js";
import { keysymsOf } from "./typing.js";

/** Between two keys of "Type it"; a machine that is short of time loses none at this pace. */
const KEY_EVERY_MS = 12;
/** Two clicks within this time, or a way of this many pixels between down and up, select. */
const DOUBLE_CLICK_MS = 500;
const DRAG_PX = 4;

/** Whether a key in the machine can copy. Pure. */
export function canCopy({ key, ctrlKey, metaKey }) {
  if (ctrlKey || metaKey) return ["c", "x", "insert"].includes(key.toLowerCase());
  return key === "Enter" || key === " ";
}

/**
 * Wires the panel. `screen()` is the screen or null; `back()` gives it the keyboard. Returns `{copied(text), pressed(key), paste(text),
 * machineIsNewer()}`.
 */
export function wireClipboard({ screen, back }) {
  const input = byId("clip-in");
  const output = byId("clip-out");
  const note = byId("clip-note");
  let stayed = false;
  let typing = false;
  let mayBeCopy = false;
  let down = { x: 0, y: 0, at: 0 };

  byId("screen").addEventListener("pointerdown", ({ x, y, timeStamp }) => {
    mayBeCopy = timeStamp - down.at > DOUBLE_CLICK_MS;
    down = { x, y, at: timeStamp };
  }, true);
  byId("screen").addEventListener("pointerup", ({ x, y }) => {
    if (Math.hypot(x - down.x, y - down.y) > DRAG_PX) mayBeCopy = false;
  }, true);

  // The person's own clipboard can change only while another window has the focus, or by a copy on this page.
  addEventListener("blur", () => (stayed = false));
  document.addEventListener("copy", () => (stayed = false));

  const canRead = Boolean(navigator.clipboard?.readText);
  byId("clip-read").hidden = !canRead;
  byId("clip-read").addEventListener("click", async () => {
    try {
      input.value = await navigator.clipboard.readText();
      say(input.value ? "Taken from this computer." : "The clipboard of this computer has no text.");
    } catch {
      say("Your browser does not allow it. Paste into the field instead.");
      input.focus();
    }
  });

  byId("clip-paste").addEventListener("click", () => {
    const text = take();
    if (!text) return;
    screen().paste(text);
    screen().pressControl("v");
    done("Pasted.");
  });

  byId("clip-type").addEventListener("click", async () => {
    if (typing) return (typing = false);
    const text = take();
    if (!text) return;
    typing = true;
    byId("clip-type").textContent = "Stop typing";
    await type(keysymsOf(text));
    byId("clip-type").textContent = "Type it";
    typing = false;
  });

  byId("clip-copy").addEventListener("click", async () => {
    output.select();
    try {
      await navigator.clipboard.writeText(output.value);
      stayed = false;
      say("Copied to this computer.");
    } catch {
      output.focus();
      say("Selected. Copy it with Ctrl+C, or Cmd+C on a Mac.");
    }
  });

  async function type(keysyms) {
    for (const [index, keysym] of keysyms.entries()) {
      if (!typing || !screen()) return say(`Stopped after ${index} of ${keysyms.length} keys.`);
      screen().send(keysym, null);
      note.textContent = `Typing ${index + 1} of ${keysyms.length}`;
      await new Promise((next) => setTimeout(next, KEY_EVERY_MS));
    }
    done("Typed.");
  }

  function take() {
    if (!input.value) {
      say("Put the text into the field first.");
      input.focus();
    } else if (!screen()) say("The screen is not connected. Nothing was sent.");
    return screen() ? input.value : "";
  }

  function done(text) {
    input.value = "";
    say(text);
    back();
  }

  function say(text) {
    note.textContent = text;
    announce(text);
  }

  return {
    /** The machine has a new text. Returns whether it was copied. */
    copied(text) {
      if (!text) return false;
      stayed = mayBeCopy;
      byId("clip-copy").disabled = false;
      output.value = text;
      if (!mayBeCopy) return false;
      if (byId("clip-panel").hidden) byId("tool-clipboard").dataset.news = "";
      say("The machine copied something.");
      return true;
    },
    /** A key went to the machine. */
    pressed: (key) => (mayBeCopy = canCopy(key)),
    /** Puts a text on the machine's clipboard. */
    paste: (text) => screen()?.paste(text),
    machineIsNewer: () => stayed,
  };
}
