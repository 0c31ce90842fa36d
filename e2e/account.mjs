// Opens the links in mails as their readers do, and fails when anything in the browser is not as it
// should be.
// node account.mjs <base address> <chromium> <folder of mails> <folder for screenshots>
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";

const [base, executablePath, mails, folder] = process.argv.slice(2);
const patience = 60_000; // ms for each step, on a machine that does much else
const password = "correct horse battery", better = "staple of good habits";

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
  page = await open();
  const ada = await call("POST", "/api/v1/auth/register", { email: "ada@example.org", password, firstName: "Ada", lastName: "Lovelace" });

  await follow("verify", "ada@example.org");
  assert.equal((await call("GET", "/api/v1/me", undefined, ada.accessToken)).emailVerified, false, "opening the page confirms nothing");
  await page.keyboard.press("Tab"); // from the heading, which has the focus
  await page.keyboard.press("Enter");
  await page.getByText("Your address is confirmed.").waitFor();
  assert.equal(new URL(page.url()).hash, "", "the used token is out of the address");
  assert.equal((await call("GET", "/api/v1/me", undefined, ada.accessToken)).emailVerified, true);

  await call("POST", "/api/v1/auth/password/forgot", { email: "ada@example.org" });
  const link = await follow("reset", "ada@example.org");
  await page.keyboard.type("qwertyuiop"); // the field has the focus
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("must not be a common word").waitFor();
  await page.getByLabel("New password").fill(better);
  await page.getByRole("button", { name: "Set password" }).click();
  await page.getByText("Your new password is set.").waitFor();
  await page.goto(link);
  await page.getByLabel("New password").fill(better);
  await page.getByRole("button", { name: "Set password" }).click();
  await page.getByRole("alert").getByText("used up").waitFor();

  const owner = (await call("POST", "/api/v1/auth/login", { email: "ada@example.org", password: better })).accessToken;
  const project = await call("POST", "/api/v1/projects", { name: "Web site relaunch" }, owner);
  for (const email of ["bob@example.org", "eve@example.org"]) await call("POST", `/api/v1/projects/${project.id}/members`, { email, role: "member" }, owner);
  await follow("invitation", "bob@example.org");
  await page.getByLabel("I have no account here yet").check();
  await page.getByLabel("First name").fill("Bob");
  await page.getByLabel("Last name").fill("Tester");
  await page.getByLabel("Email").fill("bob@example.org");
  await page.getByLabel("Password", { exact: true }).fill(password);
  await page.getByRole("button", { name: "Join" }).click();
  await page.getByText("You are a member of “Web site relaunch” now.").waitFor();
  await call("POST", "/api/v1/auth/register", { email: "eve@example.org", password, firstName: "Eve", lastName: "Tester" });
  await follow("invitation", "eve@example.org");
  await page.getByLabel("Email").fill("eve@example.org");
  await page.getByLabel("Password", { exact: true }).fill(password);
  await page.keyboard.press("Enter");
  await page.getByText("You are a member of").waitFor();
  const { items } = await call("GET", `/api/v1/projects/${project.id}/members`, undefined, owner);
  assert.deepEqual(items.map((member) => member.user.firstName).sort(), ["Ada", "Bob", "Eve"]);

  await page.goto(`${base}/account#reset=`);
  await page.getByText("This link is not whole").waitFor();
  await look("unknown");
}

// follow opens the link for a use in the newest mail to an address.
async function follow(purpose, email) {
  const link = await mailed(purpose, email);
  assert.ok(link.startsWith(`${base}/account#`), link);
  await page.goto("about:blank");
  const answer = await page.goto(link);
  assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
  await page.locator(`#${purpose}`).waitFor();
  await look(purpose);
  return link;
}

// mailed waits for the mail, which a job sends.
async function mailed(purpose, email) {
  for (const end = Date.now() + patience; Date.now() < end; await new Promise((go) => setTimeout(go, 100))) {
    let names = [];
    try {
      names = readdirSync(mails).filter((name) => name.endsWith(".eml")).sort().reverse();
    } catch {
      continue; // no mail has been sent yet
    }
    for (const name of names) {
      const raw = readFileSync(join(mails, name), "utf8");
      const link = raw.replace(/=\r\n/g, "").replace(/=3D/g, "=").match(new RegExp(`^(http\\S+/account#${purpose}=\\S+)\r$`, "m"));
      if (raw.includes(`To: <${email}>`) && link) return link[1];
    }
  }
  throw new Error(`no mail for ${purpose} to ${email}`);
}

// look keeps a picture, and finds what people with a screen reader would stumble over.
async function look(name) {
  await page.screenshot({ path: join(folder, `${name}.png`) });
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(violations.map((v) => `${name}: ${v.id} ${v.nodes.map((n) => n.html)}`), []);
}

async function open() {
  const page = await browser.newPage({ viewport: { width: 900, height: 900 }, bypassCSP: false });
  page.setDefaultTimeout(patience);
  page.on("console", (m) => {
    if (m.type() === "error" && !/status of (403|422)/.test(m.text())) wrong.push(`console: ${m.text()}`);
  });
  page.on("pageerror", (e) => wrong.push(`page error: ${e.stack ?? e}`));
  page.on("request", (r) => {
    const { protocol, origin } = new URL(r.url());
    if (protocol !== "about:" && origin !== base) wrong.push(`request to elsewhere: ${r.url()}`);
  });
  return page;
}

async function call(method, path, body, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}
