// What the page's address shows:
//
//   #/                              the first queue
//   #/<queue>/<state>?kind&search&group   its jobs in a state
//   #/<queue>/job/<id>              one job
//   #/audit                         what operators did

export const states = ["ready", "running", "scheduled", "dead"];

export function jobsAddress(queue, state, filter = {}) {
  return `#/${encodeURIComponent(queue)}/${state}${query(filter)}`;
}

export function jobAddress(queue, id) {
  return `#/${encodeURIComponent(queue)}/job/${id}`;
}

// query is a filter as part of an address, without what is empty.
export function query(filter) {
  const text = new URLSearchParams(Object.entries(filter).filter(([, value]) => value)).toString();
  return text && `?${text}`;
}

// place reads the address: what is one of audit, job, jobs and "" for none of them.
export function place() {
  const [path, text = ""] = location.hash.slice(2).split("?");
  const [queue, second, id] = path.split("/").map(decoded);
  const { kind = "", search = "", group = "" } = Object.fromEntries(new URLSearchParams(text));
  if (queue === "audit" && !second) return { what: "audit" };
  if (second === "job" && id) return { what: "job", queue, id };
  if (states.includes(second)) return { what: "jobs", queue, state: second, filter: { kind, search, group } };
  return { what: "" };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
