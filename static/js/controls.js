// Buttons. The click sets no state: it asks, says that it asked, and the event sets the state.
import { alert, clearAlert } from "./announce.js";
import { make, part } from "./dom.js";
import { loginUrl } from "./freshness.js";
import { ENDING_WISHES, mayPause, maySendBack, promoting } from "./stages.js";
import { isActive, lookOf } from "./states.js";

const PATIENCE = 15_000;

export class Controls {
  #root = document.getElementById("deployment");
  #look;
  #dialog = null; // the one that is open
  #asked = null; // the button that was pressed, until the answer is in the state
  #words = ""; // of it

  // `look` fetches the snapshot: while the socket is away no event would tell.
  constructor(look) {
    this.#look = look;
    this.#root.addEventListener("submit", (event) => {
      const form = event.target.closest("form[data-control]");
      if (!form) return;
      event.preventDefault();
      const button = form.querySelector("button");
      if (!this.#asked) this.#ask(form, button);
    });
    this.#root.addEventListener("click", (event) => {
      const link = event.target.closest("[data-opens]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      if (!this.#asked) this.#open(link);
    });
    const drawn = this.#root.querySelector("dialog");
    if (drawn) this.#show(drawn);
  }

  async #ask(form, button) {
    const opener = this.#dialog && this.#root.querySelector(`[data-opens="${this.#dialog.id}"]`);
    this.#press(button, form.dataset.pressed);
    const answer = await this.#fetch(form.action, { method: "POST", body: new FormData(form) });
    if (answer?.status === 202) {
      // The dialog goes, and what opened it says what was asked, if no event has answered yet.
      if (this.#asked && opener) {
        this.release();
        this.#press(opener, form.dataset.pressed);
      }
      this.#dialog?.close();
    } else {
      await this.#refused(answer);
      this.release();
    }
    this.#look().catch(() => {});
  }

  // What a dialog says is drawn by the server, as of now.
  async #open(link) {
    this.#press(link, link.textContent);
    const answer = await this.#fetch(`/deployments/${this.#root.dataset.id}/dialog/${link.search}`);
    this.release();
    if (answer?.status !== 200 || answer.redirected) return this.#refused(answer);
    // Parsed, never run: our own page, in which everything from outside was escaped.
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    this.#root.append(page.querySelector("dialog"));
    this.#show(this.#root.lastElementChild);
  }

  #show(node) {
    this.#dialog = node;
    node.removeAttribute("open"); // what came open becomes a modal one; `close` would tell of an end
    node.addEventListener("close", () => {
      node.remove();
      if (this.#dialog === node) this.#dialog = null;
    });
    node.addEventListener("click", (event) => {
      if (!event.target.closest("[data-closes]")) return;
      event.preventDefault();
      node.close();
    });
    node.showModal();
    node.querySelector("[data-closes]").focus();
  }

  #fetch(url, options = {}) {
    clearAlert();
    const headers = { Accept: "application/json" };
    return fetch(url, { ...options, headers, signal: AbortSignal.timeout(PATIENCE) }).catch(() => null);
  }

  async #refused(answer) {
    this.#dialog?.close();
    if (!answer) alert("No answer: it may or may not have been asked. The log shows it once the page is live.");
    else if (answer.redirected || answer.status === 401)
      alert("Not asked: you are signed out. ", make("a", { href: loginUrl() }, "Log in"));
    else if (answer.status === 403) alert("Not asked: you have no right to this.");
    else {
      const said = await answer.json().catch(() => ({}));
      alert(`Not done. ${said.detail ?? `The server answered ${answer.status}.`}`);
    }
  }

  #press(button, words) {
    this.#asked = button;
    this.#words = button.textContent;
    button.textContent = words;
    button.setAttribute("aria-disabled", "true");
  }

  // The answer is in the state now: the button says again what it does.
  release() {
    if (!this.#asked) return;
    this.#asked.textContent = this.#words;
    this.#asked.removeAttribute("aria-disabled");
    this.#asked = null;
  }

  paint(before, held) {
    if (before && ["status", "wish", "step"].some((key) => before[key] !== held[key])) this.release();
    const { status, wish } = held;
    const ending = ENDING_WISHES.has(wish);
    const promote = promoting(held);
    const shown = {
      pause: mayPause(held),
      resume: (status === "paused" || wish === "pause") && isActive(status) && !ending,
      stop: isActive(status) && status !== "rolling_back",
      active: isActive(status),
      ended: !isActive(status),
      promote,
      back: maySendBack(held),
    };
    for (const [name, visible] of Object.entries(shown))
      for (const node of this.#root.querySelectorAll(`[data-control="${name}"]`)) node.hidden = !visible;
    const link = part(this.#root, "promote-open");
    if (promote && link !== this.#asked && link) link.textContent = promote;
    for (const input of this.#root.querySelectorAll("#controls input[name=seen]")) input.value = status;
    if (this.#dialog) this.#paintDialog(this.#dialog, held);
  }

  // What is being read in an open dialog keeps the state that it was drawn from.
  #paintDialog(node, held) {
    const { seq, seen, step } = node.dataset;
    const went = step !== String(held.step);
    if (held.seq <= seq || (seen === held.status && !went)) return;
    const changed = part(node, "changed");
    changed.hidden = false;
    const more = went ? " It went on to the next step." : "";
    changed.textContent = `It changed while you were looking: ${lookOf(held).word}.${more}`;
  }
}
