// Takes apart an error report of a real process by Sentry's own library, which knows nothing of TaskFlow.
// node sentry.mjs <file of the envelope> <id of the job that it tells of>
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { parseEnvelope } from "@sentry/core";

const [file, job] = process.argv.slice(2);
const [headers, items] = parseEnvelope(new Uint8Array(await readFile(file)));
assert.match(headers.event_id, /^[0-9a-f]{32}$/);
assert.equal(items.length, 1);
const [about, payload] = items[0];
const event = JSON.parse(new TextDecoder().decode(payload)); // as many bytes as its headers say
assert.equal(about.type, "event");
assert.equal(event.event_id, headers.event_id);
assert.equal(event.tags.job, job);
assert.equal(event.tags.dead, "true");
assert.match(event.contexts.trace.trace_id, /^[0-9a-f]{32}$/);
assert.equal(event.exception.values.length, 1);
console.log(`${event.exception.values[0].type}: ${event.exception.values[0].value}`);
