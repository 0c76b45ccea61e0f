// What is known of one instance: opened by its tile, kept up to date while it is open.
import { hue, make, part, say } from "./dom.js";
import { takesTraffic } from "./stages.js";
import { isWell, runs, tileLook, tileState } from "./states.js";
import { clock } from "./time.js";

const OUTPUT_SHOWN = 100_000; // characters

export class Panel {
  #root = document.getElementById("panel");
  #log;
  #opener = null;
  name = null;

  constructor(log, held) {
    this.#log = log;
    if (!this.#root.hidden) this.name = part(this.#root, "panel-name").textContent;
    document.getElementById("lanes").addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (!tile || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(tile.dataset.instance, held());
    });
    part(this.#root, "panel-close").addEventListener("click", (event) => {
      event.preventDefault();
      this.close();
    });
    this.#root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  async open(name, held) {
    this.#opener = document.activeElement;
    this.name = name;
    this.#root.hidden = false;
    history.replaceState(null, "", `?instance=${encodeURIComponent(name)}`);
    this.paint(held);
    this.#root.focus({ preventScroll: false });
    while (this.#log.first > 1 && this.name === name && (await this.#log.before()));
    if (this.name === name) this.paint(held);
  }

  close() {
    this.name = null;
    this.#root.hidden = true;
    history.replaceState(null, "", location.pathname);
    this.#opener?.focus();
  }

  paint(held) {
    const target = held.targets.find((one) => one.instance === this.name);
    if (!target) return;
    const look = tileLook(tileState(target, held.status, takesTraffic(held)));
    say(this.#root, "panel-name", target.instance);
    hue(part(this.#root, "panel-state"), look.hue);
    say(this.#root, "panel-glyph", look.glyph);
    say(this.#root, "panel-word", look.word);
    say(this.#root, "panel-runs", runs(target, held.status));
    say(this.#root, "panel-address", target.address);
    part(this.#root, "panel-error").hidden = !target.error;
    say(this.#root, "panel-error", target.error);
    this.#paintChecks(target.health_checks);
    this.#paintEvents();
  }

  #paintChecks(checks) {
    const rows = [...checks].reverse().map((check) =>
      make(
        "tr",
        {},
        make("td", {}, make("time", { datetime: check.at }, clock(check.at))),
        make("td", {}, `${isWell(check) ? "✓" : "✕"} ${check.status ?? "none"}`),
        make("td", { class: "number" }, check.latency_ms === null ? "" : check.latency_ms.toFixed(0)),
        make("td", {}, check.error),
      ),
    );
    part(this.#root, "panel-checks").replaceChildren(...rows);
  }

  #paintEvents() {
    const mine = this.#log.of(this.name).filter((event) => event.message);
    const output = mine.filter((event) => event.kind === "output").map((event) => event.message);
    const text = output.join("\n");
    const cut = text.length > OUTPUT_SHOWN;
    say(this.#root, "panel-output", cut ? `[cut]\n${text.slice(-OUTPUT_SHOWN)}` : text || "none");
    const rest = mine.filter((event) => event.kind !== "output");
    part(this.#root, "panel-events").replaceChildren(
      ...rest.map((event) =>
        make("li", {}, make("time", { datetime: event.at }, clock(event.at)), ` ${event.message}`),
      ),
    );
  }
}
