// Lanes and tiles: patched in place, so focus, selection and scrolling stay where they are. Up to
// some hundred instances each has a tile in its batch's lane; of more, lanes are bars, and tiles
// are of the batches under way and of those that have failed.
import { draw, fresh, hue, part, say } from "./dom.js";
import { placeOf } from "./snapshot.js";
import { leadsToBatch, takesTraffic } from "./stages.js";
import { bars, detail, isActive, laneBar, laneState, runs, sizes, tileLook, tileState } from "./states.js";
import { duration, now, secondsSince } from "./time.js";

const tiles = new Map();
const lanes = new Map(); // by batch: its node, and the places of its targets
let few = null; // the list of tiles, where not all have one

export function find(root) {
  for (const node of root.querySelectorAll(".tile")) tiles.set(node.dataset.instance, node);
  for (const node of root.querySelectorAll(".lane")) lanes.set(Number(node.dataset.batch), { node });
  few = root.querySelector("#now");
  // A tile that is over stays as long as it has the focus.
  few?.addEventListener("focusout", ({ target }) => {
    const node = target.closest(".tile");
    if (node && "over" in node.dataset) drop(node);
  });
}

// Paint `targets` of what is held, and their lanes.
export function paint(held, targets) {
  const traffic = takesTraffic(held);
  const batches = new Map();
  for (const target of targets) {
    if (!batches.has(target.batch)) batches.set(target.batch, []);
    batches.get(target.batch).push(target);
  }
  for (const [batch, changed] of batches) {
    const lane = lanes.get(batch);
    if (!lane) continue;
    lane.places ??= held.targets.flatMap((target, place) => (target.batch === batch ? [place] : []));
    const members = lane.places.map((place) => held.targets[place]);
    const before = lane.node.dataset.lane;
    const after = paintLane(lane.node, batch, members, held.status, traffic);
    for (const target of few && before !== after ? members : changed) {
      const state = tileState(target, held.status, traffic);
      const node = few ? wanted(held, target, state, after === "active") : tiles.get(target.instance);
      if (node) paintTile(node, target, state, held.status);
    }
  }
}

// First those of the batches under way, which keep their places until all of them are done; then
// those that have failed before.
function wanted(held, target, state, active) {
  const node = tiles.get(target.instance);
  const focused = node?.contains(document.activeElement);
  const over = !active && !sizes().failed.includes(state);
  node?.toggleAttribute("data-over", over);
  if (over) {
    if (node && !focused) drop(node);
    return node;
  }
  const rank = placeOf(held, target.instance) + (active ? 0 : held.targets.length);
  if (node && (focused || Number(node.dataset.rank) === rank)) return node;
  return put(node ?? newTile(target.instance), rank);
}

function drop(node) {
  tiles.delete(node.dataset.instance);
  node.remove();
}

function newTile(name) {
  const node = fresh("tile-pattern", name);
  const label = node.querySelector("strong");
  label.title = name;
  label.firstElementChild.textContent = name;
  tiles.set(name, node);
  return node;
}

function put(node, rank) {
  node.dataset.rank = rank;
  let next = null;
  for (let one = few.lastElementChild; one; one = one.previousElementSibling) {
    if (one === node) continue;
    if (Number(one.dataset.rank) < rank) break;
    next = one;
  }
  few.insertBefore(node, next);
  return node;
}

function paintTile(node, target, state, status) {
  const look = tileLook(state);
  if (node.dataset.state !== state) {
    node.dataset.state = state;
    hue(node, look.hue);
    say(node, "glyph", look.glyph);
    say(node, "word", look.word);
  }
  const spark = part(node, "spark");
  if (!spark) return; // a small one
  say(node, "runs", runs(target, status));
  say(node, "detail", detail(target, state));
  paintSeconds(node, target, status);
  paintSpark(spark, target.health_checks);
}

function paintSeconds(node, target, status) {
  const running = isActive(status) && target.status !== "pending";
  // There is room for the larger unit alone.
  say(node, "seconds", running ? duration(secondsSince(target.updated_at)).split(" ", 2).join(" ") : "");
}

// One path for each kind of bar.
function paintSpark(node, checks) {
  const drawn = `${checks.length} ${checks.at(-1)?.at ?? ""}`;
  if (node.dataset.drawn === drawn) return;
  node.dataset.drawn = drawn;
  if (!node.firstChild) node.append(...["good", "bad", "none"].map((kind) => draw("path", { class: kind })));
  const paths = { good: "", bad: "", none: "" };
  for (const { kind, x, y, width, height } of bars(checks))
    paths[kind] += `M${x} ${y}h${width}v${height}h-${width}z`;
  for (const path of node.children) path.setAttribute("d", paths[path.getAttribute("class")]);
}

function paintLane(node, batch, members, status, traffic) {
  const [state, words] = laneState(members, status);
  node.dataset.lane = state;
  say(node, "lane-words", words);
  const bar = part(node, "bar");
  if (!bar) return state;
  const told = laneBar(members.map((target) => tileState(target, status, traffic)));
  say(node, "lane-counts", told.words);
  bar.setAttribute("aria-label", `Batch ${batch}: ${told.words}`);
  told.parts.forEach(({ x, width }, number) => {
    bar.children[number].setAttribute("x", x);
    bar.children[number].setAttribute("width", width);
  });
  return state;
}

// Once a second: how long each has been as it is, and how long the pause still lasts.
export function tick(held) {
  for (const [name, node] of tiles) paintSeconds(node, held.targets[placeOf(held, name)], held.status);
  const left = held.waiting_until ? (Date.parse(held.waiting_until) - now()) / 1000 : null;
  let next = held.status === "in_progress" && left > 0 && leadsToBatch(held);
  for (const { node: lane } of lanes.values()) {
    const node = part(lane, "pause");
    const counting = next && lane.dataset.lane === "coming";
    if (counting) next = false;
    if (node) say(lane, "pause", counting ? `starts in ${duration(left)}` : node.dataset.words);
  }
}
