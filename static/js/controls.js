// Buttons. The click sets no state: it asks, says that it asked, and the event sets the state.
import { alert, clearAlert } from "./announce.js";
import { Dialog } from "./dialog.js";
import { make, part, say } from "./dom.js";
import { tookSeconds } from "./head.js";
import { ENDING_WISHES, mayPause, promotion, shiftBack, stopping } from "./stages.js";
import { isActive, lookOf } from "./states.js";
import { duration } from "./time.js";
import { errorsSoFar } from "./traffic.js";

const PATIENCE = 15_000;

export class Controls {
  #dialogs = ["stop", "promote", "back"].map((id) => new Dialog(id)).filter(({ node }) => node);
  #forms = [...document.querySelectorAll("form[data-control]")];
  #look;
  #asked = null; // the form whose button was pressed, until the answer is in the state
  #words = ""; // of its button

  // `look` fetches the snapshot: while the socket is away no event would tell.
  constructor(look) {
    this.#look = look;
    for (const form of this.#forms) {
      const button = form.querySelector("button");
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!this.#asked && !button.hasAttribute("aria-disabled")) this.#ask(form, button);
      });
    }
  }

  async #ask(form, button) {
    this.#asked = form;
    this.#words = button.textContent;
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
        this.#closeAll();
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
    this.#closeAll();
    if (answer.redirected || answer.status === 401) alert("Not asked: you are signed out.");
    else if (answer.status === 403) alert("Not asked: you have no right to this.");
    else {
      const said = await answer.json().catch(() => ({}));
      alert(`Not done. ${said.detail ?? `The server answered ${answer.status}.`}`);
    }
  }

  #closeAll() {
    for (const dialog of this.#dialogs) dialog.close();
  }

  // The answer is in the state now: the button says again what it does.
  release() {
    if (!this.#asked) return;
    const button = this.#asked.querySelector("button");
    this.#asked = null;
    button.textContent = this.#words;
    button.removeAttribute("aria-disabled");
  }

  paint(before, held) {
    if (before && ["status", "wish", "step"].some((key) => before[key] !== held[key])) this.release();
    const { status, wish } = held;
    const ending = ENDING_WISHES.has(wish);
    const shown = {
      pause: mayPause(held),
      resume: (status === "paused" || wish === "pause") && isActive(status) && !ending,
      stop: isActive(status) && status !== "rolling_back",
      again: !isActive(status) && Boolean(held.previous_version),
      promote: promotion(held) !== null,
      back: shiftBack(held) !== "",
    };
    for (const [name, visible] of Object.entries(shown)) {
      const node = document.querySelector(`[data-control="${name}"]`);
      if (node) node.hidden = !visible;
    }
    for (const form of this.#forms) if (!form.closest("dialog")) form.elements.seen.value = status;
    for (const dialog of this.#dialogs) this.#paintDialog(dialog, held);
  }

  // What is being read in an open dialog keeps the state that it was drawn from.
  #paintDialog({ node, open }, held) {
    const seen = node.querySelector("input[name=seen]").value;
    const step = node.querySelector("input[name=step]")?.value ?? String(held.step);
    const same = seen === held.status && step === String(held.step);
    const changed = part(node, "changed");
    changed.hidden = !open || same;
    if (open && !same) {
      const more = step === String(held.step) ? "" : " It went on to the next step.";
      changed.textContent = `It changed while you were looking: ${lookOf(held).word}.${more}`;
    }
    if (open && !same) return;
    for (const input of node.querySelectorAll("input[name=seen]")) input.value = held.status;
    for (const input of node.querySelectorAll("input[name=step]")) input.value = held.step;
    if (node.id === "stop") this.#paintStop(node, held);
    else if (node.id === "promote") this.#paintPromote(node, held);
    else say(node, "back-facts", shiftBack(held));
  }

  #paintStop(node, held) {
    const words = stopping(held);
    say(node, "stop-facts", words.facts);
    say(node, "stop-here", words.here);
    const { healthy, updated } = held.progress;
    const pace = healthy && held.strategy === "rolling" ? tookSeconds(held) / healthy : 0;
    const takes = pace && updated ? ` About ${duration(pace * updated)}.` : "";
    say(node, "stop-back", `${words.back}${takes}`);
  }

  #paintPromote(node, held) {
    const words = promotion(held);
    if (!words) return;
    say(document, "promote-open", words.open);
    say(node, "promote-title", words.title);
    say(node, "promote-facts", words.facts);
    say(node, "promote-end-facts", words.end_facts);
    part(node, "promote-end").hidden = !words.end;
    const next = part(node, "promote-next");
    if (!next.hasAttribute("aria-disabled")) next.textContent = words.next;
    const lines = errorsSoFar(held).map((line) => make("li", {}, line));
    part(node, "promote-errors").replaceChildren(...lines);
  }
}
