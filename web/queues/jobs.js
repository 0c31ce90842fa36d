// The jobs of a queue in one state: filter, list, and what can be done to them.
import { jobAddress, jobsAddress, query, states } from "./address.js";
import { changeAll, changeMany, changeOne, jobs as some } from "./change.js";
import { attempt } from "./dialog.js";
import { arrange, element, icon, write } from "./element.js";
import { showGroups } from "./groups.js";
import { poll } from "./poll.js";
import { counted, queuePath } from "./queue.js";
import { call } from "./session.js";
import { moment } from "./time.js";

const priorities = ["Urgent", "High", "Normal", "Low"];

// What a state's list shows besides kind and attempts, what its jobs allow, and what it says when empty.
const views = {
  ready: { what: "Priority", when: "Due", at: (job) => job.runAt, verbs: ["delete"], empty: "Nothing is waiting. Every job has been taken." },
  running: { what: "Worker", when: "Created", at: (job) => job.createdAt, verbs: ["delete"], empty: "Nothing is running just now. The workers are having a rest." },
  scheduled: { what: "Last error", when: "Runs", at: (job) => job.runAt, verbs: ["retry", "delete"], empty: "Nothing is planned for later, and nothing has to be tried again." },
  dead: { what: "Error", when: "Died", at: (job) => job.deadAt, verbs: ["retry", "delete"], empty: "No dead jobs. All is well." },
};

// showJobs shows a list in main. changed is called after a change, to look at the queue anew.
// Returns { update(queue), stop() }; update takes the queue's newest figures.
export function showJobs(main, queue, state, filter, changed) {
  const view = views[state];
  const chosen = new Set();
  let list = [], next = null, matching = "", more = false; // more: pages beyond the first are shown, and the list stands still

  const tabs = new Map(states.map((name) => {
    const number = element("span", { class: "number" });
    const link = element("a", { href: jobsAddress(queue.name, name), "aria-current": name === state && "page", "data-name": `tab-${name}` }, title(name), " ", number);
    return [name, { link, number }];
  }));
  const heading = element("h2", { tabindex: "-1", class: "unseen" }, `${title(state)} jobs`);
  const groups = state === "dead" ? showGroups(queue.name, filter, changedHere) : null;
  const all = element("input", { type: "checkbox", "data-name": "choose-all", change: () => chooseAll() });
  const rows = element("tbody", { role: "rowgroup" });
  const head = ["", "Job", view.what, "Attempts", view.when, ""];
  const caption = element("caption", { class: "unseen" }, `${title(state)} jobs, newest first`);
  const table = element("table", { class: "jobs", role: "table" }, caption,
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head.map((text, i) =>
      element("th", { scope: "col", role: "columnheader" }, i === 0 ? element("label", {}, all, element("span", { class: "label" }, "Choose all shown")) : text || element("span", { class: "unseen" }, "Actions"))))), rows);
  const empty = element("p", { class: "empty", hidden: true });
  const moreButton = element("button", { type: "button", hidden: true, "data-name": "more", click: () => attempt(loadMore) }, "Show more");
  const refresh = element("button", { type: "button", class: "plain", hidden: true, click: () => { more = false; polling.now(); heading.focus(); } }, icon("retry"), "Back to the newest");
  const summary = element("span", { class: "quiet" }); // how many there are, or how many are chosen
  const chosenButtons = view.verbs.map((verb) => actionButton(verb, `${verb}-chosen`, `${title(verb)} chosen`, () => changeMany(verb, [...chosen], state)));
  const allButtons = state === "dead" ? view.verbs.map((verb) => actionButton(verb, `${verb}-all`, "", () => changeAll(verb, queue.name, filter, describe(filter)))) : [];
  const bar = element("div", { class: "bar", role: "group", "aria-label": "Actions on many jobs" },
    element("span", { class: "cluster" }, summary, chosenButtons), element("span", { class: "cluster" }, allButtons));

  main.replaceChildren(element("section", { class: "card" },
    element("nav", { class: "tabs", "aria-label": "Jobs by state" }, [...tabs.values()].map((tab) => tab.link)),
    heading, filterForm(queue, state, filter), groups?.node, bar, table, empty, element("p", { class: "buttons" }, moreButton, refresh)));

  function actionButton(verb, name, text, act) {
    return element("button", { type: "button", class: verb === "delete" && "dangerous", "data-name": name, click: () => attempt(async () => {
      if (await act()) changedHere();
    }) }, icon(verb === "delete" ? "trash" : "retry"), element("span", {}, text));
  }

  function changedHere() {
    more = false;
    changed();
    polling.now();
    groups?.refresh();
    if (!document.activeElement || document.activeElement === document.body || document.activeElement.disabled) heading.focus();
  }

  function path(cursor = "") {
    return `${queuePath(queue.name)}/jobs${query({ state, ...filter, total: state === "dead" ? "true" : "", cursor })}`;
  }

  async function load() {
    if (more) return;
    const answer = await call("GET", path());
    if (more) return;
    list = answer.items;
    next = answer.next;
    show(answer.total);
  }

  async function loadMore() {
    more = true;
    const answer = await call("GET", path(next));
    list = [...list, ...answer.items.filter((job) => !list.some((other) => other.id === job.id))];
    next = answer.next;
    show(answer.total);
  }

  function show(total) {
    const shown = new Set(list.map((job) => job.id));
    for (const id of chosen) if (!shown.has(id)) chosen.delete(id);
    arrange(rows, list, row);
    const filtered = Object.values(filter).some(Boolean);
    empty.hidden = list.length > 0;
    if (!list.length) empty.replaceChildren(icon("calm"), filtered ? `No ${state} job matches. ` : view.empty,
      filtered ? element("a", { href: jobsAddress(queue.name, state) }, "Show all of them") : "");
    table.hidden = bar.hidden = !list.length;
    moreButton.hidden = !next;
    refresh.hidden = !more;
    matching = total === undefined ? `${title(state)} jobs, newest first` : `${some(total, "dead")}${filtered ? ` match${total === 1 ? "es" : ""}` : ""}, newest first`;
    allButtons.forEach((button, i) => write(button.lastChild, `${title(view.verbs[i])} all ${total?.toLocaleString("en") ?? ""}…`));
    showChosen();
  }

  function row(job) {
    const link = element("a", { href: jobAddress(queue.name, job.id), "data-name": "open" }, job.kind);
    const box = element("input", { type: "checkbox", "data-name": "choose", "aria-label": `Choose ${job.kind} ${job.id}`, change: () => {
      if (box.checked) chosen.add(job.id);
      else chosen.delete(job.id);
      showChosen();
    } });
    box.checked = chosen.has(job.id);
    return element("tr", { role: "row" },
      cell("choose", box),
      cell("job", element("strong", {}, link), element("span", { class: "id mono" }, job.id)),
      cell("what", what(state, job) ?? element("span", { class: "none quiet" }, "–")),
      cell("attempts", element("span", { class: "label" }, "Attempts "), String(job.attempts)),
      cell("when", element("span", { class: "label" }, `${view.when} `), view.at(job) ? moment(view.at(job)) : "–"),
      cell("do", view.verbs.map((verb) => element("button", { type: "button", class: verb === "delete" ? "plain dangerous" : "plain", "data-name": verb,
        "aria-label": `${title(verb)} ${job.kind} ${job.id}`, click: () => attempt(async () => { if (await changeOne(verb, job)) changedHere(); }) },
      icon(verb === "delete" ? "trash" : "retry"), title(verb)))));
  }

  function chooseAll() {
    for (const job of list) {
      if (all.checked) chosen.add(job.id);
      else chosen.delete(job.id);
    }
    for (const box of rows.querySelectorAll("[data-name=choose]")) box.checked = all.checked;
    showChosen();
  }

  function showChosen() {
    all.checked = chosen.size > 0 && chosen.size === list.length;
    all.indeterminate = chosen.size > 0 && chosen.size < list.length;
    write(summary, chosen.size ? `${chosen.size} chosen` : matching);
    for (const button of chosenButtons) button.hidden = !chosen.size;
  }

  const polling = poll(2000, load);
  return {
    update(figures) {
      const numbers = { ready: figures.outboxReady, running: figures.running, scheduled: figures.outboxLater, dead: figures.outboxDead };
      for (const [name, tab] of tabs) write(tab.number, counted(numbers[name]));
      tabs.get("dead").link.classList.toggle("alarming", figures.outboxDead > 0);
    },
    stop() {
      polling.stop();
      groups?.stop();
    },
  };
}

