// Dead jobs by cause: those of one kind whose errors are alike but for ids and numbers.
import { jobsAddress } from "./address.js";
import { attempt } from "./dialog.js";
import { changeAll, verbs } from "./change.js";
import { arrange, element, icon } from "./element.js";
import { poll } from "./poll.js";
import { queuePath } from "./queue.js";
import { call } from "./session.js";
import { moment } from "./time.js";

// showGroups makes the section of causes, which hides while there is nothing to group.
export function showGroups(queue, filter, changed) {
  const rows = element("tbody", { role: "rowgroup" });
  const node = element("section", { class: "groups", hidden: true, "aria-labelledby": "groups-title" },
    element("h3", { id: "groups-title", tabindex: "-1" }, "What they died of"),
    element("table", { role: "table" }, element("caption", { class: "unseen" }, "Dead jobs by cause, the most frequent first"),
      element("thead", { role: "rowgroup", class: "unseen" }, element("tr", { role: "row" },
        ["Jobs", "Kind and error", "Last", "Actions"].map((text) => element("th", { scope: "col", role: "columnheader" }, text)))), rows));

  const polling = poll(5000, async () => {
    const { items } = await call("GET", `${queuePath(queue)}/dead-groups`);
    node.hidden = !items.length || Boolean(filter.group);
    arrange(rows, items, row);
  });

  function row(group) {
    const text = group.error || "no error text";
    return element("tr", { role: "row" },
      element("td", { class: "count", role: "cell" }, group.count.toLocaleString("en")),
      element("td", { class: "cause", role: "cell" },
        element("strong", {}, element("a", { href: jobsAddress(queue, "dead", { group: group.id }), "data-name": "open" }, group.kind)),
        element("span", { class: "error", title: text }, text)),
      element("td", { class: "when", role: "cell" }, moment(group.newest)),
      element("td", { class: "do", role: "cell" }, Object.entries(verbs).map(([verb, { name, dangerous }]) => element("button", {
        type: "button", class: dangerous ? "plain dangerous" : "plain", "data-name": verb, "aria-label": `${name} all ${group.count} of ${group.kind}: ${text.slice(0, 80)}`,
        click: () => attempt(async () => {
          if (await changeAll(verb, queue, { group: group.id }, `Jobs of kind ${group.kind} that died of “${text.slice(0, 120)}”.`)) changed();
        }),
      }, icon(verb === "delete" ? "trash" : "retry"), `${name} all`))));
  }

  return { node, refresh: polling.now, stop: polling.stop };
}
