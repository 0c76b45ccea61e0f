// The page of one deployment: a snapshot, then events, each applied once and in order.
import * as announce from "./announce.js";
import { Controls } from "./controls.js";
import { pageData } from "./dom.js";
import { badge, fetchJson, pollWhileStale } from "./freshness.js";
import { Log } from "./log.js";
import { Panel } from "./panel.js";
import { advance, firstFailure, newer } from "./snapshot.js";
import { Live } from "./socket.js";
import { learn } from "./states.js";
import { heard, localise } from "./time.js";
import { View } from "./view.js";

const data = pageData();
const root = document.getElementById("deployment");
let held = data.snapshot;
let failure = data.failure;
let notify = null;

heard(data.now);
learn(data.vocabulary);
localise(document);

const live = new Live(() => `/ws/deployments/${held.id}/?after=${held.seq}`);
const log = new Log(lines, held.seq);
const panel = new Panel(drawn);
const controls = new Controls(look);
const view = new View(root, { stops: data.stops, speaks: true, painted });

function painted(before, shown) {
  controls.paint(before, shown);
  panel.paint(shown);
  notify?.watch(shown);
}

// Who never asked for notifications is not sent what makes them.
async function notifying() {
  notify ??= await import("./notify.js");
  notify.watch(held);
}

function offerNotifications() {
  const button = document.getElementById("notify");
  if (!button) return; // it had ended already
  if (!("Notification" in window)) {
    button.remove();
    return;
  }
  button.addEventListener("click", () => notifying().then(() => notify.toggle()));
  if (localStorage.getItem("notify")) notifying();
}

async function lines(wanted) {
  const page = await fetchJson(`/deployments/${held.id}/log/?${new URLSearchParams(wanted)}`, live);
  return page?.items;
}

async function drawn(name) {
  const answer = await fetch(`/deployments/${held.id}/panel/?instance=${encodeURIComponent(name)}`);
  return answer.ok && !answer.redirected ? answer.text() : null;
}

function pin(event) {
  if (failure || !event) return;
  failure = event;
  view.pin(failure);
}

function take(message) {
  if (message.type === "heartbeat") {
    heard(message.at);
    if (message.seq > held.seq) live.again();
  } else if (message.type === "snapshot") {
    replace(message.deployment);
  } else if (message.type === "events") {
    const { held: next, applied, gap } = advance(held, message.events);
    held = next;
    log.add(applied);
    pin(firstFailure(applied));
    view.show(held);
    if (gap) live.again();
  }
}

function replace(snapshot) {
  if (!newer(held, snapshot)) return;
  held = snapshot;
  view.show(held);
  log.fill(held.seq).then((read) => pin(read.find(({ failed }) => failed)));
}

async function look() {
  const snapshot = await fetchJson(`/api/v1/deployments/${held.id}`, live);
  if (snapshot) replace(snapshot);
  return Boolean(snapshot);
}

badge(live);
pollWhileStale(live, look);
live.addEventListener("message", ({ detail }) => take(detail));
live.addEventListener("stale", () =>
  announce.tell("The connection is lost. What you see may be out of date."),
);
live.addEventListener("back", () => announce.tell("The connection is back."));
view.pin(failure);
view.show(held);
live.start();
setInterval(() => view.tick(), 1_000);
offerNotifications();

// For the console: what the page holds, to be read and not written.
window.lockgate = Object.freeze({
  get snapshot() {
    return held;
  },
  get state() {
    return live.state;
  },
});
