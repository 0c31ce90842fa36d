// Receives webhooks of a real process, as a receiver does that was written with the library of Standard
// Webhooks, which knows nothing of TaskFlow.
// node webhooks.mjs <base address>
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const base = process.argv[2];
const patience = 60_000; // ms for each delivery, on a machine that does much else
const arrived = [];
let waiting;

const receiver = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  arrived.push({ headers: request.headers, body: Buffer.concat(parts).toString("utf8") });
  response.statusCode = arrived.length === 1 ? 500 : 204; // the first comes again
  response.end();
  waiting?.();
});
await new Promise((listening) => receiver.listen(0, "127.0.0.1", listening));
try {
  await use();
} finally {
  receiver.closeAllConnections();
  receiver.close();
}
console.log(arrived.length, "deliveries verified");

async function use() {
  const email = "hooks@example.org";
  const ada = await call("POST", "/auth/register", { email, password: "correct horse battery", firstName: "Ada", lastName: "Lovelace" });
  const token = ada.accessToken;
  const project = await call("POST", "/projects", { name: "Launch" }, token);
  const url = `http://127.0.0.1:${receiver.address().port}/hook`;
  const made = await call("POST", `/projects/${project.id}/webhooks`, { url, events: ["task.*"] }, token);
  const task = await call("POST", "/tasks", { projectId: project.id, title: "Ünïcode “quoted” \u{1f680}" }, token);

  const first = await next(1);
  const again = await next(2); // five seconds later
  for (const one of [first, again]) {
    const event = new Webhook(made.secret).verify(one.body, one.headers);
    assert.equal(event.type, "task.created");
    assert.equal(event.data.subjectId, task.id);
    assert.deepEqual(event.data.changes.title, [null, task.title]);
  }
  assert.equal(again.headers["webhook-id"], first.headers["webhook-id"]);

  const forged = [
    ["another body", made.secret, again.body.replace("task.created", "task.deleted"), again.headers],
    ["another id", made.secret, again.body, { ...again.headers, "webhook-id": "x" }],
    ["another time", made.secret, again.body, { ...again.headers, "webhook-timestamp": String(Number(again.headers["webhook-timestamp"]) + 1) }],
    ["another secret", "whsec_" + Buffer.alloc(32).toString("base64"), again.body, again.headers],
  ];
  for (const [what, secret, body, headers] of forged) {
    assert.throws(() => new Webhook(secret).verify(body, headers), WebhookVerificationError, what);
  }

  const rotated = await call("POST", `/webhooks/${made.id}/rotate`, undefined, token);
  assert.notEqual(rotated.secret, made.secret);
  await call("POST", `/webhooks/${made.id}/test`, undefined, token);
  const test = await next(3);
  for (const secret of [made.secret, rotated.secret]) {
    assert.equal(new Webhook(secret).verify(test.body, test.headers).type, "webhook.test");
  }
}

// next waits for the nth request.
async function next(n) {
  const deadline = Date.now() + patience;
  while (arrived.length < n) {
    assert.ok(Date.now() < deadline, `the ${n}th request does not come`);
    await new Promise((heard) => {
      waiting = heard;
      setTimeout(heard, 1000);
    });
  }
  return arrived[n - 1];
}

// call asks the API and returns the body of its answer.
async function call(method, path, body, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(base + "/api/v1" + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return JSON.parse(text);
}
