// The log: a window on what was said, of which the rest is asked for. Filters stand in the
// address; following stops as soon as one scrolls up.
import { part, say } from "./dom.js";
import { localise } from "./time.js";

const MOST_ROWS = 1_000;
const PAGE = 200; // lines that are asked for at once, as dashboard/log_views.py sends them
const FILTERS = ["log-kind", "log-instance"];
const NEAR_END = 24; // pixels from the end that still count as following

export class Log {
  #box = document.getElementById("log");
  #rows = document.getElementById("log-rows");
  #fresh = document.getElementById("log-new");
  #earlier = document.getElementById("log-earlier");
  #filters = document.getElementById("filters");
  #pattern = document.getElementById("log-row");
  #ask; // returns the lines next `after` an event, or the last ones `before` it, as filtered
  #last; // event that is known, shown or not
  #whole = true; // whether what is shown reaches to the last event
  #ended = true; // whether one saw the end when one scrolled last
  #unseen = 0;
  #filling = null;

  constructor(ask, last) {
    this.#ask = ask;
    this.#last = last;
    document.getElementById("log-filter").hidden = true;
    this.#filters.addEventListener("change", () => this.#turn());
    this.#filters.addEventListener("submit", (event) => event.preventDefault());
    this.#box.addEventListener("scroll", () => {
      this.#ended = this.#whole && this.following;
      if (this.#ended) this.#seen();
    });
    this.#fresh.addEventListener("click", () => this.toEnd());
    this.#earlier.addEventListener("click", () => this.before());
    addEventListener("hashchange", () => this.#linked());
    this.#ended = !this.#linked();
    if (this.#ended) this.#down();
    // At the end it stays there when its box or the window becomes another.
    new ResizeObserver(() => this.#ended && this.#down()).observe(this.#box);
  }

  get following() {
    return this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < NEAR_END;
  }

  get #wanted() {
    const { elements } = this.#filters;
    return Object.fromEntries(FILTERS.map((name) => [name, elements[name].value]));
  }

  add(events) {
    if (this.#filling) this.#filling.then(() => this.add(events));
    else this.#add(events);
  }

  #add(events) {
    const { "log-kind": kind, "log-instance": instance } = this.#wanted;
    const fresh = events.filter(
      (event) =>
        event.seq > this.#last &&
        event.message &&
        (!kind || event.kind === kind) &&
        (!instance || event.target === instance),
    );
    this.#last = Math.max(this.#last, events.at(-1)?.seq ?? 0);
    if (!fresh.length) return;
    const follow = this.#whole && this.following;
    // Who reads further up loses no line under the eyes: the rest waits until it is asked for.
    if (!follow && this.#rows.children.length + fresh.length > MOST_ROWS) this.#whole = false;
    if (this.#whole) this.#rows.append(...fresh.map((event) => this.#row(event)));
    // A page of lines at once, as all that are shown move each time.
    if (this.#rows.children.length > MOST_ROWS)
      while (this.#rows.children.length > MOST_ROWS - PAGE) this.#rows.firstElementChild.remove();
    this.#count();
    if (follow) this.#down();
    else this.#tell(this.#unseen + fresh.length);
  }

  // Read on up to `seq`, as a snapshot leaves out what was said meanwhile; return it.
  fill(seq) {
    this.#filling ??= this.#fill(seq).finally(() => (this.#filling = null));
    return this.#filling;
  }

  async #fill(seq) {
    const read = [];
    while (this.#last < seq) {
      const lines = await this.#ask({ after: this.#last }).catch(() => null);
      if (!lines) this.#whole = false; // the end is asked for when it is wanted
      else read.push(...lines);
      this.#add(lines ?? []);
      if (!lines || lines.length < PAGE) this.#last = seq;
    }
    return read;
  }

  // Show the log as it was when `seq` was its last event.
  async show(seq) {
    this.#last = seq;
    this.#place(await this.#lines({ before: seq + 1 }));
    if (this.#last === seq) this.#down();
  }

  toEnd() {
    return this.#whole ? this.#down() : this.show(this.#last);
  }

  async before() {
    const older = await this.#lines({ before: Number(this.#rows.firstElementChild?.id.slice(2)) });
    const height = this.#box.scrollHeight;
    this.#rows.prepend(...older.map((event) => this.#row(event)));
    this.#box.scrollTop += this.#box.scrollHeight - height;
    for (; this.#rows.children.length > MOST_ROWS; this.#whole = false) this.#rows.lastElementChild.remove();
    this.#earlier.hidden = older.length < PAGE;
  }

  async reach(seq) {
    if (!document.getElementById(`e-${seq}`)) {
      for (const name of FILTERS) this.#filters.elements[name].value = "";
      this.#place(await this.#lines({ before: seq + PAGE / 2 }));
    }
    const row = document.getElementById(`e-${seq}`);
    this.#rows.querySelector("[aria-current]")?.removeAttribute("aria-current");
    row?.setAttribute("aria-current", "true");
    row?.scrollIntoView({ block: "center" });
  }

  #linked() {
    const [, seq] = /^#e-(\d+)$/.exec(location.hash) ?? [];
    if (seq) this.reach(Number(seq)).catch(() => {});
    return Boolean(seq);
  }

  async #lines(wanted) {
    return (await this.#ask({ ...this.#wanted, ...wanted })) ?? [];
  }

  #place(lines) {
    this.#rows.replaceChildren(...lines.map((event) => this.#row(event)));
    this.#earlier.hidden = lines.length < PAGE;
    this.#whole = lines.length < PAGE / 2 || lines.at(-1).seq >= this.#last;
    this.#count();
  }

  #row({ seq, at, kind, target, message }) {
    const row = this.#pattern.content.firstElementChild.cloneNode(true);
    row.id = `e-${seq}`;
    row.dataset.kind = kind;
    row.dataset.target = target ?? "";
    part(row, "link").setAttribute("href", `#e-${seq}`);
    part(row, "at").dateTime = at;
    say(row, "kind", kind);
    say(row, "text", message);
    localise(row);
    return row;
  }

  #turn() {
    const asked = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(this.#wanted))
      if (value) asked.set(name, value);
      else asked.delete(name);
    history.replaceState(null, "", `?${asked}`);
    return this.show(this.#last);
  }

  #down() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#seen();
  }

  #count() {
    document.getElementById("log-none").hidden = this.#rows.children.length > 0;
  }

  #seen() {
    this.#tell(0);
  }

  #tell(unseen) {
    this.#unseen = unseen;
    this.#fresh.hidden = !unseen;
    this.#fresh.textContent = `${unseen} new ↓`;
  }
}
