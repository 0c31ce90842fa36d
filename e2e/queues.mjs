// Uses the operators' page as they do, by mouse and by keyboard, and fails when anything in the
// browser is not as it should be.
// node queues.mjs <base address> <chromium> <psql> <database> <folder for screenshots>
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";

const [base, executablePath, psql, database, folder] = process.argv.slice(2);
const patience = 60_000; // ms for each step, on a machine that does much else
const password = "correct horse battery";

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", // root has no sandbox
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", // whatever leaves, leaves no name look-up
  ],
});
const wrong = [];
let page;
try {
  await use();
} catch (failure) {
  await page?.screenshot({ path: join(folder, "failed.png"), fullPage: true });
  throw failure;
} finally {
  await browser.close();
}
assert.deepEqual(wrong, []);
console.log("the page works; screenshots in", folder);

async function use() {
  const ada = await register("Ada");
  await register("Ben");

  page = await open({ width: 1280, height: 900 });
  await signIn("Ada");
  await page.getByText("Nothing is waiting").waitFor();
  await see("empty");

  const text = insert(`to_jsonb('garbage <b id="x">bold</b> & "password":"hunter2"'::text)`);
  const object = insert(`'{"kind": "k", "actorId": "<img src=x>", "password": "hunter2", "list": [{"apiToken": "hunter2"}], "big": 12345678901234567890}'`);
  await aDeadJobIsShownMendedAndRetried(ada, text, object);
  await aQueueIsPausedAndResumed(ada);
  await theKeyboardReachesEverything(ada, object);
  await manyAreChosenAndAllOfACauseChanged();
  await theAuditListTells();
  await theSessionIsRenewedAndEnds(ada);
  await othersAreRefused();
  await noViolationOfAccessibility();
}

async function aDeadJobIsShownMendedAndRetried(ada, text, object) {
  await page.getByRole("link", { name: /^Dead/ }).click();
  await row(text).waitFor();
  await row(object).waitFor();
  assert.match(await row(text).innerText(), /cannot unmarshal string/);
  await page.locator(".groups tbody tr").nth(1).waitFor();
  assert.equal(await page.locator(".groups tbody tr").count(), 2, "causes");
  await see("dead");

  await row(object).getByRole("link").click();
  await page.getByRole("heading", { name: "notification.fanout" }).waitFor();
  const shown = page.locator("pre[aria-label=Payload]");
  await shown.getByText("actorId").waitFor();
  const payload = await shown.innerText();
  for (const part of ['"actorId": "<img src=x>"', '"password": "[masked]"', '"apiToken": "[masked]"', '"big": 12345678901234567890']) assert.ok(payload.includes(part), `${part} in ${payload}`);
  assert.equal(await page.locator("#content img").count(), 0, "markup of a payload");
  await page.locator(".tries tbody tr").first().waitFor();
  assert.match(await page.locator(".tries tbody tr").first().innerText(), /-\d+-[0-9a-f]{8}\s[\s\S]*cannot unmarshal/, "the attempt's worker and error");
  await see("job");

  await page.goto(`${base}/admin/queues#/default/job/${text}`);
  await page.locator("pre[aria-label=Payload]").getByText('garbage <b id=\\"x\\">bold</b> &').waitFor();
  assert.equal(await page.locator("#x").count(), 0, "markup of a payload");
  assert.ok(!(await page.content()).includes("hunter2"), "a secret on the page");

  mend(text, ada.id);
  await page.getByRole("button", { name: "Retry now" }).click();
  await page.getByText("This job has ended well").waitFor();
  await page.getByRole("link", { name: "All jobs" }).click();
  await row(object).waitFor();
  await row(text).waitFor({ state: "detached" });
  assert.equal(await page.locator(".jobs tbody tr").count(), 1, "dead jobs left");
}

async function aQueueIsPausedAndResumed(ada) {
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Pause" }).click();
  await page.locator(".queue .badge", { hasText: "Paused" }).waitFor();
  const waits = insert(harmless(ada.id));
  await page.getByRole("link", { name: /^Ready/ }).click();
  await row(waits).waitFor();
  await page.locator(".tile", { hasText: /^Waiting/ }).locator(".value", { hasText: /^1$/ }).waitFor();
  await see("paused");
  await page.getByRole("button", { name: "Resume" }).click();
  await page.locator(".queue .badge", { hasText: "Running" }).waitFor();
  await row(waits).waitFor({ state: "detached" });
}

// theKeyboardReachesEverything retries the remaining dead job without a mouse, from a page just opened.
async function theKeyboardReachesEverything(ada, object) {
  await page.goto("about:blank");
  await page.goto(`${base}/admin/queues#/default/dead`);
  await row(object).waitFor(); // still signed in
  assert.equal(await page.evaluate(() => sessionStorage.length), 0, "what a duplicated tab would get");
  await tabTo((focused) => focused.text === "Skip to the jobs");
  await tabTo((focused) => focused.label === "Pause");
  const retry = (focused) => focused.label === `Retry notification.fanout ${object}`;
  await tabTo(retry);
  await page.waitForTimeout(3500); // polls of the figures, the list and the causes
  assert.ok(retry(await focus()), "polling moved the focus");
  mend(object, ada.id);
  await page.keyboard.press("Enter");
  await page.getByText("No dead jobs. All is well.").waitFor();
  assert.match(await page.locator("#notice").innerText(), /^Retried/);
  assert.equal((await focus()).tag, "H2", "focus after what had it is gone");
}

