// Preflight: a worker looks at the fleet while one goes on reading or typing.
import { make } from "./dom.js";
import { loginUrl } from "./freshness.js";
import { localise } from "./time.js";

const STILL = 6_000; // milliseconds
const PATIENCE = 75_000; // milliseconds; the server gives up sooner, and says why

class Preflight {
  constructor(box) {
    this.box = box;
    this.form = box.querySelector("form");
    this.button = box.querySelector("button");
    this.said = box.querySelector("[data-part=said]");
    this.busy = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.look();
    });
    if ("atOnce" in box.dataset) this.look();
  }

  async look() {
    if (this.busy) return;
    this.busy = true;
    this.wait(true);
    const total = Number(this.box.dataset.total);
    const hosts = `${total} ${total === 1 ? "host" : "hosts"}`;
    this.said.textContent = `Checking ${hosts}…`;
    // Said once more where it takes long, so that nobody thinks that it was forgotten.
    const patient = setTimeout(() => {
      this.said.textContent = `Still checking ${hosts}: each is given some seconds to answer…`;
    }, STILL);
    try {
      const answer = await fetch(this.form.action, {
        method: "POST",
        body: new FormData(this.form),
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.redirected || answer.status === 403)
        this.said.replaceChildren("Not checked: you are signed out. ", make("a", { href: loginUrl() }, "Log in"));
      else if (answer.ok) this.show(await answer.text());
      else throw new Error(`answered ${answer.status}`);
    } catch {
      this.said.textContent = "Not checked: the server does not answer.";
    }
    clearTimeout(patient);
    this.wait(false);
    this.busy = false;
  }

  wait(busy) {
    this.box.setAttribute("aria-busy", String(busy));
    this.box.querySelector("[data-part=looking]").toggleAttribute("hidden", !busy);
    if (busy) this.button.setAttribute("aria-disabled", "true");
    else this.button.removeAttribute("aria-disabled");
  }

  show(text) {
    // Parsed, never run: our own page, in which everything from outside was escaped.
    const page = new DOMParser().parseFromString(text, "text/html");
    localise(page);
    for (const name of ["found", "said", "ask"]) {
      const fresh = page.querySelector(`[data-preflight] [data-part=${name}]`);
      this.box.querySelector(`[data-part=${name}]`).replaceChildren(...fresh.childNodes);
    }
  }
}

localise(document);
for (const box of document.querySelectorAll("[data-preflight]")) new Preflight(box);
