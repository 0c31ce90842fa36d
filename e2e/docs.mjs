// Uses the API page as a person does, and fails when anything in the browser is not as it should be.
// node docs.mjs <base address> <chromium> <screenshot>
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [base, executablePath, screenshot] = process.argv.slice(2);
const patience = 120_000; // ms for each step, on a machine that does much else

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
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
  page.setDefaultTimeout(patience);
  page.on("console", (m) => {
    if (m.type() === "error" || m.type() === "warning") wrong.push(`console ${m.type()}: ${m.text()}`);
  });
  page.on("pageerror", (e) => wrong.push(`page error: ${e.stack ?? e}`));
  page.on("requestfailed", (r) => wrong.push(`request failed: ${r.method()} ${r.url()} ${r.failure()?.errorText}`));
  page.on("request", (r) => {
    const { protocol, origin } = new URL(r.url());
    if (protocol !== "data:" && origin !== base) wrong.push(`request to elsewhere: ${r.url()}`);
  });
  try {
    await use(page);
  } finally {
    await page.screenshot({ path: screenshot }); // what was used last
  }
} finally {
  await browser.close();
}
assert.deepEqual(wrong, []);
console.log("the page works; screenshot at", screenshot);

async function use(page) {
  const answer = await page.goto(`${base}/docs`);
  assert.equal(answer.status(), 200);
  const policy = answer.headers()["content-security-policy"] ?? "";
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|https?:|\*/);

  await page.locator(".opblock").first().waitFor();
  const description = await (await page.request.get(`${base}/openapi.yaml`)).text();
  const operations = description.match(/^    (get|post|put|patch|delete):$/gm).length;
  assert.equal(await page.locator(".opblock").count(), operations, "operations shown");

  const registered = await execute(page, "POST", "/api/v1/auth/register", "201");
  assert.equal(registered.user.role, "admin", "the first account");
  await authorize(page, registered.accessToken);
  const me = await execute(page, "GET", "/api/v1/me", "200");
  assert.equal(me.id, registered.user.id);
  const project = await execute(page, "POST", "/api/v1/projects", "201");
  assert.equal(project.createdBy, me.id);
}

// execute opens an operation, sends its example as it stands, and returns the body that the page shows.
async function execute(page, method, path, status) {
  const operation = page.locator(".opblock").filter({
    has: page.locator(".opblock-summary-method", { hasText: new RegExp(`^${method}$`) }),
  }).filter({
    has: page.locator(`.opblock-summary-path[data-path="${path}"]`),
  });
  assert.equal(await operation.count(), 1, `${method} ${path} on the page`);
  await operation.locator(".opblock-summary-control").click();
  await operation.getByRole("button", { name: "Execute", exact: true }).click();
  const shown = operation.locator(".live-responses-table tbody .response");
  await shown.locator(".response-col_status", { hasText: new RegExp(`^${status}`) }).waitFor();
  const body = await shown.locator(".response-col_description .highlight-code code").first().textContent();
  console.log(method, path, status, `${Math.round(performance.now())} ms`);
  return JSON.parse(body);
}

async function authorize(page, token) {
  await page.locator(".auth-wrapper .btn.authorize").click();
  const dialog = page.locator(".dialog-ux .modal-ux");
  const bearer = dialog.locator(".auth-container", { hasText: "(http, Bearer)" });
  await bearer.getByRole("textbox").fill(token);
  await bearer.getByRole("button", { name: /^(Apply credentials|Authorize)$/ }).click();
  await bearer.getByRole("button", { name: /^(Remove authorization|Logout)$/ }).waitFor();
  await dialog.getByRole("button", { name: "Close", exact: true }).last().click();
  await dialog.waitFor({ state: "detached" });
}
