// Is the mail server of a real process, and the mail programs and the browser of its readers.
// node mails.mjs <base address> <chromium> <folder of certificates> <host> <port> <psql> <database>
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { simpleParser } from "mailparser";
import { chromium } from "playwright-core";
import { SMTPServer } from "smtp-server";

const [base, executablePath, folder, host, port, psql, database] = process.argv.slice(2);
const patience = 60_000; // ms for each step, on a machine that does much else
const password = "correct horse battery";
const arrived = []; // {raw, mail, user, from, to, tls}
const talk = []; // what came before the server was the right one

// serve listens at the address that the process knows, with one of the certificates or as the options say.
async function serve(certificate, options = {}) {
  const server = new SMTPServer({
    key: readFileSync(join(folder, `${certificate}.key`)),
    cert: readFileSync(join(folder, `${certificate}.pem`)),
    onConnect: (_, done) => {
      talk.push("connect");
      done();
    },
    onAuth: ({ username, password }, session, done) => {
      talk.push("auth");
      done(session.secure && username === "robot" && password === "p@ss:word" ? null : new Error("no"), { user: username });
    },
    onMailFrom: (_, __, done) => {
      talk.push("mail");
      done();
    },
    onData: async (stream, session, done) => {
      await keep(stream, session);
      done();
    },
    ...options,
  });
  server.on("error", () => {}); // broken handshakes
  await new Promise((listening) => server.listen(Number(port), host, listening));
  return () => new Promise((closed) => server.close(closed));
}

// keep takes a message in, with how it came.
async function keep(stream, { user, envelope, tlsOptions }) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  const raw = Buffer.concat(parts);
  arrived.push({ raw: raw.toString("latin1"), mail: await simpleParser(raw), user, from: envelope.mailFrom.address, to: envelope.rcptTo.map((r) => r.address), tls: tlsOptions?.version });
}

// Servers that no mail may go to. What could not be sent then is sent in the end.
const ends = { stripped: "does not offer it", strange: "certificate" };
let close = await serve("trusted", { hideSTARTTLS: true, disabledCommands: ["STARTTLS"], allowInsecureAuth: true });
const ada = await call("POST", "/auth/register", { email: "ada@example.org", password, firstName: "Ada", lastName: "Lovelace" });
await failed(ends.stripped);
await close();
close = await serve("strange");
await failed(ends.strange);
await close();
assert.ok(talk.includes("connect"));
assert.deepEqual([...new Set(talk)], ["connect"], "neither password nor mail went to them");

close = await serve("trusted");
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
try {
  await use();
} finally {
  await browser.close();
  await close();
}
console.log(arrived.length, "mails arrived; nothing went to servers without STARTTLS or with a strange certificate");

