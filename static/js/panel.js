// What is known of one instance: opened by its tile or row, drawn by the server, and drawn again
// while it is open as soon as its state changes.
import { localise } from "./time.js";

const PAUSE = 300; // milliseconds between two looks

export class Panel {
  #root = document.getElementById("panel");
  #fetch; // (name) => what the server draws of it, null where it can't
  #opener = null;
  #drawn = null; // the target that was drawn
  #timer = 0;
  name = new URLSearchParams(location.search).get("instance");

  constructor(fetch) {
    this.#fetch = fetch;
    // Of a tile, or of a row where there are too many for tiles.
    document.querySelector(".lanes-part").addEventListener("click", (event) => {
      const link = event.target.closest("[data-part=open]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(link.closest("[data-instance]").dataset.instance);
    });
    this.#root.addEventListener("click", (event) => {
      if (!event.target.closest("[data-part=panel-close]")) return;
      event.preventDefault();
      this.close();
    });
    this.#root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  async open(name) {
    this.#opener = document.activeElement;
    this.name = name;
    address((asked) => asked.set("instance", name));
    await this.#draw();
    if (this.name === name) this.#root.focus({ preventScroll: true });
  }

  close() {
    this.name = null;
    this.#root.hidden = true;
    address((asked) => asked.delete("instance"));
    this.#opener?.focus();
  }

  paint(held) {
    const target = this.name && held.targets.find(({ instance }) => instance === this.name);
    if (!target || target === this.#drawn) return;
    this.#drawn = target;
    this.#timer ||= setTimeout(() => this.#draw(), PAUSE);
  }

  async #draw() {
    this.#timer = 0;
    const { name } = this;
    const text = name && (await this.#fetch(name).catch(() => null));
    if (!text || this.name !== name) return;
    // Parsed, never run: our own page, in which everything from outside was escaped.
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("panel");
    if (!fresh) return;
    localise(fresh);
    // What is scrolled and who has the focus stay as they are.
    const parts = () => [...this.#root.querySelectorAll("a, [tabindex]")];
    const focus = parts().indexOf(document.activeElement);
    const scrolled = parts().map((part) => part.scrollTop);
    this.#root.replaceChildren(...fresh.childNodes);
    this.#root.hidden = false;
    parts().forEach((part, place) => (part.scrollTop = scrolled[place] ?? 0));
    parts()[focus]?.focus({ preventScroll: true });
  }
}

// What else stands in the address, as the filters of a table, stays.
function address(change) {
  const asked = new URLSearchParams(location.search);
  change(asked);
  history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);
}
