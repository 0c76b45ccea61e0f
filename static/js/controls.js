// Buttons. The click sets no state: it asks, says that it asked, and the event sets the state.
import { alert, clearAlert } from "./announce.js";
import { part, say } from "./dom.js";
import { tookSeconds } from "./head.js";
import { deploymentLook, isActive } from "./states.js";
import { duration } from "./time.js";

const ENDING = new Set(["stop", "roll_back", "rollback"]);
const PATIENCE = 15_000;

export class Controls {
  #dialog = document.getElementById("stop");
  #forms = [...document.querySelectorAll("form[data-control]")];
  #words = new Map();
  #look;
  #asked = null; // status and wish at the moment of the click

  // `look` fetches the snapshot: while the socket is away no event would tell.
  constructor(look) {
    this.#look = look;
    for (const form of this.#forms) {
      const button = form.querySelector("button");
      this.#words.set(form, button.textContent);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!this.#asked) this.#ask(form, button);
      });
    }
    if (this.#dialog) this.#prepareDialog();
  }

  #prepareDialog() {
    const opened = this.#dialog.open;
    this.#dialog.close();
    const show = (event) => {
      event?.preventDefault();
      this.#dialog.showModal();
      document.getElementById("stop-keep").focus();
    };
    document.getElementById("stop-open").addEventListener("click", show);
    document.getElementById("stop-keep").addEventListener("click", (event) => {
      event.preventDefault();
      this.#dialog.close();
    });
    if (opened) show();
  }

  async #ask(form, button) {
    this.#asked = form;
    clearAlert();
    button.textContent = form.dataset.pressed;
    button.setAttribute("aria-disabled", "true");
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        body: new FormData(form),
        headers: { Accept: "application/json" },
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.status === 202) {
        this.#dialog?.close();
        await this.#look();
        return;
      }
      await this.#refused(answer);
    } catch {
      alert("No answer: it may or may not have been asked. The log shows it once the page is live.");
    }
    this.release();
    this.#look().catch(() => {});
  }

  async #refused(answer) {
    this.#dialog?.close();
    if (answer.redirected || answer.status === 401) alert("Not asked: you are signed out.");
    else if (answer.status === 403) alert("Not asked: you have no right to this.");
    else {
      const said = await answer.json().catch(() => ({}));
      alert(`Not done. ${said.detail ?? `The server answered ${answer.status}.`}`);
    }
  }

  // The answer is in the state now: buttons say again what they do.
  release() {
    this.#asked = null;
    for (const [form, words] of this.#words) {
      const button = form.querySelector("button");
      button.textContent = words;
      button.removeAttribute("aria-disabled");
    }
  }

  paint(before, held) {
    if (before && (before.status !== held.status || before.wish !== held.wish)) this.release();
    const { status, wish } = held;
    const ending = ENDING.has(wish);
    const shown = {
      pause: ["pending", "in_progress"].includes(status) && !wish,
      resume: (status === "paused" || wish === "pause") && isActive(status) && !ending,
      stop: isActive(status) && status !== "rolling_back",
      again: !isActive(status) && Boolean(held.previous_version),
    };
    for (const [name, visible] of Object.entries(shown)) {
      const node = document.querySelector(`[data-control="${name}"]`);
      if (node) node.hidden = !visible;
    }
    // What is being read in the open dialog keeps the state that it was drawn from.
    for (const form of this.#forms)
      if (!(this.#dialog?.open && this.#dialog.contains(form))) form.elements.seen.value = status;
    if (this.#dialog) this.#paintDialog(held);
  }

  #paintDialog(held) {
    const { updated, total, healthy } = held.progress;
    const given = updated
      ? `${updated} of ${total} instances were given ${held.version} so far, ${total - updated} were not.`
      : `No instance was given ${held.version} yet.`;
    const safe = "What is under way is brought to a safe end first; no request is dropped.";
    say(this.#dialog, "stop-facts", `${given} ${safe}`);
    const mixed = updated > 0 && updated < total ? ": a mixed fleet" : "";
    say(this.#dialog, "stop-here", `${updated} of ${total} stay on ${held.version}${mixed}.`);
    const pace = healthy ? tookSeconds(held) / healthy : 0;
    const takes = pace && updated ? ` About ${duration(pace * updated)}.` : "";
    say(
      this.#dialog,
      "stop-back",
      `All go back to the version that they had, as carefully as they came.${takes}`,
    );
    const seen = this.#dialog.querySelector("input[name=seen]").value;
    const changed = part(this.#dialog, "stop-changed");
    changed.hidden = !this.#dialog.open || seen === held.status;
    if (!changed.hidden)
      changed.textContent = `It changed while you were looking: ${deploymentLook(held.status).word}.`;
  }
}
