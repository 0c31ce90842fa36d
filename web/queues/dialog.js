// Asking before what cannot be undone, and telling what came of it.

const dialog = document.getElementById("dialog");
const yes = document.getElementById("dialog-yes"), no = document.getElementById("dialog-no");

// confirmed asks a question and returns whether the answer was yes. Escape means no.
export function confirmed(title, text, answer, dangerous = false) {
  document.getElementById("dialog-title").textContent = title;
  document.getElementById("dialog-text").textContent = text;
  yes.textContent = answer;
  yes.className = dangerous ? "primary dangerous" : "primary";
  dialog.returnValue = "";
  dialog.showModal();
  (dangerous ? no : yes).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

yes.addEventListener("click", () => dialog.close("yes"));
no.addEventListener("click", () => dialog.close());

let clearing;

// tell shows a result for some seconds, and has screen readers say it.
export function tell(text, bad = false) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.classList.toggle("bad", bad);
  clearTimeout(clearing);
  clearing = setTimeout(() => { notice.textContent = ""; }, bad ? 12_000 : 6_000);
}

// attempt runs an asynchronous action and tells its failure.
export async function attempt(run) {
  try {
    await run();
  } catch (problem) {
    if (problem.status !== 401) tell(problem.message, true);
  }
}
