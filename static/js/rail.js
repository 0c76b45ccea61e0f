// The rail: the steps of a canary or of blue/green, patched in place. The same as `rail` of
// dashboard/stages.py says for the first view; a page without one is not sent this.
import { hue, part, say } from "./dom.js";
import { WAITS, asksApproval, percent, plural, slots } from "./stages.js";
import { isActive, stopLook } from "./states.js";
import { duration, now } from "./time.js";

const MOVING = new Set(["change", "pause", "shift"]);
let pattern; // a stop as the server draws it

export function paint(root, held) {
  const list = part(root, "rail");
  const drawn = rail(held);
  say(root, "rail-title", held.way_back === null ? "Steps" : "The way back");
  pattern ??= list.firstElementChild;
  if (list.children.length !== drawn.length)
    list.replaceChildren(...drawn.map(() => pattern.cloneNode(true)));
  drawn.forEach((stop, number) => paintStop(list.children[number], stop));
  const preview = part(root, "preview");
  if (preview) preview.hidden = !isActive(held.status) || held.way_back !== null;
}

function paintStop(node, { label, detail, state, current }) {
  const look = stopLook(state);
  if (node.dataset.state !== state) {
    node.dataset.state = state;
    hue(node, look.hue);
    if (current) node.setAttribute("aria-current", "step");
    else node.removeAttribute("aria-current");
  }
  say(node, "glyph", look.glyph);
  say(node, "label", label);
  say(node, "word", look.word);
  say(node, "detail", detail);
}

// The stops of the plan, as the server forms and names them: {first, end, kind, label, count}.
let course = [];
export const follow = (stops) => (course = stops);

// The steps that are followed, grouped by what they are for.
const stops = (held) => (held.way_back === null ? course : stopsBack(held));

function stopsBack(held) {
  const found = [];
  held.way_back.forEach(({ kind, share, targets = [] }, first) => {
    const before = found.at(-1);
    const stop = kind === "change" && before?.kind === kind ? before : { first, kind, share, count: 0 };
    if (stop !== before) found.push(stop);
    stop.end = first + 1;
    stop.count += targets.length;
    stop.label = labelBack(held, stop);
  });
  return found;
}

function labelBack(held, { kind, share, count }) {
  if (kind === "restore") return "restore weights";
  if (kind === "change") return `bring back ${plural(count, "instance")}`;
  if (share) return `${percent(share)} as before`;
  return `all to ${slots(held)[1] || held.previous_version || "the old version"}`;
}

// What is under way or comes next, to be said aloud; undefined at the end.
export const upcoming = (held) => stops(held).find(({ end }) => end > held.step)?.label;

// The stops, each with its state.
export function rail(held, at = now()) {
  return stops(held).map((stop) => {
    const state = stateOf(held, stop);
    const current = ["now", "asks", "paused"].includes(state);
    return { label: stop.label, detail: detailOf(held, stop, state, at), state, current };
  });
}

function stateOf(held, stop) {
  if (stop.end <= held.step) return "done";
  if (held.completed_at) return "left";
  if (stop.first > held.step || held.status === "pending") return "coming";
  if (held.status === "paused") return "paused";
  return asksApproval(held) ? "asks" : "now";
}

function detailOf(held, stop, state, at) {
  const { kind, count } = stop;
  if (WAITS.has(kind)) {
    if (!["now", "asks"].includes(state) || !held.waiting_until) return "";
    const left = (Date.parse(held.waiting_until) - at) / 1000;
    if (left > 0) return `${duration(left)} left`;
    return held.analysis?.verdict === "too_little" ? "waits for more traffic" : "its time is over";
  }
  if (held.way_back !== null || !MOVING.has(kind)) return "";
  if (!count) return held.strategy === "canary" ? "no more instances" : "";
  return plural(count, "instance");
}