async function use() {
  const verification = await mailed("ada@example.org", 1);
  assert.equal(verification.mail.subject, "Please confirm your address");
  assert.equal(verification.mail.headers.get("list-unsubscribe"), undefined, "nobody can end mails of his account");
  await confirm(verification);

  const project = await call("POST", "/projects", { name: "Größe „Ärger“ \u{1f680}" }, ada.accessToken);
  await call("POST", `/projects/${project.id}/members`, { email: "bob@example.org", role: "member" }, ada.accessToken);
  const invitation = await mailed("bob@example.org", 1);
  assert.equal(invitation.mail.subject, "Ada Lovelace invites you to a project");
  assert.ok(invitation.mail.text.includes(project.name), invitation.mail.text);

  const token = linkIn(invitation, "invitation");
  const joined = await call("POST", "/auth/register", { email: "bob@example.org", password, firstName: "Bøb", lastName: "Tester" });
  await confirm(await mailed("bob@example.org", 2));
  await call("POST", "/invitations/accept", { token }, joined.accessToken);

  // A notification, whose subject is what people wrote.
  const task = await call("POST", "/tasks", { projectId: project.id, title: "Prüfe “日本語” \u{1f680} & <mehr>, bitte", assigneeId: joined.user.id }, ada.accessToken);
  const notice = await gathered("bob@example.org", 3);
  assert.ok(notice.mail.subject.startsWith(`Ada Lovelace gave you ${task.ref} “Prüfe “日本語” \u{1f680} & <mehr>, bitte”`), notice.mail.subject);
  assert.ok(!/[^\x00-\x7f]/.test(notice.raw), "all of it is ASCII on its way");
  assert.ok(notice.mail.html.includes("&lt;mehr&gt;"), notice.mail.html);
  const first = unsubscribe(notice);

  // Whoever only looks at the address changes nothing.
  const settings = () => call("GET", "/me/notification-settings", undefined, joined.accessToken);
  const before = await settings();
  for (const method of ["GET", "HEAD", "GET"]) assert.equal((await fetch(first, { method })).status, 200);
  assert.deepEqual(await settings(), before, "looking is not clicking");

  // The reader opens it in a browser, and presses the button.
  const context = await browser.newContext({ ignoreHTTPSErrors: true }); // whose certificate is known to the test alone
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (m) => m.type() === "error" && wrong.push(m.text()));
  page.on("pageerror", (e) => wrong.push(String(e)));
  page.on("request", (r) => new URL(r.url()).origin === base || wrong.push(`request to elsewhere: ${r.url()}`));
  page.setDefaultTimeout(patience);
  const link = notice.mail.text.match(/^No more mails about tasks that are given to you: (\S+)$/m)[1];
  assert.equal(link, first);
  await page.goto(link);
  await page.getByText("No more mails about tasks that are given to you?").waitFor();
  assert.deepEqual(await settings(), before, "the page by itself changes nothing");
  await page.getByRole("button", { name: "No more" }).first().click();
  await page.getByText("You get no more mails about tasks that are given to you.").waitFor();
  const after = await settings();
  assert.equal(wanted(before, "task.assigned"), true);
  assert.equal(wanted(after, "task.assigned"), false);
  assert.equal(wanted(after, "comment.mentioned"), true);
  assert.equal(after.email, true);
  assert.deepEqual(wrong, []);

  // A mail program does it by one click: the POST of RFC 8058.
  await call("POST", `/tasks/${task.id}/comments`, { body: `@[${joined.user.id}] schau` }, ada.accessToken);
  const mention = await gathered("bob@example.org", 4);
  const answer = await fetch(unsubscribe(mention), { method: "POST", headers: { "Content-Type": "application/x-www-form-urlencoded" }, body: "List-Unsubscribe=One-Click", redirect: "error" });
  assert.equal(answer.status, 200);
  assert.equal(wanted(await settings(), "comment.mentioned"), false);

  // The digest has what was not mailed by itself.
  await call("POST", `/tasks/${task.id}/comments`, { body: "noch etwas" }, ada.accessToken);
  await call("PUT", "/me/notification-settings", { digest: "daily" }, joined.accessToken);
  await eventually("an entry that is not mailed", () => sql(`SELECT count(*) FROM notifications WHERE kind = 'comment.created'`) === "1");
  sql(`UPDATE notification_settings SET digested = '-infinity'`);
  const digest = await gathered("bob@example.org", 5);
  assert.equal(digest.mail.subject, "Your daily digest: 1 unread");
  assert.ok(digest.mail.text.includes(`Ada Lovelace commented on ${task.ref}`), digest.mail.text);
  assert.match(unsubscribe(digest), /\/unsubscribe\/digest\//);
  assert.equal(new Set(arrived.map(({ mail }) => mail.messageId)).size, arrived.length, "each has an id of its own");

  // The server takes a mail, and its answer is lost: the mail comes again, as the same one.
  await close();
  let lost = 0;
  close = await serve("trusted", {
    onData: async (stream, session, done) => {
      await keep(stream, session);
      if (lost++ > 0) return done();
      const failure = new Error("who knows");
      failure.responseCode = 451;
      done(failure);
    },
  });
  await call("POST", "/auth/password/forgot", { email: "bob@example.org" });
  const again = await mailed("bob@example.org", 7), once = sent("bob@example.org")[5];
  assert.equal(again.mail.messageId, once.mail.messageId);
  assert.equal(again.raw, once.raw);
}

