// The head of a deployment's page: state, figures, wish, decision, reason, first failure.
import { draw, hue, part, say } from "./dom.js";
import { asksApproval, decision, strategyWords } from "./stages.js";
import { counts, done, isActive, lookOf, secondsLeft, segments, waitingWords, wishWords } from "./states.js";
import { duration, localise, now } from "./time.js";

export function tookSeconds(held) {
  const begun = Date.parse(held.started_at ?? held.created_at);
  const end = held.completed_at ? Date.parse(held.completed_at) : now();
  return Math.max(0, (end - begun) / 1000);
}

export function paint(root, held) {
  const look = lookOf(held);
  root.dataset.status = held.status;
  hue(part(root, "state"), look.hue);
  say(root, "glyph", look.glyph);
  say(root, "word", look.word);
  say(root, "counts", counts(held));
  say(root, "strategy", strategyWords(held));
  paintSegments(part(root, "segments"), held);
  const wish = isActive(held.status) ? wishWords(held.wish) : "";
  paintNotice(root, "wish", wish && `${wish}, asked by ${held.wish_by}.`);
  paintNotice(root, "waiting", waitingWords(held));
  paintReason(root, held, look);
  tick(root, held);
  document.title = `${look.glyph} ${done(held.progress)}/${held.progress.total} ${held.service} ${held.version}`;
  const icon = document.getElementById("favicon");
  const href = icon.dataset[asksApproval(held) ? "paused" : held.status];
  if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
}

export function tick(root, held) {
  const took = tookSeconds(held);
  const left = secondsLeft(held, took);
  say(root, "elapsed", duration(took));
  say(root, "elapsed-word", isActive(held.status) ? "elapsed" : "in all");
  say(root, "left", left === null ? "" : `, about ${duration(left)} left`);
  paintNotice(root, "decision", decision(held));
}

export function paintSegments(node, held) {
  node.setAttribute("aria-label", counts(held));
  const parts = segments(held.progress);
  if (node.children.length !== parts.length)
    node.replaceChildren(...parts.map(() => draw("rect", { height: 8 })));
  parts.forEach(({ hue: name, x, width }, number) => {
    const rect = node.children[number];
    rect.setAttribute("class", `hue-${name}`);
    rect.setAttribute("x", x);
    rect.setAttribute("width", width);
  });
}

function paintNotice(root, name, words) {
  part(root, name).hidden = !words;
  if (words) say(root, `${name}-words`, words);
}

function paintReason(root, held, look) {
  const node = part(root, "reason");
  node.hidden = !held.reason || held.status === "pending";
  node.className = `notice ${look.hue}`;
  say(root, "reason-glyph", look.glyph);
  say(root, "reason-words", held.reason);
}

export function paintFailure(root, event) {
  const node = part(root, "failure");
  node.hidden = !event;
  if (!event) return;
  say(root, "failure-words", event.message);
  part(root, "failure-at").dateTime = event.at;
  localise(node);
  part(root, "failure-link").setAttribute("href", `#e-${event.seq}`);
}
