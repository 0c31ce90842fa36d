// What operators did.
import { jobAddress } from "./address.js";
import { attempt } from "./dialog.js";
import { arrange, element, icon } from "./element.js";
import { jobs } from "./change.js";
import { poll } from "./poll.js";
import { call } from "./session.js";
import { moment } from "./time.js";

// showAudit shows the list in main. Returns { update, stop }.
export function showAudit(main, queue) {
  let list = [], next = null, more = false;
  const rows = element("tbody", { role: "rowgroup" });
  const heading = element("h2", { tabindex: "-1" }, "Audit");
  const table = element("table", { class: "audit", role: "table" }, element("caption", { class: "unseen" }, "What operators did, newest first"),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ["When", "Who", "What"].map((text) => element("th", { scope: "col", role: "columnheader" }, text)))), rows);
  const empty = element("p", { class: "empty", hidden: true }, icon("calm"), "Nobody has had to do anything yet.");
  const moreButton = element("button", { type: "button", hidden: true, click: () => attempt(async () => {
    more = true;
    const answer = await call("GET", `/api/v1/admin/audit?cursor=${encodeURIComponent(next)}`);
    list = [...list, ...answer.items];
    show(answer);
  }) }, "Show more");
  main.replaceChildren(element("section", { class: "card" }, element("div", { class: "heading" }, heading),
    element("p", { class: "quiet" }, "Every pause, retry and deletion, and who it was."), table, empty, element("p", { class: "buttons" }, moreButton)));

  function show(answer) {
    next = answer.next;
    arrange(rows, list, (entry) => element("tr", { role: "row" },
      element("td", { class: "when", role: "cell" }, moment(entry.at)),
      element("td", { class: "actor", role: "cell" }, entry.actorName),
      element("td", { role: "cell" }, sentence(queue, entry))));
    empty.hidden = list.length > 0;
    table.hidden = !list.length;
    moreButton.hidden = !next;
  }

  const polling = poll(3000, async () => {
    if (more) return;
    const answer = await call("GET", "/api/v1/admin/audit");
    if (more) return;
    list = answer.items;
    show(answer);
  });
  return { update() {}, stop: polling.stop };
}

// sentence says what was done, in words.
function sentence(queue, { action, target, detail }) {
  const [noun, verb] = action.split(".");
  if (noun === "queue") return `${verb} queue ${target}`;
  if (/^[0-9a-f-]{36}$/.test(target)) return [`${verb} `, element("a", { href: jobAddress(queue.name, target) }, detail.kind || "a job"), " ", element("span", { class: "id mono" }, target)];
  const which = [detail.kind && `of kind ${detail.kind}`, detail.search && `with “${detail.search}”`, detail.group && "of one cause"].filter(Boolean).join(", ");
  return `${verb} ${jobs(detail.count, "dead")} of queue ${target}${which && `, ${which}`}`;
}
