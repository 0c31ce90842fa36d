// The operators' page: who sees what, and which address shows what.
import { jobsAddress, place } from "./address.js";
import { showAudit } from "./audit.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { poll } from "./poll.js";
import { forgetQueues, showQueues } from "./queue.js";
import { call, signIn, signOut, user, whenEnded } from "./session.js";
import { duration } from "./time.js";

const byId = (id) => document.getElementById(id);
const parts = { "sign-in": byId("sign-in"), refused: byId("refused"), app: byId("app") };

let watching = null; // the poll of the queues' figures
let queues = null; // as they were last
let shown = null; // what fills main
let answered = 0; // when the figures last came
let list = "#/"; // the address of the list last shown, to go back to

// show reveals one part of the page.
function show(name) {
  for (const [other, part] of Object.entries(parts)) part.hidden = other !== name;
}

function leave(problem) {
  watching?.stop();
  shown?.stop();
  watching = shown = queues = null;
  forgetQueues(byId("queues"));
  byId("content").replaceChildren();
  byId("sign-in-problem").textContent = problem;
  show("sign-in");
  byId("sign-in-form").elements.email.focus();
}

function enter() {
  byId("who").textContent = user();
  answered = Date.now();
  watching = poll(1000, watch);
}

// watch asks for the queues' figures. A user who may not see them is told so, by the API's words.
async function watch() {
  try {
    ({ items: queues } = await call("GET", "/api/v1/admin/queues"));
  } catch (problem) {
    if (problem.status === 403) refuse(problem);
    else if (user()) silence(problem);
    throw problem;
  }
  answered = Date.now();
  byId("silence").hidden = true;
  byId("queues").classList.remove("stale");
  show("app");
  showQueues(byId("queues"), queues, () => watching?.now());
  if (!shown) route();
  else shown.update(current());
  const dead = queues.reduce((sum, queue) => sum + queue.outboxDead, 0);
  document.title = `${dead ? `(${dead} dead) ` : ""}Queues · TaskFlow`;
}

function refuse(problem) {
  watching?.stop();
  byId("refused-reason").textContent = `${problem.message} You are signed in as ${user()}.`;
  show("refused");
  parts.refused.querySelector("h1").focus();
}

function silence(problem) {
  show("app");
  byId("queues").classList.add("stale");
  byId("silence").hidden = false;
  byId("silence").textContent = `${problem.message} What you see is ${duration(Date.now() - answered)} old; trying again.`;
}

function current() {
  return queues.find((queue) => queue.name === place().queue) ?? queues[0];
}

// route fills main with what the address says. Focus that was in main goes to what has the same
// data-name there now, or else to the heading.
function route() {
  if (!queues) return;
  const { what, id, state, filter } = place();
  if (!what) {
    history.replaceState(null, "", jobsAddress(current().name, current().outboxDead ? "dead" : "ready"));
    return route();
  }
  const main = byId("content"), changed = () => watching?.now();
  const focused = document.activeElement, moves = main.contains(focused) || focused === document.body;
  shown?.stop();
  if (what === "jobs") list = location.hash;
  shown = what === "audit" ? showAudit(main, current()) : what === "job" ? showJob(main, id, list, changed) : showJobs(main, current(), state, filter, changed);
  shown.update(current());
  byId("to-audit").ariaCurrent = what === "audit" ? "page" : null;
  byId("to-jobs").ariaCurrent = what === "audit" ? null : "page";
  const same = focused.dataset.name && main.querySelector(`[data-name="${focused.dataset.name}"]`);
  if (moves) (same || main.querySelector("h2")).focus();
}

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, button = form.querySelector("button");
  button.disabled = true;
  byId("sign-in-problem").textContent = "";
  try {
    await signIn(form.elements.email.value, form.elements.password.value, form.elements.totp.value);
    form.reset();
    form.elements.totp.closest("label").hidden = true;
    enter();
  } catch (problem) {
    byId("sign-in-problem").textContent = problem.message;
    const field = problem.code === "totp_required" ? form.elements.totp : form.elements.password;
    field.closest("label").hidden = false;
    field.focus();
  } finally {
    button.disabled = false;
  }
});

for (const button of document.querySelectorAll("[data-action=sign-out]")) {
  button.addEventListener("click", () => {
    signOut();
    leave("");
  });
}

whenEnded(() => leave("Your session has ended. Please sign in again."));
addEventListener("hashchange", route);
if (user()) enter();
else leave("");