// tabTo presses Tab until something has the focus that should, and sees a mark at each stop.
async function tabTo(wanted) {
  for (let stops = 0; stops < 60; stops++) {
    await page.keyboard.press("Tab");
    const focused = await focus();
    if (focused.tag !== "BODY") assert.ok(focused.outline, `no mark of focus on ${JSON.stringify(focused)}`);
    if (wanted(focused)) return;
  }
  assert.fail("Tab does not reach it");
}

function focus() {
  return page.evaluate(() => {
    const node = document.activeElement, style = getComputedStyle(node);
    return { tag: node.tagName, text: node.innerText, label: node.getAttribute("aria-label") ?? node.innerText, outline: style.outlineStyle !== "none" && style.outlineWidth !== "0px" };
  });
}

async function manyAreChosenAndAllOfACauseChanged() {
  const ids = Array.from({ length: 4 }, (_, i) => insert(`'"bad ${i}"'`));
  insert(`'{"actorId": "odd"}'`);
  for (const id of ids) await row(id).waitFor();
  await row(ids[0]).getByRole("checkbox").check();
  await row(ids[1]).getByRole("checkbox").check();
  await page.getByText("2 chosen").waitFor();
  await page.getByRole("button", { name: "Delete chosen" }).click();
  await page.getByRole("dialog").getByText("Delete 2 jobs?").waitFor();
  await see("dialog");
  await page.keyboard.press("Escape");
  await row(ids[0]).waitFor();
  await page.getByRole("button", { name: "Delete chosen" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await row(ids[0]).waitFor({ state: "detached" });
  await row(ids[1]).waitFor({ state: "detached" });

  const cause = page.locator(".groups tr", { hasText: "cannot unmarshal string" });
  await cause.getByRole("button", { name: /^Delete all/ }).click();
  await page.getByRole("dialog").getByText("Delete 2 dead jobs?").waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Delete 2" }).click();
  await row(ids[3]).waitFor({ state: "detached" });

  await page.getByLabel("Search").fill("no such thing");
  await page.keyboard.press("Enter");
  await page.getByText("No dead job matches.").waitFor();
  await page.getByRole("link", { name: "Clear" }).click();
  await page.getByLabel("Kind").fill("notification.fanout");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.getByText("1 dead job matches").waitFor();
  await page.locator(".bar").getByRole("button", { name: /^Delete all 1/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete 1" }).click();
  await page.getByText("No dead job matches.").waitFor();
}

async function theAuditListTells() {
  await page.getByRole("link", { name: "Audit" }).click();
  await page.getByText("deleted 2 dead jobs of queue default, of one cause").waitFor();
  const rows = (await page.locator(".audit tbody tr").allInnerTexts()).map((text) => text.replace(/^.*?\t/, "").replace(/\s+/g, " "));
  const done = [/deleted 1 dead job of queue default, of kind notification.fanout/, /deleted 2 dead jobs/, /deleted notification.fanout/, /deleted notification.fanout/,
    /retried notification.fanout/, /resumed queue default/, /paused queue default/, /retried notification.fanout/];
  assert.equal(rows.length, done.length, rows.join("\n"));
  done.forEach((pattern, i) => assert.match(rows[i], pattern));
  assert.ok(rows.every((text) => text.startsWith("Ada Tester")), rows.join("\n"));
  await see("audit");
}

async function theSessionIsRenewedAndEnds(ada) {
  const renewed = page.waitForResponse((answer) => answer.url().endsWith("/auth/refresh") && answer.status() === 200);
  let refused = false;
  await page.route("**/api/v1/admin/queues", (route) => {
    if (refused) return route.continue();
    refused = true;
    return route.fulfill({ status: 401, json: { code: "unauthenticated", detail: "expired" } });
  });
  await renewed;
  await page.unroute("**/api/v1/admin/queues");
  await page.reload();
  await page.getByRole("heading", { name: "Audit" }).waitFor();
  sql(`UPDATE sessions SET revoked_at = clock_timestamp() WHERE user_id = '${ada.id}'`);
  await page.getByText("Your session has ended. Please sign in again.").waitFor();
  await see("ended");
}

async function othersAreRefused() {
  await signIn("Ben", { wrongFirst: true });
  await page.getByText("Only admins of the installation may do this. You are signed in as Ben Tester.").waitFor();
  assert.ok(!await page.locator("#app").isVisible(), "the figures show");
  await see("refused");
  await page.getByRole("button", { name: "Sign in as somebody else" }).click();
  await page.getByLabel("Email").waitFor();
}

// noViolationOfAccessibility asks axe about every view: light, dark, and as narrow as a phone.
async function noViolationOfAccessibility() {
  const id = insert(`'"bad"'`);
  const later = insert(`'"bad"'`, "now() + interval '2 hours'");
  for (const [colorScheme, width] of [["light", 1280], ["dark", 1280], ["light", 360]]) {
    await page.context().close();
    page = await open({ width, height: 800 }, colorScheme);
    const name = (view) => `${view}-${colorScheme}-${width}`;
    await page.getByLabel("Email").waitFor();
    await judge(name("sign-in"));
    await signIn("Ada");
    await page.goto(`${base}/admin/queues#/default/dead`);
    await row(id).waitFor();
    await page.locator(".groups tbody tr").first().waitFor();
    await row(id).getByRole("checkbox").check();
    await page.getByText("Workers and rates").click();
    await judge(name("dead"));
    await page.getByRole("button", { name: "Delete chosen" }).click();
    await judge(name("dialog"));
    await page.keyboard.press("Escape");
    await page.goto(`${base}/admin/queues#/default/scheduled`);
    await row(later).waitFor();
    await judge(name("scheduled"));
    await page.goto(`${base}/admin/queues#/default/running`);
    await page.getByText("Nothing is running just now").waitFor();
    await judge(name("running"));
    await page.goto(`${base}/admin/queues#/default/job/${id}`);
    await page.locator(".tries tbody tr").first().waitFor();
    await judge(name("job"));
    await page.goto(`${base}/admin/queues#/audit`);
    await page.locator(".audit tbody tr").first().waitFor();
    await judge(name("audit"));
  }
}

async function judge(name) {
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  const { violations } = await page.evaluate(`${axe.source}; axe.run({ resultTypes: ["violations"] })`);
  for (const { id, impact, help, nodes } of violations) {
    const text = `${name}: ${impact} ${id}: ${help}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`;
    if (impact === "serious" || impact === "critical") wrong.push(text);
    else console.log(text);
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 0) wrong.push(`${name}: ${wide} px wider than the window`);
}

// open opens the page in a new window that notes whatever goes wrong.
async function open(viewport, colorScheme = "light") {
  const context = await browser.newContext({ viewport, colorScheme });
  const opened = await context.newPage();
  opened.setDefaultTimeout(patience);
  // The browser calls an answer of 401, 403 or 404 an error; those that the page expects are none.
  const expected = /\/auth\/login|\/admin\/queues|\/admin\/jobs\/|\/admin\/audit|\/auth\/refresh/;
  opened.on("console", (m) => {
    const answer = /status of (401|403|404)/.test(m.text()) && expected.test(m.location().url);
    if ((m.type() === "error" || m.type() === "warning") && !answer) wrong.push(`console ${m.type()}: ${m.text()} ${m.location().url}`);
  });
  opened.on("pageerror", (e) => wrong.push(`page error: ${e.stack ?? e}`));
  opened.on("requestfailed", (r) => {
    if (r.failure()?.errorText !== "net::ERR_ABORTED") wrong.push(`request failed: ${r.method()} ${r.url()} ${r.failure()?.errorText}`);
  });
  opened.on("request", (r) => {
    if (new URL(r.url()).origin !== base) wrong.push(`request to elsewhere: ${r.url()}`);
  });
  const answer = await opened.goto(`${base}/admin/queues`);
  assert.equal(answer.status(), 200);
  const policy = answer.headers()["content-security-policy"] ?? "";
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|https?:|\*/);
  return opened;
}

async function signIn(name, { wrongFirst } = {}) {
  const email = page.getByLabel("Email"), secret = page.getByLabel("Password");
  await email.waitFor();
  await email.focus();
  await page.keyboard.type(`${name.toLowerCase()}@example.org`);
  await page.keyboard.press("Tab");
  if (wrongFirst) {
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("Check both").waitFor();
    await secret.fill("");
  }
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");
  await page.locator("#app:not([hidden]), #refused:not([hidden])").waitFor();
}

function row(id) {
  return page.locator(`.jobs tr[data-key="${id}"]`);
}

async function see(name) {
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  console.log(name, `${Math.round(performance.now())} ms`);
}

async function register(firstName) {
  const answer = await fetch(`${base}/api/v1/auth/register`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ email: `${firstName.toLowerCase()}@example.org`, password, firstName, lastName: "Tester" }),
  });
  assert.equal(answer.status, 201);
  return (await answer.json()).user;
}

// insert makes a job that the service did not, so that it may be broken, and returns its id.
function insert(payload, runAt = "clock_timestamp()") {
  return sql(`INSERT INTO jobs (id, kind, payload, trace, run_at) VALUES (uuid_v7(), 'notification.fanout', ${payload}, '${randomUUID()}', ${runAt}) RETURNING id`);
}

// harmless is a payload that can be read, and that concerns nobody.
function harmless(actor) {
  return `'{"kind": "task.assigned", "actorId": "${actor}", "taskId": "${randomUUID()}"}'`;
}

function mend(id, actor) {
  sql(`UPDATE jobs SET payload = ${harmless(actor)} WHERE id = '${id}'`);
}

function sql(statement) {
  return execFileSync(psql, ["-XAtq", "-v", "ON_ERROR_STOP=1", database, "-c", statement], { encoding: "utf8" }).trim();
}
