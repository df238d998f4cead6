// Keys of keyboards that are not this machine's, as Chromium reports them on such a keyboard. Playwright's own keys are those of an
// American one; what it cannot press it inserts as text, which a remote screen never sees.

const ALT_GRAPH = { key: "AltGraph", code: "AltRight", windowsVirtualKeyCode: 225 };

/** `[code, with AltGr]` of a character, on the keyboard that has it. */
const KEYS = {
  "@": ["KeyQ", true],
  "{": ["Digit7", true],
  "}": ["Digit0", true],
  "~": ["BracketRight", true],
  "é": ["Digit2", false],
  "ß": ["Minus", false],
  "한": ["KeyG", false],
  "€": ["KeyE", true],
};

/** Presses `text` key by key: German for what German keyboards have, French for é, Korean for 한, American for the rest. */
export async function typeOnForeignKeys(page, text) {
  const client = await page.context().newCDPSession(page);
  const send = (type, key) => client.send("Input.dispatchKeyEvent", { type, ...key });
  for (const character of text) {
    const [code, graph] = KEYS[character] ?? [];
    if (!code) {
      await page.keyboard.press(character);
      continue;
    }
    const key = { key: character, code, text: character, unmodifiedText: character };
    if (graph) await send("rawKeyDown", ALT_GRAPH);
    await send("keyDown", key);
    await send("keyUp", { ...key, text: undefined });
    if (graph) await send("keyUp", ALT_GRAPH);
  }
  await client.detach();
}