// sent are the mails to an address, as they came.
function sent(to) {
  return arrived.filter((one) => one.to.length === 1 && one.to[0] === to);
}

// mailed waits for the nth mail to an address, and judges what all mails have.
async function mailed(to, n) {
  await eventually(`mail ${n} to ${to}`, () => sent(to).length >= n);
  const one = sent(to)[n - 1];
  const { mail } = one;
  assert.equal(one.user, "robot", "signed in");
  assert.match(one.tls, /^TLSv1\.[23]$/);
  assert.equal(one.from, "tasks@tasks.example.org");
  assert.deepEqual(mail.from.value, [{ name: "Täskflow", address: "tasks@tasks.example.org" }]);
  assert.equal(mail.to.text, to);
  assert.match(mail.messageId, /^<[0-9a-f-]{36}@tasks\.example\.org>$/);
  assert.ok(Math.abs(Date.now() - mail.date) < 10 * 60_000, String(mail.date));
  assert.equal(mail.headers.get("auto-submitted"), "auto-generated");
  assert.match(one.raw, /^Content-Type: multipart\/alternative; /m);
  assert.ok(mail.text && mail.html && mail.attachments.length === 0);
  assert.match(mail.html, /^<!doctype html>/);
  for (const [, address] of mail.text.matchAll(/(https?:\S+)/g)) {
    assert.ok(address.startsWith(base + "/"), address);
    assert.ok(mail.html.includes(address), `not in the HTML: ${address}`);
  }
  for (const line of one.raw.split("\r\n")) assert.ok(line.length <= 998 && !line.includes("\n"), line);
  return one;
}

// gathered has what waits to be mailed have waited long enough, and waits for its mail.
async function gathered(to, n) {
  await eventually("nothing on its way to the inbox", () => sql(`SELECT count(*) FROM jobs WHERE kind = 'notification.fanout'`) === "0");
  sql(`UPDATE notifications SET created_at = created_at - interval '3 minutes'`);
  sql(`INSERT INTO jobs (id, kind, priority, payload) VALUES (uuid_v7(), 'notification.gather', 1, '{}')`);
  return mailed(to, n);
}

// unsubscribe is where one POST ends mails like this one (RFC 8058).
function unsubscribe({ mail, raw }) {
  const { url } = mail.headers.get("list").unsubscribe;
  assert.ok(url.startsWith(`${base}/unsubscribe/`), url);
  assert.match(raw, /^List-Unsubscribe-Post: List-Unsubscribe=One-Click\r$/m);
  return url;
}

function wanted(settings, kind) {
  return settings.kinds.find((each) => each.kind === kind).email;
}

function linkIn({ mail }, purpose) {
  return mail.text.match(new RegExp(`^${base}/account#${purpose}=(\\S+)$`, "m"))[1];
}

async function confirm(mail) {
  await call("POST", "/auth/email/verify", { token: linkIn(mail, "verify") });
}

// failed waits until the mail could not be sent for this reason, as an operator sees it.
async function failed(reason) {
  await eventually(`a mail that is not sent: ${reason}`, () => sql(`SELECT error FROM jobs WHERE kind = 'email.send'`).includes(reason));
}

function sql(statement) {
  return execFileSync(psql, ["-XAtq", "-v", "ON_ERROR_STOP=1", database, "-c", statement], { encoding: "utf8" }).trim();
}

async function eventually(what, holds) {
  for (const end = Date.now() + patience; Date.now() < end; await new Promise((go) => setTimeout(go, 100))) if (holds()) return;
  throw new Error(`not within ${patience} ms: ${what}`);
}

// call asks the API and returns the body of its answer.
async function call(method, path, body, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(base + "/api/v1" + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}
