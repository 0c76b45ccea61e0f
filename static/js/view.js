// What paints a held state: head, rail, lanes with their tiles, traffic. The live page
// (deployment.js) and the replay use it alike: both fold events into a snapshot with `advance`
// of snapshot.js and hand each new one over.
//
//   const view = new View(root, { stops, painted(before, held) {}, speaks: true });
//   view.pin(failure);  // the event that is pinned as the first failure; null for none
//   view.show(held);    // any snapshot of the deployment, newer or older than the one shown
//   view.tick();        // once a second: what the clock of time.js alone changes
//
// `show` paints with the next frame, however many states came before it; in a hidden tab, where
// there are no frames, at once. What changed is found by identity: `advance` keeps every target
// and field that no event touched, so keep the snapshots it gave and going back paints as little.
// `painted` is called after each, `before` being null the first time. Only a view that `speaks`
// announces; a replay says nothing aloud. The page has parts/fleet.html drawn from sizes.fleet.
import * as announce from "./announce.js";
import * as head from "./head.js";
import { changes } from "./snapshot.js";
import { decision, takesTraffic } from "./stages.js";
import { deploymentLook, isActive } from "./states.js";
import * as tiles from "./tiles.js";
import * as traffic from "./traffic.js";

export class View {
  #root;
  #painted;
  #speaks;
  #table = null; // only large deployments have one
  #rail = null; // only canaries and blue/green have one
  #failure = null;
  #asked = ""; // a decision may become needed by the clock alone
  #held = null;
  #shown = null;
  #frame = 0;

  constructor(root, { stops, painted = () => {}, speaks = false }) {
    this.#root = root;
    this.#painted = painted;
    this.#speaks = speaks;
    tiles.find(root);
    if (document.getElementById("instances")) this.#tabulate();
    if (document.getElementById("rail")) this.#follow(stops);
    document.addEventListener("visibilitychange", () => this.#flush());
  }

  pin(failure) {
    this.#failure = failure;
    head.paintFailure(this.#root, failure);
  }

  show(held) {
    this.#held = held;
    if (document.hidden || !this.#shown) this.#flush();
    else this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  tick() {
    const held = this.#shown;
    if (!held || !isActive(held.status)) return;
    tiles.tick(held);
    head.tick(this.#root, held);
    this.#rail?.paint(this.#root, held);
    if (this.#speaks) this.#speak(null, held);
  }

  #flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const [before, held] = [this.#shown, this.#held];
    if (held === before) return;
    this.#shown = held;
    this.#paint(before, held);
    if (this.#speaks) this.#speak(before, held);
    this.#painted(before, held);
  }

  async #tabulate() {
    const { Table } = await import("./table.js");
    this.#table = new Table();
    if (this.#shown) this.#table.paint(this.#shown);
  }

  async #follow(stops) {
    this.#rail = await import("./rail.js");
    this.#rail.follow(stops);
    if (this.#shown) this.#rail.paint(this.#root, this.#shown);
  }

  #paint(before, held) {
    const { fields, targets } = changes(before, held);
    // With the status or a shift of the traffic every tile may change, and no target does.
    const all = !before || fields.has("status") || takesTraffic(before) !== takesTraffic(held);
    tiles.paint(held, all ? held.targets : targets);
    if (all) tiles.tick(held); // a countdown ends with what it counted down to
    if (all || targets.length) this.#table?.paint(held);
    head.paint(this.#root, held);
    this.#rail?.paint(this.#root, held);
    traffic.paint(this.#root, held);
  }

  #speak(before, held) {
    const name = `${held.service} ${held.version}`;
    const needed = decision(held);
    if (needed && !this.#asked) announce.tell(`${name}: ${needed}`);
    this.#asked = needed;
    if (!before) return;
    if (condemned(held) && !condemned(before)) announce.tell(held.analysis.words);
    const { batch, batches, healthy, total } = held.progress;
    if (before.status !== held.status) {
      const text = `${name}: ${deploymentLook(held.status).word}. ${held.reason}`;
      if (["in_progress", "pending"].includes(held.status)) announce.status(text);
      else announce.tell(text);
    } else if (before.progress.failed < held.progress.failed && this.#failure) {
      announce.tell(this.#failure.message);
    } else if (before.progress.healthy !== healthy && isActive(held.status)) {
      announce.status(`Batch ${batch} of ${batches}, ${healthy} of ${total} on ${held.version}`);
    } else if (before.step !== held.step) {
      const next = this.#rail?.upcoming(held);
      if (next) announce.status(`${name}: ${next}`);
    }
  }
}

const condemned = ({ analysis }) => analysis?.verdict === "against";