function title(word) {
  return word[0].toUpperCase() + word.slice(1);
}

function cell(name, ...children) {
  return element("td", { class: name, role: "cell" }, ...children);
}

function what(state, job) {
  if (state === "ready") return priorities[job.priority] ?? String(job.priority);
  if (state === "running") return element("span", { class: "mono" }, job.worker);
  return job.error ? element("span", { class: "error", title: job.error }, job.error) : null;
}

// describe says which dead jobs a filter means.
function describe({ kind, search, group }) {
  const parts = [kind && `of kind ${kind}`, group && "that died alike", search && `with “${search}” in id, kind or error`].filter(Boolean);
  return parts.length ? `All dead jobs ${parts.join(", ")}.` : "All dead jobs of this queue.";
}

// filterForm changes the address, and so the list, when the user has typed.
function filterForm(queue, state, filter) {
  const kind = element("input", { name: "kind", "data-name": "kind", list: "kinds", autocomplete: "off", spellcheck: "false", placeholder: "any", value: filter.kind });
  const search = element("input", { name: "search", "data-name": "search", type: "search", autocomplete: "off", spellcheck: "false", maxlength: "200", placeholder: "id, kind or error", value: filter.search });
  return element("form", { class: "filter", role: "search", "aria-label": `${title(state)} jobs`, submit: apply },
  element("label", {}, "Kind ", kind), element("datalist", { id: "kinds" }, queue.kinds.map((name) => element("option", { value: name }))),
  element("label", { class: "wide" }, "Search ", search),
  element("button", { "data-name": "filter" }, "Filter"),
  filter.group && element("span", { class: "chip" }, "one cause only ", element("a", { href: jobsAddress(queue.name, state, { ...filter, group: "" }), "aria-label": "Show all causes" }, "✕")),
  (filter.kind || filter.search || filter.group) && element("a", { href: jobsAddress(queue.name, state) }, "Clear"));

  function apply(event) {
    event.preventDefault();
    location.hash = jobsAddress(queue.name, state, { ...filter, kind: kind.value.trim(), search: search.value.trim() });
  }
}
