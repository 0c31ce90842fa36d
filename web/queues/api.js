// One request to the API, and what can go wrong with it.

// Problem is an answer that is not a success, or none at all (status 0).
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

// send makes a request and returns the answer's JSON, null if it has none. revive is JSON.parse's.
export async function send(method, path, { body, token, revive } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(15_000) });
    text = await answer.text();
  } catch {
    throw new Problem(0, "offline", "The server does not answer.");
  }
  let value = null;
  try {
    if (text) value = JSON.parse(text, revive);
  } catch {
    throw new Problem(answer.status, "unreadable", `The server answered something that is not JSON (${answer.status}).`);
  }
  if (!answer.ok) throw new Problem(answer.status, value?.code ?? "", value?.detail ?? `The server answered ${answer.status}.`);
  return value;
}
