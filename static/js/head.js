// The head of a deployment's page: state, figures, wish, reason, first failure, traffic.
import { draw, hue, part, say } from "./dom.js";
import { counts, deploymentLook, isActive, secondsLeft, segments, shares, waitingWords, wishWords } from "./states.js";
import { clock, duration, now } from "./time.js";

const ICONS = {
  pending: "idle",
  in_progress: "running",
  paused: "paused",
  rolling_back: "back",
  completed: "done",
  rolled_back: "back",
  failed: "failed",
  cancelled: "stopped",
};
const figures = new Intl.NumberFormat("en");

export function tookSeconds(held) {
  const begun = Date.parse(held.started_at ?? held.created_at);
  const end = held.completed_at ? Date.parse(held.completed_at) : now();
  return Math.max(0, (end - begun) / 1000);
}

export function paint(root, held) {
  const look = deploymentLook(held.status);
  root.dataset.status = held.status;
  hue(part(root, "state"), look.hue);
  say(root, "glyph", look.glyph);
  say(root, "word", look.word);
  say(root, "counts", counts(held.progress));
  paintSegments(part(root, "segments"), held.progress);
  paintWish(root, held);
  paintWaiting(root, held);
  paintReason(root, held, look);
  paintTraffic(root, held);
  tick(root, held);
  const { updated, total } = held.progress;
  document.title = `${look.glyph} ${updated}/${total} ${held.service} ${held.version}`;
  const icon = document.getElementById("favicon");
  const href = `${icon.dataset.folder}${ICONS[held.status] ?? "idle"}.svg`;
  if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
}

export function tick(root, held) {
  const took = tookSeconds(held);
  const left = secondsLeft(held, took);
  say(root, "elapsed", duration(took));
  say(root, "elapsed-word", isActive(held.status) ? "elapsed" : "in all");
  say(root, "left", left === null ? "" : `, about ${duration(left)} left`);
}

export function paintSegments(node, progress) {
  node.setAttribute("aria-label", counts(progress));
  const parts = segments(progress);
  if (node.children.length !== parts.length)
    node.replaceChildren(...parts.map(() => draw("rect", { height: 8 })));
  parts.forEach(({ hue: name, x, width }, number) => {
    const rect = node.children[number];
    rect.setAttribute("class", `hue-${name}`);
    rect.setAttribute("x", x);
    rect.setAttribute("width", width);
  });
}

function paintWish(root, held) {
  const words = isActive(held.status) ? wishWords(held.wish) : "";
  part(root, "wish").hidden = !words;
  if (words) say(root, "wish-words", `${words}, asked by ${held.wish_by}.`);
}

function paintWaiting(root, held) {
  const words = waitingWords(held);
  part(root, "waiting").hidden = !words;
  if (words) say(root, "waiting-words", words);
}

function paintReason(root, held, look) {
  const node = part(root, "reason");
  node.hidden = !held.reason || ["pending", "in_progress"].includes(held.status);
  node.className = `notice ${look.hue}`;
  say(root, "reason-glyph", look.glyph);
  say(root, "reason-words", held.reason);
}

export function paintFailure(root, event) {
  const node = part(root, "failure");
  node.hidden = false;
  say(root, "failure-words", event.message);
  say(root, "failure-at", clock(event.at));
  part(root, "failure-at").dateTime = event.at;
  part(root, "failure-link").setAttribute("href", `#e-${event.seq}`);
}

function paintTraffic(root, held) {
  const drawn = shares(held.traffic, held.version);
  const bar = part(root, "shares");
  bar.replaceChildren(
    ...drawn.map(({ isNew, x, percent }) =>
      draw("rect", { x: `${x}%`, width: `${percent}%`, height: 14, class: isNew ? "new" : "old" }),
    ),
  );
  paintShareWords(part(root, "share-words"), drawn);
  const { requests, failed_requests: failed } = held.traffic;
  say(root, "requests", figures.format(requests ?? 0));
  say(root, "failed-requests", figures.format(failed ?? 0));
  part(root, "failed-requests").classList.toggle("hue-fail", failed > 0);
  say(root, "receipt-words", isActive(held.status) ? "since the start" : "from start to end");
}

function paintShareWords(node, drawn) {
  const words = drawn.map(({ version, isNew, percent }) => {
    const item = document.createElement("span");
    const swatch = document.createElement("span");
    swatch.className = `swatch ${isNew ? "new" : "old"}`;
    swatch.setAttribute("aria-hidden", "true");
    const name = document.createElement("span");
    name.className = "version";
    name.textContent = version;
    item.append(swatch, " ", name, ` ${Math.round(percent)} %`);
    return item;
  });
  if (words.length) node.replaceChildren(...words);
}
