// Lists that stay up to date: cards are patched by events, the rest is drawn by the server
// again when something changed, and only what differs is touched.
import { Dialog } from "./dialog.js";
import { hue, pageData, part, say } from "./dom.js";
import { badge, pollWhileStale } from "./freshness.js";
import { paintSegments, tookSeconds } from "./head.js";
import { morph } from "./morph.js";
import { Live } from "./socket.js";
import { strategyWords } from "./stages.js";
import { counts, learn, lookOf, secondsLeft } from "./states.js";
import { duration, heard, localise } from "./time.js";

const REDRAW_EVERY = 3_000; // milliseconds, at most so often
const AT_LEAST_EVERY = 30_000;
const TELLING = new Set(["created", "status", "wish", "waiting", "owner"]);
const data = pageData();
const held = new Map(data.deployments.map((one) => [one.id, one]));
let drawn = Date.now();
let troubles = "";
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
  say(card, "counts", counts(one));
  paintSegments(part(card, "segments"), one);
  tick(card, one);
}

function tick(card, one) {
  const took = tookSeconds(one);
  const left = secondsLeft(one, took);
  say(card, "elapsed", duration(took));
  say(card, "left", left === null ? "" : `, about ${duration(left)} left`);
}

function take(message) {
  if (message.type === "heartbeat") {
    heard(message.at);
    // Of a pause that grew long no event tells.
    const changed = String(message.troubles) !== troubles;
    if (changed || Date.now() - drawn > AT_LEAST_EVERY) redrawSoon();
    troubles = String(message.troubles);
  }
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
    if (TELLING.has(event.kind) || (data.service && event.kind === "target")) redrawSoon();
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

const keys = (chosen) => [...document.querySelectorAll(chosen)].map((node) => node.dataset.key);

async function redraw() {
  const address = location.pathname + location.search;
  drawn = Date.now();
  const answer = await fetch(address, { signal: AbortSignal.timeout(8_000) });
  // Somebody who types fast is answered for what stands there now.
  if (address !== location.pathname + location.search) return false;
  if (answer.redirected) live.signedOut();
  if (!answer.ok || answer.redirected) return false;
  // Parsed, never run: our own page, in which everything from outside was escaped.
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  localise(page);
  // Each answer masks the token anew, and any of them is good: what is the same stays as it is.
  const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value;
  for (const input of page.querySelectorAll("[name=csrfmiddlewaretoken]"))
    if (token) input.setAttribute("value", token);
  const known = new Set(keys(".notice.fail"));
  for (const old of document.querySelectorAll("[data-sync]")) {
    const fresh = page.querySelector(`[data-sync="${old.dataset.sync}"]`);
    if (fresh) morph(old, fresh);
  }
  document.title = page.title;
  held.forEach(paint);
  // Spoken at once, and only where something broke that was whole.
  const broken = keys(".notice.fail").find((key) => !known.has(key));
  const notice = broken && document.querySelector(`[data-key="${CSS.escape(broken)}"] p`);
  if (notice) document.getElementById("told").textContent = notice.textContent;
  return true;
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
    const address = new URL(location);
    address.searchParams.delete("page");
    if (input.value.trim()) address.searchParams.set("q", input.value.trim());
    else address.searchParams.delete("q");
    history.replaceState(null, "", address);
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
