// Asking again and again, while somebody looks.

// poll runs an asynchronous function now and then every so many milliseconds. It waits while the
// page is hidden, and longer each time the function fails, up to ten seconds. The function's errors
// are its own to show. Returns { now, stop }; now runs it at once, or again when it is under way.
export function poll(every, run) {
  let timer, busy = false, again = false, stopped = false, failures = 0;

  async function now() {
    clearTimeout(timer);
    if (stopped) return;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    do {
      again = false;
      try {
        await run();
        failures = 0;
      } catch {
        failures++;
      }
    } while (again && !stopped);
    busy = false;
    if (!stopped && !document.hidden) timer = setTimeout(now, Math.min(10_000, every * 2 ** Math.min(failures, 6)));
  }

  function look() {
    if (document.hidden) clearTimeout(timer);
    else now();
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  }

  document.addEventListener("visibilitychange", look);
  now();
  return { now, stop };
}
