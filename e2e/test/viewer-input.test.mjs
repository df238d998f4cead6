// What is typed and pasted arrives in the machine: keys of every layout, input methods, phones, the clipboard both ways. The stand-in
// records what RFB brought.

import assert from "node:assert/strict";
import { test } from "node:test";
import { keysym, openStage, ready, typed, until } from "../stage.mjs";

const CONTROL = 0xffe3;
const [BACKSPACE, TAB, RETURN, ESCAPE] = [0xff08, 0xff09, 0xff0d, 0xff1b];
const EVERYTHING = "@{}~éß한";
const keysyms = (text) => [...text].map(keysym);

test("keys, clipboard and tools of the screen", { timeout: 90_000 }, async (t) => {
  const { vnc, daemon, context, view } = await openStage(t);
  const page = await view("awaiting");
  const keyboard = await context.newCDPSession(page);
  const key = (type, event) => keyboard.send("Input.dispatchKeyEvent", { type, ...event });
  const press = async (event) => (await key("keyDown", { text: event.key, ...event }), await key("keyUp", event));
  // Keys travel on; they have arrived when there are enough of them and all are up again. What is missing then shows in the comparison.
  const arrived = (count) => until("keys", () => typed(vnc).length >= count && vnc.seen.keys.length === 2 * typed(vnc).length, 5000).catch(() => {});
  const expectKeys = async (wanted) => {
    await arrived(wanted.length);
    assert.deepEqual(typed(vnc), wanted);
    vnc.forget();
  };

  t.beforeEach(() => vnc.forget());

  await t.test("the screen has the keyboard, and Tab belongs to the machine", async () => {
    assert.equal(await page.evaluate(() => document.activeElement.id), "keys-in");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Enter");
    await expectKeys([TAB, ESCAPE, RETURN]);
    assert.equal(await page.evaluate(() => document.activeElement.id), "keys-in");
  });

  await t.test("what a key means on the viewer's layout arrives, not where the key is", async () => {
    // A French, a German and a Korean keyboard: the same places, other characters.
    await press({ key: "é", code: "Digit2" });
    await press({ key: "ß", code: "Minus" });
    await press({ key: "한", code: "KeyG" });
    await expectKeys(keysyms("éß한"));
    await key("keyDown", { key: "AltGraph", code: "AltRight" });
    for (const [character, code] of [["@", "KeyQ"], ["{", "Digit7"], ["}", "Digit0"], ["~", "BracketRight"]]) await press({ key: character, code });
    await key("keyUp", { key: "AltGraph", code: "AltRight" });
    await arrived(5);
    assert.deepEqual(typed(vnc).slice(1), keysyms("@{}~"));
    assert.deepEqual(vnc.seen.keys.at(-1), [typed(vnc)[0], false], "AltGr is let go of");
  });

  await t.test("dead keys and input methods send what they made, once", async () => {
    await key("keyDown", { key: "Dead", code: "Equal", windowsVirtualKeyCode: 229 });
    await keyboard.send("Input.imeSetComposition", { text: "´", selectionStart: 1, selectionEnd: 1 });
    await keyboard.send("Input.insertText", { text: "é" });
    await expectKeys(keysyms("é"));
    for (const text of ["ㅎ", "하", "한"]) {
      await key("keyDown", { key: "Process", code: "KeyG", windowsVirtualKeyCode: 229 });
      await keyboard.send("Input.imeSetComposition", { text, selectionStart: 1, selectionEnd: 1 });
    }
    assert.deepEqual(typed(vnc), []);
    await keyboard.send("Input.insertText", { text: "한" });
    await expectKeys(keysyms("한"));
    await page.keyboard.type("ok");
    await expectKeys(keysyms("ok"));
  });

  await t.test("a phone's keyboard, which composes every word, is seen letter by letter", async () => {
    for (const [text, end] of [["h", 1], ["he", 2], ["hel", 3], ["help", 4]]) {
      await key("keyDown", { key: "Unidentified", code: "", windowsVirtualKeyCode: 229 });
      await keyboard.send("Input.imeSetComposition", { text, selectionStart: end, selectionEnd: end });
    }
    await expectKeys(keysyms("help"));
    // The phone corrects the word while it commits it.
    await keyboard.send("Input.insertText", { text: "hello" });
    await expectKeys([BACKSPACE, ...keysyms("lo")]);
  });

  await t.test("a key that is down when the screen loses the keyboard does not stay down", async () => {
    await page.keyboard.down("Shift");
    await page.focus("#tool-keys");
    await until("shift up", () => vnc.seen.keys.length >= 2);
    assert.deepEqual(vnc.seen.keys.map(([, down]) => down), [true, false]);
    await page.keyboard.up("Shift");
    await page.focus("#keys-in");
  });

  await t.test("Ctrl+V brings this computer's text, then the key", async () => {
    await page.evaluate((text) => navigator.clipboard.writeText(text), EVERYTHING);
    await page.keyboard.press("Control+v");
    await until("the text", () => vnc.seen.texts.length > 0);
    assert.deepEqual(vnc.seen.texts, [EVERYTHING]);
    await expectKeys([CONTROL, keysym("v")]);
  });

  await t.test("what is only selected in the machine does not take Ctrl+V away from this computer", async () => {
    await page.keyboard.press("Control+a");
    vnc.copy("selected");
    await page.waitForFunction(() => document.querySelector("#clip-out").value === "selected");
    assert.equal(await page.getAttribute("#tool-clipboard", "data-news"), null);
    // What was pasted before is still there for a machine that asks for it late: it is offered again.
    await until("the text again", () => vnc.seen.texts.length > 0);
    assert.deepEqual(vnc.seen.texts.splice(0), [EVERYTHING]);
    await page.keyboard.press("Control+v");
    await until("the text", () => vnc.seen.texts.length > 0);
    assert.deepEqual(vnc.seen.texts, [EVERYTHING]);
  });

  await t.test("what was copied in the machine is shown, copied out only by the button, and not overwritten by a paste", async () => {
    await page.keyboard.press("Control+c");
    await expectKeys([CONTROL, keysym("c")]);
    vnc.copy(`from the machine ${EVERYTHING}`);
    await page.waitForSelector("#tool-clipboard[data-news]");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), EVERYTHING, "this computer's clipboard is left alone");
    await page.keyboard.press("Control+v");
    await expectKeys([CONTROL, keysym("v")]);
    assert.deepEqual(vnc.seen.texts, [], "the machine pastes its own");

    await page.click("#tool-clipboard");
    assert.equal(await page.inputValue("#clip-out"), `from the machine ${EVERYTHING}`);
    await page.click("#clip-copy");
    await page.waitForFunction(() => document.querySelector("#clip-note").textContent.startsWith("Copied"));
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `from the machine ${EVERYTHING}`);
  });

  await t.test("the panel pastes, and types where a field refuses that", async () => {
    await page.click("#clip-read");
    await page.waitForFunction(() => document.querySelector("#clip-in").value.startsWith("from the machine"));
    await page.click("#clip-paste");
    await until("the text", () => vnc.seen.texts.length > 0);
    assert.deepEqual(vnc.seen.texts, [`from the machine ${EVERYTHING}`]);
    await expectKeys([CONTROL, keysym("v")]);
    assert.equal(await page.inputValue("#clip-in"), "", "what may be a password does not stay");

    await page.fill("#clip-in", `${EVERYTHING}\tA\n`);
    await page.click("#clip-type");
    await expectKeys([...keysyms(EVERYTHING), TAB, keysym("A"), RETURN]);
    assert.deepEqual(vnc.seen.texts.slice(1), []);
    await page.waitForFunction(() => document.activeElement.id === "keys-in");
  });

  await t.test("keys that a phone lacks: Ctrl stays down for one key", async () => {
    await page.click("#tool-keys");
    await page.click("[data-key=Escape]");
    await page.click("[data-key=Control]");
    await page.keyboard.press("a");
    await page.keyboard.press("b");
    await until("three keys", () => vnc.seen.keys.length >= 8);
    const [down, up] = [true, false];
    assert.deepEqual(vnc.seen.keys, [
      [ESCAPE, down], [ESCAPE, up], [CONTROL, down], [keysym("a"), down], [CONTROL, up], [keysym("a"), up], [keysym("b"), down], [keysym("b"), up],
    ]);
    await page.click("#tool-keys");
  });

  await t.test("pointing reaches the same place, zoomed or not", async () => {
    const point = async () => {
      const { left, top, width } = await page.evaluate(() => document.querySelector("#screen canvas").getBoundingClientRect().toJSON());
      const scale = width / 1280;
      await page.mouse.click(left + 640 * scale, top + 391 * scale);
      await until("the click", () => vnc.seen.clicks.length > 0);
      const [x, y] = vnc.seen.clicks[0];
      assert.ok(Math.abs(x - 640) <= 2 && Math.abs(y - 391) <= 2, `${x}, ${y}`);
      vnc.forget();
      return scale;
    };
    await page.click("#clip-close");
    const fit = await point();
    await page.click("#tool-zoom");
    await page.waitForFunction((before) => document.querySelector("#screen canvas").getBoundingClientRect().width > before * 1280 * 1.4, fit);
    await point();
    await page.click("#tool-move");
    await page.mouse.click(640, 400);
    await page.keyboard.press("x");
    await until("the key", () => vnc.seen.keys.length > 0, 1000).catch(() => {});
    assert.deepEqual(vnc.seen.clicks, [], "while it is moved nothing is clicked");
    await page.click("#tool-zoom");
  });

  await t.test("only keys: out of the screen by F6, to a tool, into its panel, and back", async () => {
    await page.click("#screen", { position: { x: 640, y: 300 } });
    vnc.forget();
    const focused = () => page.evaluate(() => document.activeElement.id);
    await page.keyboard.press("F6");
    assert.equal(await focused(), "tool-clipboard");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "clip-in");
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "tool-clipboard");
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "tool-keys");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Shift+Tab");
    assert.equal(await focused(), "keys-in");
    await page.keyboard.press("F6");
    await page.keyboard.press("F6");
    assert.equal(await focused(), "keys-in");
    assert.deepEqual(typed(vnc), [], "the machine got none of it");
  });

  await t.test("without the browser's clipboard the panel still works", async () => {
    const bare = await context.newPage();
    await bare.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await bare.goto(daemon.link("awaiting"));
    await ready(bare);
    vnc.forget();
    await bare.click("#tool-clipboard");
    assert.equal(await bare.isVisible("#clip-read"), false);
    await bare.fill("#clip-in", "by hand");
    await bare.click("#clip-paste");
    await until("the text", () => vnc.seen.texts.length > 0);
    assert.deepEqual(vnc.seen.texts, ["by hand"]);
    vnc.copy("out");
    await bare.waitForFunction(() => document.querySelector("#clip-out").value === "out");
    await bare.click("#clip-copy");
    assert.equal(await bare.evaluate(() => document.activeElement.id + document.querySelector("#clip-out").selectionEnd), "clip-out3");
    assert.match(await bare.textContent("#clip-note"), /^Selected/);
    await bare.close();
  });

  await t.test("codes of a sign-in: copied, typed, sent, refused with what to do", async () => {
    const device = await view("device-code");
    assert.equal(await device.textContent("#login-user-code"), "WDJB-MJHT");
    await device.click("#login-copy");
    await device.waitForFunction(() => document.querySelector("#login-note").textContent.startsWith("Copied"));
    assert.equal(await device.evaluate(() => navigator.clipboard.readText()), "WDJB-MJHT");
    await device.click("#login-paste");
    await expectKeys(keysyms("WDJB-MJHT"));
    assert.equal(await device.isVisible("#login-form"), false);
    await device.close();

    const paste = await view("paste-code");
    assert.equal(await paste.isVisible("#login-give"), false);
    await paste.fill("#login-code", "wrong");
    await paste.press("#login-code", "Enter");
    await paste.waitForFunction(() => /did not take this code\. Copy the whole code/.test(document.querySelector("#login-note").textContent));
    assert.equal(await paste.inputValue("#login-code"), "wrong", "what was refused can be mended");
    await paste.fill("#login-code", " ac_0123#state ");
    await paste.click("#login-send");
    await paste.waitForSelector("#login-panel", { state: "hidden" });
    assert.deepEqual(daemon.asked.at(-1), ["/code", JSON.stringify({ code: "ac_0123#state" })]);
    await paste.close();
    const denied = await view("login-denied");
    assert.equal(await denied.textContent("#login-outcome"), "You or the provider said no.");
    await denied.click("#login-retry");
    await denied.waitForSelector("#login-form");
    assert.equal(await denied.isVisible("#login-again"), false);
    assert.deepEqual(daemon.asked.at(-1), ["/retry", ""]);
    await denied.close();
    assert.equal(await page.isVisible("#login-panel"), false, "a sign-in without codes shows none of it");
  });

  assert.deepEqual(page.faults, []);
});
