// The page that links in mails open. What a link is for, and its token, stand behind the # of the
// address, which no server sees. Nothing happens before a person asks for it: programs open links too.
import { send } from "../queues/api.js";

const byId = (id) => document.getElementById(id);
const [, use, token] = /^#(verify|reset|invitation)=([\w-]+)$/.exec(location.hash) ?? [];

// What each use does with the fields of its form; it returns what to say then.
const uses = {
  async verify() {
    await send("POST", "/api/v1/auth/email/verify", { body: { token } });
    return "Your address is confirmed.";
  },

  async reset({ password }) {
    await send("POST", "/api/v1/auth/password/reset", { body: { token, password } });
    return "Your new password is set. Sign in with it.";
  },

  async invitation({ stranger, ...fields }) {
    const answer = await send("POST", `/api/v1/auth/${stranger ? "register" : "login"}`, { body: fields });
    try {
      const project = await send("POST", "/api/v1/invitations/accept", { body: { token }, token: answer.accessToken });
      return `You are a member of “${project.name}” now.`;
    } finally {
      await send("POST", "/api/v1/auth/logout", { token: answer.accessToken }).catch(() => {});
    }
  },
};

// need shows or hides a field; one that is hidden is not sent.
function need(form, name, needed) {
  const field = form.elements[name];
  field.disabled = !needed;
  field.closest("label").hidden = !needed;
}

function show(id) {
  for (const part of document.querySelectorAll("main > *")) part.hidden = part.id !== id;
  (byId(id).querySelector("input:not([type=checkbox], :disabled)") ?? byId(id).querySelector("h1")).focus();
}

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button"), problem = form.querySelector(".problem");
    button.disabled = true;
    problem.textContent = "";
    try {
      byId("done").querySelector("p").textContent = await uses[form.id](Object.fromEntries(new FormData(form)));
      history.replaceState(null, "", location.pathname); // the token is used up
      show("done");
    } catch (error) {
      problem.textContent = error.message;
      if (error.code === "totp_required") {
        need(form, "totp", true);
        form.elements.totp.focus();
      }
    } finally {
      button.disabled = false;
    }
  });
}

byId("invitation").elements.stranger.addEventListener("change", (event) => {
  const form = byId("invitation"), stranger = event.target.checked;
  need(form, "firstName", stranger);
  need(form, "lastName", stranger);
  need(form, "totp", false);
  form.elements.password.autocomplete = stranger ? "new-password" : "current-password";
});
addEventListener("hashchange", () => location.reload()); // another link, in the same tab

show(use ?? "unknown");
