// The operator page against the stand-in: the token, what is shown, what is live, and that nothing is ended without a question.

import assert from "node:assert/strict";
import { test } from "node:test";
import { openStage } from "../stage.mjs";

const vm = (n) => `c0ffee0${n}-6c1e-4a57-b1d5-3f9c1d7a0008`;
const MAX_BYTES = 600 * 1024;

test("the operator page", { timeout: 90_000 }, async (t) => {
  const { daemon, newPage } = await openStage(t);
  const { operator } = daemon;
  const page = await newPage();
  const addresses = [];
  let bytes = 0;
  page.on("request", (request) => addresses.push(request.url()));
  page.on("response", async (response) => {
    if (/assets|operator$/.test(response.url())) bytes += (await response.body().catch(() => "")).length;
  });
  const row = (list, text) => page.locator(`#${list} .row`, { hasText: text });
  const texts = (selector) => page.locator(selector).allTextContents();

  await t.test("a token is asked for, checked, and kept out of every address", async () => {
    await page.goto(`${daemon.url}/operator`);
    await page.fill("#token", "wrong");
    await page.press("#token", "Enter");
    await page.waitForFunction(() => /not known/.test(document.querySelector("#token-error").textContent));
    await page.fill("#token", "operator");
    await page.click("#token-form button");
    await page.waitForSelector("body[data-view=overview][data-link=live]");
    await page.reload();
    await page.waitForSelector("body[data-view=overview][data-link=live]");
    assert.deepEqual(addresses.filter((address) => /operator.+operator|token/.test(address)), []);
    assert.ok(bytes > 10_000 && bytes <= MAX_BYTES, `${bytes} bytes`);
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage) + document.cookie), "{}");
  });

  await t.test("what lives comes first, and what is wrong is said", async () => {
    assert.deepEqual(await texts("#counts .count-number"), ["3", "1", "3", "1"]);
    assert.deepEqual((await texts("#sessions .row-title")).slice(0, 3), ["erin · codex", "bob · claude_code", "alice · demo"]);
    assert.match(await row("sessions", "carol").textContent(), /failed.*link_missing · at link_found.*2\d min ago/);
    assert.match(await row("sessions", "alice · demo").textContent(), /\d+:\d\d left/);
    assert.equal(await row("sessions", "carol").locator("button").isVisible(), false, "what is over is not ended again");
    assert.match(await row("vms", "c0ffee07").textContent(), /needs attention.*undo_failed/);
  });

  await t.test("a machine that failed has its verdict, its picture and its console", async () => {
    await row("vms", "c0ffee03").locator("a").click();
    await page.waitForSelector("#diagnosis[data-tone=bad]");
    assert.match(await page.textContent("#diagnosis-summary"), /no network interface/);
    assert.match(await page.textContent("#diagnosis-facts"), /link_missing.*link_found.*airlock image build browser/);
    await page.waitForSelector("#timeline-rows tr[data-stage=link_found][data-ok=false]");
    const bars = await page.evaluate(() =>
      [...document.querySelectorAll("#timeline-rows rect")].map((bar) => {
        const { left, right } = bar.getBoundingClientRect();
        return [left, right];
      }),
    );
    assert.equal(bars.length, 10);
    for (let i = 1; i < bars.length; i += 1) assert.ok(bars[i][0] >= bars[i - 1][0] - 1 && bars[i][1] > bars[i][0], `bar ${i}`);
    const [left, right] = bars.at(-1);
    const whole = right - bars[0][0];
    assert.ok(Math.abs((right - left) / whole - (4160 - 2140) / 4160) < 0.02, "as long as the stage took");
    await page.waitForFunction(() => /machine is gone/.test(document.querySelector("#console-state").textContent));
    assert.equal(await page.textContent(".console-line[data-kind=failed]"), (await texts(".console-line")).at(-1));
    assert.match(await page.textContent("#vm-facts"), /ev-c0ffee03/);
    assert.equal(await page.isVisible("#vm-destroy"), false);
  });

  await t.test("the console of a live machine goes on, and cannot do anything to the page", async () => {
    await page.goto(`${daemon.url}/operator#/vm/${vm(1)}`);
    await page.waitForFunction(() => document.querySelector("#console-state").textContent === "Live");
    await page.waitForFunction(() => document.querySelectorAll(".console-line").length >= 17);
    operator.write("half of a li");
    await page.waitForFunction(() => document.querySelector("#console").lastChild.textContent === "half of a li");
    operator.write("ne \u001b[31mred\u001b[0m <img src=x onerror=document.title=1>\r\n");
    await page.waitForFunction(() => document.querySelector("#console").lastChild.textContent === "half of a line red <img src=x onerror=document.title=1>");
    assert.equal(await page.locator("#console img").count(), 0);
    operator.write(Array.from({ length: 4000 }, (_, i) => `line ${i}\n`).join(""));
    await page.waitForFunction(() => document.querySelector("#console").lastChild.textContent === "line 3999");
    assert.equal(await page.locator(".console-line").count(), 3000);
    const atEnd = () => page.evaluate(() => Math.abs(document.querySelector("#console").scrollHeight - document.querySelector("#console").clientHeight - document.querySelector("#console").scrollTop) < 2);
    assert.ok(await atEnd());
    await page.uncheck("#console-follow");
    await page.evaluate(() => document.querySelector("#console").scrollTo(0, 0));
    operator.write("later\n");
    await page.waitForFunction(() => document.querySelector("#console").lastChild.textContent === "later");
    assert.ok(!(await atEnd()), "who reads further up is left there");
  });

  await t.test("nothing is ended without a question, and a refusal says why", async () => {
    await page.click("#vm-cancel");
    await page.keyboard.press("Enter");
    assert.deepEqual(operator.asked, [], "Enter leaves it");
    await page.click("#vm-cancel");
    await page.click("#confirm-go");
    await page.waitForSelector("#vm-cancel", { state: "hidden" });
    assert.deepEqual(operator.asked.splice(0), ["POST /api/auth/session/5b1f0c01-9a52-4d8e-8f9b-1f2e3d4c5b6a/cancel"]);

    await page.goto(`${daemon.url}/operator#/`);
    await row("vms", "c0ffee07").locator("button").click();
    await page.click("#confirm-go");
    await page.waitForFunction(() => /device is busy/.test(document.querySelector("#confirm-error").textContent));
    await page.keyboard.press("Escape");
    await row("vms", "c0ffee02").locator("button").click();
    assert.match(await page.textContent("#confirm-title"), /c0ffee02/);
    await page.click("#confirm-go");
    await page.waitForFunction(() => /destroyed/.test([...document.querySelectorAll("#vms .row")].find((one) => /c0ffee02/.test(one.textContent)).textContent));
    assert.deepEqual(operator.asked, [`DELETE /api/vms/${vm(7)}`, `DELETE /api/vms/${vm(2)}`]);
  });

  await t.test("a build that runs shows how far it is and what it says", async () => {
    await page.click("#tabs a[data-tab=images]");
    await page.waitForSelector("#builds progress");
    const before = await page.evaluate(() => document.querySelector("#builds progress").position);
    await page.waitForFunction(() => document.querySelectorAll(".build-stages li").length === 8);
    operator.buildSays("Setting up firefox-esr");
    await page.waitForFunction(() => document.querySelector(".build-log").textContent === "Setting up firefox-esr");
    operator.patchBuild({ remainingMs: 9000 });
    await page.waitForFunction((before) => document.querySelector("#builds progress").position > before, before);
    operator.patchBuild({ state: "published", image: "browser@sha256:00ff", endedAt: new Date().toISOString() });
    await page.waitForFunction(() => /published/.test(document.querySelector("#builds .row").textContent));
    assert.match(await row("builds", "app").textContent(), /failed.*no driver for the root file system\. Add erofs/);
    assert.match(await row("images", "seed").textContent(), /never boot-tested/);
  });

  await t.test("a daemon that does not answer is said, and what was known stays", async () => {
    daemon.setOffline(true);
    await page.waitForSelector("#stale:not([hidden])");
    assert.match(await page.textContent("#stale"), /has not answered for \d+ s/);
    assert.equal(await page.textContent("#health-text"), "No answer");
    assert.equal(await page.locator("#images .row").count(), 4);
    daemon.setOffline(false);
    await page.waitForSelector("#stale", { state: "hidden" });
  });

  await t.test("a token without the right for builds, and one that is forgotten", async () => {
    await page.click("#forget");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.fill("#token", "sessions");
    await page.press("#token", "Enter");
    await page.waitForFunction(() => /scope admin/.test(document.querySelector("#builds-none").textContent));
    assert.equal(await page.locator("#images .row").count(), 4);
  });

  assert.deepEqual(page.faults, []);
});
