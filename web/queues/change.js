// Changes to jobs: retrying and deleting one, many, or all dead ones that match.
import { confirmed, tell } from "./dialog.js";
import { queuePath } from "./queue.js";
import { call } from "./session.js";

const together = 4; // requests at once when many jobs are chosen
const perRequest = 1000; // dead jobs that one request changes

export const verbs = {
  retry: { name: "Retry", done: "Retried", will: "They run at once, with all their attempts anew.", dangerous: false },
  delete: { name: "Delete", done: "Deleted", will: "This cannot be undone.", dangerous: true },
};

export function jobs(n, word = "") {
  return `${n.toLocaleString("en")} ${word && `${word} `}job${n === 1 ? "" : "s"}`;
}

function change(verb, id) {
  const path = `/api/v1/admin/jobs/${id}`;
  return verb === "retry" ? call("POST", `${path}/retry`) : call("DELETE", path);
}

// changeOne changes one job, asking first where it cannot be undone. It returns whether it did.
export async function changeOne(verb, job) {
  const { done, name, dangerous } = verbs[verb];
  if (dangerous && !await confirmed(`${name} this job?`, `${job.kind} ${job.id}. This cannot be undone.${cancelled(job.state)}`, name, true)) return false;
  await change(verb, job.id);
  tell(`${done} ${job.kind}.`);
  return true;
}

function cancelled(state) {
  return state === "running" ? " What runs is cancelled, and its effect does not happen." : "";
}

// changeMany changes the chosen jobs, a few at once, and tells how many could not be.
export async function changeMany(verb, ids, state) {
  const { done, name, will, dangerous } = verbs[verb];
  if (!await confirmed(`${name} ${jobs(ids.length)}?`, will + cancelled(state), name, dangerous)) return false;
  const left = [...ids], failures = [];
  await Promise.all(Array.from({ length: together }, async () => {
    while (left.length) await change(verb, left.pop()).catch((problem) => failures.push(problem));
  }));
  const text = `${done} ${jobs(ids.length - failures.length)}.`;
  if (failures.length) tell(`${text} ${jobs(failures.length)} could not be: ${failures[0].message}`, true);
  else tell(text);
  return true;
}

// changeAll changes all dead jobs of a queue that match a filter (kind, search, group), after
// counting them. what describes them to the user.
export async function changeAll(verb, queue, filter, what) {
  const { done, name, will, dangerous } = verbs[verb];
  const path = `${queuePath(queue)}/${verb}-dead`;
  const { matched } = await call("POST", path, { ...filter, dryRun: true });
  if (!matched) {
    tell("Nothing matches any more.");
    return true;
  }
  if (!await confirmed(`${name} ${jobs(matched, "dead")}?`, `${what} ${will}`, `${name} ${matched.toLocaleString("en")}`, dangerous)) return false;
  // As many requests as were counted, and no more: what dies again meanwhile would match for ever.
  let changed = 0;
  for (let request = 0; request < Math.ceil(matched / perRequest); request++) {
    const { touched } = await call("POST", path, filter);
    changed += touched;
    if (!touched) break;
  }
  tell(`${done} ${jobs(changed)}.`);
  return true;
}
