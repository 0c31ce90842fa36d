// A queue at a glance: its figures, renewed every second, and the switch that pauses it.
import { attempt, confirmed, tell } from "./dialog.js";
import { arrange, element, icon, write } from "./element.js";
import { call } from "./session.js";
import { duration } from "./time.js";

const count = new Intl.NumberFormat("en");
const figures = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const longWait = 60_000; // ms that a due job waits until that is alarming
const history = 120; // looks that the little chart of waiting jobs goes back
const lateBeat = 9_000; // ms without a beat after which a worker takes no more jobs; at 15 s it is given up

export function queuePath(name) {
  return `/api/v1/admin/queues/${encodeURIComponent(name)}`;
}

// counted is a number of rows. The server counts no further than a million.
export function counted(n) {
  return n < 1_000_000 ? count.format(n) : `${count.format(n)}+`;
}

const cards = new Map(); // name → what fills the card in

// showQueues shows all queues in a section. changed is called after the user changed one.
export function showQueues(section, queues, changed) {
  for (const queue of queues) {
    if (!cards.has(queue.name)) {
      const card = makeCard(queue.name, changed);
      cards.set(queue.name, card);
      section.append(card.node);
    }
    cards.get(queue.name).fill(queue);
  }
}

// forgetQueues empties the section for the next user.
export function forgetQueues(section) {
  cards.clear();
  section.replaceChildren();
}

function makeCard(name, changed) {
  const state = element("span", { class: "badge" });
  const toggle = element("button", { type: "button", "data-name": "pause", click: () => attempt(() => pauseOrResume(name, latest.paused, changed)) });
  const chart = makeChart();
  const tiles = {
    waiting: tile("Waiting", chart.node), oldest: tile("Oldest waiting"), flow: tile("Arriving"), drain: tile("Time to drain"),
    errors: tile("Errors"), outbox: tile("Outbox"), workers: tile("Workers"),
  };
  const workers = element("tbody");
  const node = element("article", { class: "card queue" },
    element("div", { class: "heading" }, element("h1", {}, name), state, toggle),
    element("p", { class: "unreachable problem", hidden: true }, "Redis does not answer. Nothing is lost: jobs wait in the database, and run when it is back."),
    element("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.node)),
    element("details", { class: "workers" }, element("summary", { "data-name": "workers" }, "Workers and rates"),
      element("p", { class: "quiet" }, "Rates above are means of the last five minutes. A worker that is silent for 15 s has its jobs given to others."),
      element("table", {}, element("caption", { class: "unseen" }, "Workers of ", name),
        element("thead", {}, element("tr", {}, ["Worker", "Last beat", "Jobs held"].map((text) => element("th", { scope: "col" }, text)))), workers)),
  );
  let latest;

  function fill(queue) {
    latest = queue;
    const ended = queue.donePerSecond + queue.failedPerSecond, waiting = queue.outboxReady;
    const missing = queue.outboxRows - queue.ready.reduce((sum, n) => sum + n, queue.running + queue.scheduled);
    node.classList.toggle("paused", queue.paused);
    write(state, !queue.reachable ? "Redis unreachable" : queue.paused ? "Paused" : "Running");
    state.className = `badge ${!queue.reachable ? "dead" : queue.paused ? "scheduled" : "running"}`;
    node.querySelector(".unreachable").hidden = queue.reachable;
    label(toggle, queue.paused ? "resume" : "pause", queue.paused ? "Resume" : "Pause");
    // What waits is the database's to know, also while Redis is away; what happens is Redis's.
    const none = !queue.reachable && "–";
    tiles.waiting.fill(counted(waiting), `${count.format(queue.running)} running, ${counted(queue.outboxLater)} scheduled`);
    tiles.oldest.fill(waiting ? duration(queue.outboxLagMs) : "–", waiting ? "since it was due" : "nothing waits", queue.outboxLagMs > longWait && !queue.paused);
    tiles.flow.fill(none || rate(queue.pushedPerSecond), none ? "not known" : `${rate(queue.donePerSecond)} completed`);
    tiles.drain.fill(none || drain(queue, waiting), none ? "not known" : !waiting ? "nothing waits" : queue.paused ? "until you resume" : "as things go now");
    tiles.errors.fill(none || (ended ? `${figures.format(100 * queue.failedPerSecond / ended)} %` : "–"),
      none ? "not known" : ended ? `${rate(queue.failedPerSecond)} failed` : "nothing ended lately", queue.failedPerSecond > 0.05 * ended);
    tiles.outbox.fill(counted(queue.outboxRows), none ? "rows, waiting for Redis" : missing > 0 ? `rows, ${count.format(missing)} not yet in Redis` : "rows, all in Redis");
    const beats = queue.workers.map((worker) => worker.beatAgeMs);
    tiles.workers.fill(none || count.format(beats.length), none ? "not known" : beats.length ? beat(Math.max(...beats), beats.length) : "nobody takes jobs",
      queue.reachable && (!beats.length || Math.max(...beats) > lateBeat));
    chart.add(waiting);
    arrange(workers, queue.workers.toSorted((a, b) => (a.id < b.id ? -1 : 1)), (worker) => element("tr", {},
      element("td", { class: "mono" }, worker.id),
      element("td", { class: worker.beatAgeMs > lateBeat ? "bad" : "" }, `${duration(worker.beatAgeMs)} ago`),
      element("td", {}, count.format(worker.running))));
    workers.parentElement.hidden = !queue.workers.length;
  }

  return { node, fill };
}

function label(button, picture, text) {
  if (button.textContent !== text) button.replaceChildren(icon(picture), text);
}

// tile is a figure: its name, its value and a note below. fill may mark it as alarming.
function tile(name, chart) {
  const value = element("dd", { class: "value" }), note = element("dd", { class: "note" });
  const node = element("div", { class: "tile" }, element("dt", {}, name), value, note, chart && element("dd", { class: "chart" }, chart));
  return {
    node,
    fill(text, more, alarming = false) {
      write(value, text);
      write(note, more);
      node.classList.toggle("alarming", alarming);
    },
  };
}

function beat(oldest, workers) {
  return workers === 1 ? `last beat ${duration(oldest)} ago` : `beats within ${duration(oldest)}`;
}

// rate is so many a second, or a minute where that reads better.
function rate(perSecond) {
  return perSecond && perSecond < 1 ? `${figures.format(60 * perSecond)}/min` : `${figures.format(perSecond)}/s`;
}

function drain(queue, waiting) {
  if (!waiting) return "0 s";
  if (queue.paused) return "paused";
  return queue.drainMs === null ? "not shrinking" : duration(queue.drainMs);
}

// makeChart draws how many jobs waited, in the looks since the page was opened.
function makeChart() {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg"), line = document.createElementNS(namespace, "polyline");
  svg.setAttribute("viewBox", `0 0 ${history} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(line);
  const past = [];
  return {
    node: svg,
    add(n) {
      past.push(n);
      if (past.length > history) past.shift();
      const most = Math.max(4, ...past), start = history - past.length;
      line.setAttribute("points", past.map((value, i) => `${start + i},${(23 - 22 * value / most).toFixed(1)}`).join(" "));
    },
  };
}

async function pauseOrResume(name, paused, changed) {
  if (!paused && !await confirmed(`Pause ${name}?`, "Jobs that run go on to their end; all others wait until you resume.", "Pause")) return;
  await call("POST", `${queuePath(name)}/${paused ? "resume" : "pause"}`);
  tell(paused ? `${name} goes on.` : `${name} is paused.`);
  changed();
}
