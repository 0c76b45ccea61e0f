// The table of all instances of a large deployment: filtered, sorted and paged here, as
// dashboard/sizes.py does for the first view; rows are patched in place. What is asked for stands
// in the address.
import { fresh, hue, part, say } from "./dom.js";
import { takesTraffic } from "./stages.js";
import { runs, sizes, tileLook, tileState } from "./states.js";

export class Table {
  #root = document.getElementById("instances");
  #form = this.#root.querySelector("form");
  #body = part(this.#root, "rows");
  #page = Number(new URLSearchParams(location.search).get("page")) || 1;
  #held = null;

  constructor() {
    part(this.#form, "ask").hidden = true;
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => this.#turn(1));
    for (const [name, step] of [["earlier", -1], ["later", 1]])
      part(this.#root, name).addEventListener("click", (event) => {
        event.preventDefault();
        this.#turn(this.#page + step);
      });
  }

  #turn(page) {
    this.#page = page;
    this.paint(this.#held);
    history.replaceState(null, "", this.#address(this.#page));
  }

  #address(page) {
    const asked = new URLSearchParams(location.search);
    for (const [key, value] of [...new FormData(this.#form), ["page", page]]) asked.set(key, value);
    return `?${asked}`;
  }

  paint(held) {
    this.#held = held;
    const { q, state, sort } = Object.fromEntries(new FormData(this.#form));
    const traffic = takesTraffic(held);
    const found = held.targets.filter(
      (target) =>
        target.instance.toLowerCase().includes(q.toLowerCase()) &&
        (!state || state === tileState(target, held.status, traffic)),
    );
    if (sort === "name") found.sort((one, other) => (one.instance < other.instance ? -1 : 1));
    const size = sizes().rows;
    const pages = Math.max(1, Math.ceil(found.length / size));
    this.#page = Math.min(Math.max(1, this.#page), pages);
    const shown = found.slice((this.#page - 1) * size, this.#page * size);
    this.#arrange(shown).forEach((row, place) =>
      paintRow(row, shown[place], tileState(shown[place], held.status, traffic), held.status),
    );
    const noun = found.length === 1 ? "instance" : "instances";
    say(this.#root, "page-words", `Page ${this.#page} of ${pages}, ${found.length} ${noun}`);
    this.#link("earlier", this.#page > 1, this.#page - 1);
    this.#link("later", this.#page < pages, this.#page + 1);
  }

  #link(name, there, page) {
    const link = part(this.#root, name);
    link.hidden = !there;
    link.setAttribute("href", this.#address(page));
  }

  // The rows of `targets` in their order: each keeps its own, and moves only where it must.
  #arrange(targets) {
    const rows = new Map([...this.#body.children].map((row) => [row.dataset.instance, row]));
    const wanted = targets.map(({ instance }) => rows.get(instance) ?? newRow(instance));
    const kept = new Set(wanted);
    for (const row of rows.values()) if (!kept.has(row)) row.remove();
    wanted.forEach((row, place) => {
      const there = this.#body.children[place];
      if (there !== row) this.#body.insertBefore(row, there ?? null);
    });
    return wanted;
  }
}

function newRow(name) {
  const row = fresh("row-pattern", name);
  say(row, "open", name);
  return row;
}

function paintRow(row, target, state, status) {
  const look = tileLook(state);
  if (row.dataset.state !== state) {
    row.dataset.state = state;
    hue(row, look.hue);
  }
  say(row, "glyph", look.glyph);
  say(row, "word", look.word);
  say(row, "batch", String(target.batch));
  say(row, "runs", runs(target, status));
  say(row, "address", target.address);
}
