// The log: filters, following, links to lines, and what came before on demand.
import { make, part, say } from "./dom.js";
import { fetchJson } from "./freshness.js";
import { clock } from "./time.js";

const MOST_ROWS = 3_000;
const PAGE = 200;
const NEAR_END = 24; // pixels from the end that still count as following

export class Log {
  #rows = document.getElementById("log-rows");
  #box = document.getElementById("log");
  #fresh = document.getElementById("log-new");
  #earlier = document.getElementById("log-earlier");
  #kind = document.getElementById("log-kind");
  #instance = document.getElementById("log-instance");
  #pattern = document.getElementById("log-row");
  #unseen = 0;
  #filling = null;

  constructor(id, events, live) {
    this.id = id;
    this.live = live;
    this.events = events;
    document.getElementById("filters").hidden = false;
    this.#offer(events);
    this.#kind.addEventListener("change", () => this.#filter());
    this.#instance.addEventListener("change", () => this.#filter());
    this.#box.addEventListener("scroll", () => this.following && this.#seen());
    this.#fresh.addEventListener("click", () => this.#toEnd());
    this.#earlier.addEventListener("click", () => this.before());
    this.#earlier.hidden = this.first <= 1;
    if (location.hash.startsWith("#e-")) this.reach(Number(location.hash.slice(3)));
    else this.#toEnd();
  }

  get first() {
    return this.events[0]?.seq ?? 1;
  }

  get last() {
    return this.events.at(-1)?.seq ?? 0;
  }

  get following() {
    return this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < NEAR_END;
  }

  of(instance) {
    return this.events.filter((event) => event.target === instance);
  }

  add(events) {
    const fresh = events.filter((event) => event.seq > this.last);
    if (!fresh.length) return;
    const follow = this.following;
    this.events.push(...fresh);
    this.#offer(fresh);
    const rows = fresh.filter((event) => event.message).map((event) => this.#row(event));
    this.#rows.append(...rows);
    while (this.#rows.children.length > MOST_ROWS) this.#rows.firstElementChild.remove();
    if (follow) this.#toEnd();
    else this.#count(rows.filter((row) => !row.hidden).length);
  }

  // Read on from the last line up to `seq`: a snapshot leaves out what was said meanwhile.
  fill(seq) {
    this.#filling ??= this.#fill(seq).finally(() => (this.#filling = null));
    return this.#filling;
  }

  async #fill(seq) {
    while (this.last < seq) {
      const page = await this.#page(this.last);
      if (!page?.items.length) return;
      this.add(page.items);
    }
  }

  async before() {
    const first = this.first;
    const page = await this.#page(Math.max(0, first - 1 - PAGE));
    const older = (page?.items ?? []).filter((event) => event.seq < first);
    if (!older.length) return false;
    this.events.unshift(...older);
    this.#offer(older);
    const height = this.#box.scrollHeight;
    this.#rows.prepend(...older.filter((event) => event.message).map((event) => this.#row(event)));
    this.#box.scrollTop += this.#box.scrollHeight - height;
    this.#earlier.hidden = this.first <= 1;
    return true;
  }

  async reach(seq) {
    while (seq < this.first && (await this.before()));
    document.getElementById(`e-${seq}`)?.scrollIntoView({ block: "center" });
  }

  #page(after) {
    return fetchJson(`/api/v1/deployments/${this.id}/events?after=${after}&limit=${PAGE}`, this.live);
  }

  #row(event) {
    const row = this.#pattern.content.firstElementChild.cloneNode(true);
    row.id = `e-${event.seq}`;
    row.dataset.kind = event.kind;
    row.dataset.target = event.target ?? "";
    part(row, "link").setAttribute("href", `#e-${event.seq}`);
    part(row, "at").dateTime = event.at;
    say(row, "at", clock(event.at));
    say(row, "kind", event.kind);
    say(row, "text", event.message);
    row.hidden = !this.#wanted(row);
    return row;
  }

  #wanted(row) {
    const kind = !this.#kind.value || row.dataset.kind === this.#kind.value;
    return kind && (!this.#instance.value || row.dataset.target === this.#instance.value);
  }

  #filter() {
    for (const row of this.#rows.children) row.hidden = !this.#wanted(row);
    this.#toEnd();
  }

  #offer(events) {
    for (const event of events) {
      if (!event.message) continue;
      this.#option(this.#kind, event.kind);
      if (event.target) this.#option(this.#instance, event.target);
    }
  }

  #option(select, value) {
    const options = [...select.options];
    if (options.some((option) => option.value === value)) return;
    const next = options.slice(1).find((option) => option.value > value) ?? null;
    select.insertBefore(make("option", { value }, value), next);
  }

  #toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#seen();
  }

  #seen() {
    this.#unseen = 0;
    this.#fresh.hidden = true;
  }

  #count(more) {
    this.#unseen += more;
    this.#fresh.hidden = this.#unseen === 0;
    this.#fresh.textContent = `${this.#unseen} new ↓`;
  }
}
