// Durations and moments, in words.

const second = 1000, minute = 60 * second, hour = 60 * minute, day = 24 * hour;

// duration is milliseconds in at most two units: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 4 d 1 h.
export function duration(ms) {
  if (ms < 10 * second) return `${(Math.max(0, ms) / second).toFixed(ms < second / 20 ? 0 : 1)} s`;
  if (ms < minute) return `${Math.floor(ms / second)} s`;
  if (ms < hour) return two(ms, minute, "min", second, "s");
  if (ms < day) return two(ms, hour, "h", minute, "min");
  return two(ms, day, "d", hour, "h");
}

function two(ms, large, largeName, small, smallName) {
  const rest = Math.floor((ms % large) / small);
  return `${Math.floor(ms / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

// took is a short duration, to the millisecond.
export function took(ms) {
  return ms < second ? `${ms} ms` : duration(ms);
}

// moment is a <time> that says how long ago something was, or in how long it will be, and keeps
// saying it rightly. Its title is the full time where the reader is.
export function moment(iso) {
  const made = document.createElement("time");
  made.dateTime = iso;
  made.title = new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  made.textContent = relative(iso);
  return made;
}

function relative(iso) {
  const ms = Date.now() - new Date(iso);
  if (Math.abs(ms) < 2 * second) return "now";
  const whole = Math.floor(Math.abs(ms) / second) * second;
  const words = whole < 10 * second ? `${whole / second} s` : duration(whole).split(" ").slice(0, 2).join(" ");
  return ms > 0 ? `${words} ago` : `in ${words}`;
}

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("time")) {
    const text = relative(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}, second);
