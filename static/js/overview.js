// Lists that stay up to date: cards are patched by events, the rest is drawn by the server
// again when something changed, and only what differs is replaced.
import { Dialog } from "./dialog.js";
import { hue, pageData, part, say } from "./dom.js";
import { badge, pollWhileStale } from "./freshness.js";
import { paintSegments, tookSeconds } from "./head.js";
import { Live } from "./socket.js";
import { strategyWords } from "./stages.js";
import { counts, learn, lookOf, secondsLeft } from "./states.js";
import { duration, heard, localise } from "./time.js";

const REDRAW_EVERY = 3_000; // milliseconds, at most so often
const TELLING = new Set(["created", "status", "wish", "waiting", "owner"]);
const data = pageData();
const held = new Map(data.deployments.map((one) => [one.id, one]));
let drawn = 0;
let timer = 0;

heard(data.now);
learn(data.vocabulary);
localise(document);

const live = new Live(() => "/ws/overview/");

function paint(one) {
  const card = document.querySelector(`.run[data-key="${CSS.escape(one.id)}"]`);
  if (!card) return;
  const look = lookOf(one);
  hue(card, look.hue);
  hue(card.querySelector(".state"), look.hue);
  say(card, "glyph", look.glyph);
  say(card, "word", look.word);
  say(card, "strategy", strategyWords(one));
  say(card, "counts", counts(one.progress));
  paintSegments(part(card, "segments"), one.progress);
  tick(card, one);
}

function tick(card, one) {
  const took = tookSeconds(one);
  const left = secondsLeft(one, took);
  say(card, "elapsed", duration(took));
  say(card, "left", left === null ? "" : `, about ${duration(left)} left`);
}

function take(message) {
  if (message.type === "heartbeat") heard(message.at);
  if (message.type === "snapshot") {
    held.clear();
    for (const one of message.overview.deployments) held.set(one.id, one);
    held.forEach(paint);
    redrawSoon();
  }
  for (const event of message.events ?? []) {
    if (data.service && event.service !== data.service) continue;
    const one = { ...held.get(event.deployment), ...event.patch };
    if (!one.id) continue;
    held.set(event.deployment, one);
    paint(one);
    if (TELLING.has(event.kind)) redrawSoon();
    // Where a person has to be asked, the overview says so.
    if (event.kind === "step" && one.approvals.length) redrawSoon();
  }
  if (message.services) redrawSoon();
}

function redrawSoon() {
  if (timer) return;
  const wait = Math.max(100, drawn + REDRAW_EVERY - Date.now());
  timer = setTimeout(() => {
    timer = 0;
    redraw().catch(() => {}); // the badge says how old the page is
  }, wait);
}

async function redraw() {
  const address = location.pathname + location.search;
  const answer = await fetch(address, { signal: AbortSignal.timeout(8_000) });
  drawn = Date.now();
  if (answer.redirected) live.signedOut();
  if (!answer.ok || answer.redirected) return false;
  // Parsed, never run: our own page, in which everything from outside was escaped.
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  localise(page);
  // Each answer masks the token anew, and any of them is good: what is the same stays as it is.
  const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value;
  for (const input of page.querySelectorAll("[name=csrfmiddlewaretoken]"))
    if (token) input.setAttribute("value", token);
  for (const old of document.querySelectorAll("[data-sync]"))
    sync(old, page.querySelector(`[data-sync="${old.dataset.sync}"]`));
  held.forEach(paint);
  return true;
}

function sync(old, fresh) {
  if (!fresh || old.isEqualNode(fresh)) return;
  const before = old.querySelector("[data-list]");
  const after = fresh.querySelector("[data-list]");
  const focus = document.activeElement?.getAttribute("href");
  const inside = old.contains(document.activeElement);
  if (before && after && before.tagName === after.tagName) {
    const known = new Map([...before.children].map((node) => [node.dataset.key, node]));
    const nodes = [...after.children].map((node) => {
      const same = known.get(node.dataset.key);
      return same && (same.isEqualNode(node) || same.classList.contains("run")) ? same : node;
    });
    before.replaceChildren(...nodes);
    syncHeading(old, fresh);
  } else old.replaceChildren(...fresh.childNodes);
  if (inside && focus) old.querySelector(`[href="${CSS.escape(focus)}"]`)?.focus();
}

function syncHeading(old, fresh) {
  const [before, after] = [old.querySelector("h2"), fresh.querySelector("h2")];
  if (before && after && !before.isEqualNode(after)) before.replaceWith(after);
}

function searching() {
  const input = document.getElementById("search");
  if (!input) return;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    input.focus();
  });
  input.addEventListener("input", () => {
    const query = input.value.trim();
    history.replaceState(null, "", query ? `?q=${encodeURIComponent(query)}` : location.pathname);
    redraw().catch(() => {});
  });
}

new Dialog("swap");
searching();
badge(live);
pollWhileStale(live, redraw);
live.addEventListener("message", ({ detail }) => take(detail));
live.start();
setInterval(() => {
  for (const one of held.values()) {
    const card = document.querySelector(`.run[data-key="${CSS.escape(one.id)}"]`);
    if (card && !one.completed_at) tick(card, one);
  }
}, 1_000);
