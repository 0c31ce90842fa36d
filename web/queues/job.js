// One job: what it is, what it carries, and how its attempts ended.
import { attempt } from "./dialog.js";
import { changeOne } from "./change.js";
import { arrange, element, icon, write } from "./element.js";
import { poll } from "./poll.js";
import { call } from "./session.js";
import { moment, took } from "./time.js";

const priorities = ["0, urgent", "1, high", "2, normal", "3, low"];

// showJob shows a job in main, and follows it until it is done. back is the address of the list to
// return to. Returns { update, stop }.
export function showJob(main, id, back, changed) {
  const state = element("span", { class: "badge" });
  const heading = element("h2", { tabindex: "-1" }, "Job");
  const facts = element("dl", { class: "facts" });
  const error = element("pre", { class: "error-text", tabindex: "0", "aria-label": "Error of the last attempt" });
  const payload = element("pre", { tabindex: "0", "aria-label": "Payload" });
  const tries = element("tbody", { role: "rowgroup" });
  const buttons = { retry: button("retry", "Retry now"), delete: button("delete", "Delete") };
  const gone = element("p", { class: "empty", hidden: true }, icon("calm"), "This job has ended well, or was deleted: nothing of it is kept.");
  const body = element("div", { hidden: true },
    facts,
    element("section", {}, element("h3", {}, "Error"), error),
    element("section", {}, element("h3", {}, "Failed attempts"),
      element("table", { class: "tries", role: "table" }, element("caption", { class: "unseen" }, "Failed attempts, the newest first"),
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" },
          ["Ended", "Worker", "Took", "Error"].map((text) => element("th", { scope: "col", role: "columnheader" }, text)))), tries)),
    element("section", {}, element("h3", {}, "Payload"), element("p", { class: "quiet" }, "As it is, but for secrets."), payload));
  main.replaceChildren(element("section", { class: "card job" },
    element("p", {}, element("a", { href: back, class: "back" }, icon("back"), "All jobs")),
    element("div", { class: "heading" }, heading, state, element("span", { class: "buttons" }, Object.values(buttons))), gone, body));
  let job;

  function button(verb, text) {
    return element("button", { type: "button", class: verb === "delete" && "dangerous", hidden: true, click: () => attempt(async () => {
      if (!await changeOne(verb, job)) return;
      heading.focus();
      changed();
      polling.now();
    }) }, icon(verb === "delete" ? "trash" : "retry"), text);
  }

  function show() {
    write(heading, job.kind);
    write(state, job.state);
    state.className = `badge ${job.state}`;
    buttons.retry.hidden = !["dead", "scheduled"].includes(job.state);
    buttons.delete.hidden = false;
    arrange(facts, [
      fact("Id", job.id, "mono"), fact("Request", job.trace || "none", job.trace && "mono"), fact("Trace", job.traceId || "none", job.traceId && "mono"), fact("Priority", priorities[job.priority]), fact("Failed attempts", String(job.attempts)),
      job.worker && fact("Worker", job.worker, "mono"), fact("Created", job.createdAt, "time"), job.deadAt ? fact("Died", job.deadAt, "time") : fact("Due", job.runAt, "time"),
    ].filter(Boolean), ({ id, text, look }) => element("div", {}, element("dt", {}, id), element("dd", { class: look === "mono" && "mono" }, look === "time" ? moment(text) : text)));
    write(error, job.error ?? "");
    error.parentElement.hidden = !job.error;
    const failed = [...job.tries ?? []].reverse().map((one) => ({ ...one, id: `${one.at} ${one.worker}` }));
    tries.closest("section").hidden = !failed.length;
    arrange(tries, failed, attemptRow);
    write(payload, JSON.stringify(job.payload ?? null, null, 2));
    body.hidden = false;
  }

  const polling = poll(2000, async () => {
    try {
      job = await call("GET", `/api/v1/admin/jobs/${id}`, undefined, exact);
      show();
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      polling.stop();
      gone.hidden = false;
      write(state, job ? "ended" : "not here");
      state.className = "badge";
      for (const one of Object.values(buttons)) one.hidden = true;
    }
  });
  return { update() {}, stop: polling.stop };
}

function fact(id, text, look) {
  return { id, text, look };
}

function attemptRow(one) {
  const cell = (...children) => element("td", { role: "cell" }, ...children);
  return element("tr", { role: "row" }, cell(moment(one.at)), cell(element("span", { class: "mono" }, one.worker || "–")), cell(took(one.ms)),
    cell(element("span", { class: "error-text" }, one.error),
      one.stack && element("details", {}, element("summary", { "data-name": "stack" }, "Stack"), element("pre", { tabindex: "0", "aria-label": "Stack" }, one.stack))));
}

// exact keeps the digits of numbers that JavaScript cannot hold, where the browser can do that.
function exact(name, value, context) {
  const inexact = typeof value === "number" && context?.source && !Number.isSafeInteger(value) && String(value) !== context.source;
  return inexact && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}
