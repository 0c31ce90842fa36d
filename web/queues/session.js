// Who is signed in, and requests in his name.
//
// The tokens live in memory. Only while the page reloads they pass through sessionStorage: it is
// written when the page goes and emptied when it comes. So a reload stays signed in, nothing lies in
// storage that outlives the tab, and a duplicated tab, which gets a copy of sessionStorage, does not
// get the tokens: a refresh token that two tabs use looks stolen, and ends the session.
import { Problem, send } from "./api.js";

const handover = "taskflow-queues-session";

let session = takeOver();
let refreshing = null; // the refresh under way, which all requests wait for
let onEnd = () => {};

function takeOver() {
  const text = sessionStorage.getItem(handover);
  sessionStorage.removeItem(handover);
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

addEventListener("pagehide", () => {
  if (session) sessionStorage.setItem(handover, JSON.stringify(session));
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  session = takeOver(); // back from the cache, while the tab's next page may have had new ones
  if (!session) onEnd();
});

// user is the name of who is signed in, or null.
export function user() {
  return session?.name ?? null;
}

// whenEnded sets what to do when the server ends the session.
export function whenEnded(run) {
  onEnd = run;
}

// signIn takes the code of a second factor, "" without one.
export async function signIn(email, password, totp) {
  const answer = await send("POST", "/api/v1/auth/login", { body: { email, password, totp } });
  session = { name: `${answer.user.firstName} ${answer.user.lastName}`, access: answer.accessToken, refresh: answer.refreshToken };
}

// signOut forgets the tokens and tells the server, which need not hear it.
export function signOut() {
  const old = session;
  session = null;
  if (old) send("POST", "/api/v1/auth/logout", { token: old.access }).catch(() => {});
}

// call makes a request as the user, with a new access token where the old one has expired.
export async function call(method, path, body, revive) {
  const used = session?.access;
  if (!used) throw new Problem(401, "unauthenticated", "Sign in first.");
  try {
    return await send(method, path, { body, revive, token: used });
  } catch (problem) {
    if (problem.status !== 401 || !session) throw problem;
  }
  if (session.access === used) {
    refreshing ??= refresh().finally(() => { refreshing = null; });
    await refreshing;
  }
  return send(method, path, { body, revive, token: session?.access });
}

async function refresh() {
  try {
    const answer = await send("POST", "/api/v1/auth/refresh", { body: { refreshToken: session.refresh } });
    if (session) session = { ...session, access: answer.accessToken, refresh: answer.refreshToken };
  } catch (problem) {
    if (problem.status === 401) {
      session = null;
      onEnd();
    }
    throw problem;
  }
}
