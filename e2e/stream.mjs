// Follows a project in a browser whose connections are cut twenty times, and fails when the page does
// not end up with what the service has, or was told anything twice or out of order.
// node stream.mjs <base address> <chromium>
import assert from "node:assert/strict";
import net from "node:net";
import { chromium } from "playwright-core";

const [base, executablePath] = process.argv.slice(2);
const cuts = 20;
const patience = 60_000; // ms for each step, on a machine that does much else

// The network is a proxy that can cut every connection.
const sockets = new Set();
const network = net.createServer((near) => {
  const far = net.connect(Number(new URL(base).port), "127.0.0.1");
  for (const socket of [near, far]) {
    sockets.add(socket);
    socket.on("close", () => (sockets.delete(socket), near.destroy(), far.destroy()));
    socket.on("error", () => {});
  }
  near.pipe(far).pipe(near);
});
await new Promise((listening) => network.listen(0, "127.0.0.1", listening));
const address = `http://127.0.0.1:${network.address().port}`;

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
try {
  await use();
} finally {
  await browser.close();
  network.close();
}

async function use() {
  const { accessToken: token } = await call("POST", "/auth/register", null, { email: "ada@example.org", password: "correct horse battery", firstName: "Ada", lastName: "Tester" });
  const { id: project } = await call("POST", "/projects", token, { name: "Followed" });

  const page = await browser.newPage();
  page.setDefaultTimeout(patience);
  await page.goto(`${address}/docs`);
  await page.evaluate(follow, { token, project });

  let writing = true;
  const written = write(token, project, () => writing);
  const opened = (n) => page.waitForFunction((n) => window.followed.opened >= n, n);
  for (let n = 1; n <= cuts; n++) {
    await opened(n);
    const seen = await page.evaluate(() => window.followed.seq);
    await page.waitForFunction((seen) => window.followed.seq > seen, seen);
    for (const socket of sockets) socket.destroy();
  }
  await opened(cuts + 1);
  writing = false;
  await written;

  const last = (await call("GET", `/projects/${project}/activity?limit=1`, token)).items[0].seq;
  await page.waitForFunction((last) => window.followed.seq >= last, last);
  const followed = await page.evaluate(() => window.followed);
  assert.deepEqual(followed.wrong, []);
  assert.equal(followed.seq, last);
  const tasks = {};
  for (let cursor = ""; cursor !== null; ) {
    const list = await call("GET", `/tasks?projectId=${project}&limit=100${cursor && "&cursor=" + cursor}`, token);
    for (const { id, title, status, priority } of list.items) tasks[id] = { title, status, priority };
    cursor = list.next;
  }
  assert.deepEqual(followed.tasks, tasks);
  console.log(`${last} events and ${Object.keys(tasks).length} tasks over ${followed.opened} streams`);
}

// follow runs in the page, as an application would: it keeps the project's tasks by what the stream tells.
function follow({ token, project }) {
  const followed = (window.followed = { opened: 0, seq: 0, tasks: {}, wrong: [] });
  let last = `${project}:0`;
  const again = () => setTimeout(() => open().catch(again), 50);
  async function open() {
    const answer = await fetch("/api/v1/events/ticket", { method: "POST", headers: { authorization: `Bearer ${token}` } });
    const { ticket } = await answer.json();
    const stream = new EventSource(`/api/v1/events?projectId=${project}&ticket=${ticket}&lastEventId=${encodeURIComponent(last)}`);
    stream.addEventListener("ready", () => followed.opened++);
    for (const name of ["reset", "project.left", "project.joined"]) stream.addEventListener(name, (event) => followed.wrong.push(event.type));
    stream.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.seq !== followed.seq + 1) followed.wrong.push(`${event.seq} after ${followed.seq}`);
      followed.seq = event.seq;
      last = message.lastEventId;
      if (!event.kind.startsWith("task.")) return;
      const task = (followed.tasks[event.subjectId] ??= {});
      for (const field of ["title", "status", "priority"]) if (field in event.changes) task[field] = event.changes[field][1];
      if (event.kind === "task.deleted") delete followed.tasks[event.subjectId];
    };
    stream.onerror = () => (stream.close(), again()); // its ticket is used up
  }
  return open();
}

// write changes the project until it should not any more.
async function write(token, project, goOn) {
  const ids = [];
  for (let n = 0; goOn(); n++) {
    if (n % 4 === 0) ids.push((await call("POST", "/tasks", token, { projectId: project, title: `Task ${n}` })).id);
    else if (n % 11 === 0 && ids.length > 3) await call("DELETE", `/tasks/${ids.shift()}`, token);
    else await call("PATCH", `/tasks/${ids[n % ids.length]}`, token, { title: `Task ${n}`, status: ["todo", "in_progress", "review", "done"][n % 3], priority: ["low", "high"][n % 2] });
    await new Promise((wake) => setTimeout(wake, 5));
  }
}

async function call(method, path, token, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(`${base}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}
