// Lanes and tiles: patched in place, so focus, selection and scrolling stay where they are.
import { draw, hue, part, say } from "./dom.js";
import { leadsToBatch, takesTraffic } from "./stages.js";
import { bars, detail, isActive, laneState, runs, tileLook, tileState } from "./states.js";
import { duration, now, secondsSince } from "./time.js";

const tiles = new Map();
const lanes = new Map();

export function find(root) {
  for (const node of root.querySelectorAll(".tile")) tiles.set(node.dataset.instance, node);
  for (const node of root.querySelectorAll(".lane")) lanes.set(Number(node.dataset.batch), node);
}

export const tileOf = (name) => tiles.get(name);

// Paint `targets` of what is held, and their lanes.
export function paint(held, targets) {
  const batches = new Set();
  const traffic = takesTraffic(held);
  for (const target of targets) {
    batches.add(target.batch);
    const node = tiles.get(target.instance);
    if (node) paintTile(node, target, held.status, traffic);
  }
  for (const batch of batches) paintLane(batch, held);
}

function paintTile(node, target, status, traffic) {
  const state = tileState(target, status, traffic);
  const look = tileLook(state);
  if (node.dataset.state !== state) {
    node.dataset.state = state;
    hue(node, look.hue);
  }
  say(node, "glyph", look.glyph);
  say(node, "word", look.word);
  say(node, "runs", runs(target, status));
  say(node, "detail", detail(target, state));
  paintSeconds(node, target, status);
  paintSpark(part(node, "spark"), target.health_checks);
}

function paintSeconds(node, target, status) {
  const running = isActive(status) && target.status !== "pending";
  say(node, "seconds", running ? duration(secondsSince(target.updated_at)) : "");
}

function paintSpark(node, checks) {
  const last = checks.at(-1);
  const drawn = `${checks.length} ${last?.at ?? ""}`;
  if (node.dataset.drawn === drawn) return;
  node.dataset.drawn = drawn;
  node.replaceChildren(...bars(checks).map((bar) => draw("rect", bar)));
}

function paintLane(batch, held) {
  const node = lanes.get(batch);
  if (!node) return;
  const members = held.targets.filter((target) => target.batch === batch);
  const [state, words] = laneState(members, held.status);
  node.dataset.lane = state;
  say(node, "lane-words", words);
}

// Once a second: how long each has been as it is, and how long the pause still lasts.
export function tick(held) {
  for (const target of held.targets) {
    const node = tiles.get(target.instance);
    if (node) paintSeconds(node, target, held.status);
  }
  const left = held.waiting_until ? (Date.parse(held.waiting_until) - now()) / 1000 : null;
  let next = held.status === "in_progress" && left > 0 && leadsToBatch(held);
  for (const [, lane] of lanes) {
    const node = part(lane, "pause");
    const counting = next && lane.dataset.lane === "coming";
    if (counting) next = false;
    if (node) say(lane, "pause", counting ? `starts in ${duration(left)}` : node.dataset.words);
  }
}
