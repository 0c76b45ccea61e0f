// The page of one deployment: a snapshot, then events, each applied once and in order.
import * as announce from "./announce.js";
import { Controls } from "./controls.js";
import { pageData } from "./dom.js";
import { badge, fetchJson, pollWhileStale } from "./freshness.js";
import * as head from "./head.js";
import { Log } from "./log.js";
import { Panel } from "./panel.js";
import * as rail from "./rail.js";
import { advance, firstFailure, newer, touched } from "./snapshot.js";
import { Live } from "./socket.js";
import { decision, label, stops, takesTraffic } from "./stages.js";
import { deploymentLook, isActive, learn } from "./states.js";
import * as tiles from "./tiles.js";
import { heard, localise } from "./time.js";
import * as traffic from "./traffic.js";

const data = pageData();
const root = document.getElementById("deployment");
let held = data.snapshot;
let failure = data.failure;

heard(data.now);
learn(data.vocabulary);
localise(document);
tiles.find(root);

const live = new Live(() => `/ws/deployments/${held.id}/?after=${held.seq}`);
const log = new Log(held.id, data.events, live);
const panel = new Panel(log, () => held);
const controls = new Controls(look);

function show(before) {
  // With the shift of the traffic every tile of the new side changes, and no target does.
  const shifted = before && takesTraffic(before) !== takesTraffic(held);
  tiles.paint(held, touched(shifted ? null : before, held));
  tiles.tick(held);
  head.paint(root, held);
  rail.paint(root, held);
  traffic.paint(root, held);
  controls.paint(before, held);
  if (panel.name) panel.paint(held);
  speak(before);
}

function pin(events) {
  failure ??= firstFailure(events);
  if (failure) head.paintFailure(root, failure);
}

// A decision may become needed by the clock alone.
let asked = "";

function speak(before) {
  const needed = decision(held);
  if (needed && !asked) announce.tell(`${held.service} ${held.version}: ${needed}`);
  asked = needed;
  if (!before) return;
  if (condemned(held) && !condemned(before)) announce.tell(held.analysis.words);
  const { batch, batches, healthy, total } = held.progress;
  if (before.status !== held.status) {
    const text = `${held.service} ${held.version}: ${deploymentLook(held.status).word}. ${held.reason}`;
    if (["in_progress", "pending"].includes(held.status)) announce.status(text);
    else announce.tell(text);
  } else if (before.progress.failed < held.progress.failed && failure) {
    announce.tell(failure.message);
  } else if (before.progress.healthy !== healthy && isActive(held.status)) {
    announce.status(`Batch ${batch} of ${batches}, ${healthy} of ${total} on ${held.version}`);
  } else if (held.strategy !== "rolling" && before.step !== held.step) {
    announce.status(stepWords());
  }
}

const condemned = ({ analysis }) => analysis?.verdict === "against";

function stepWords() {
  const stop = stops(held).find(({ end }) => end > held.step);
  return stop ? `${held.service} ${held.version}: ${label(held, stop)}` : "";
}

function take(message) {
  if (message.type === "heartbeat") {
    heard(message.at);
    if (message.seq > held.seq) live.again();
  } else if (message.type === "snapshot") {
    replace(message.deployment);
  } else if (message.type === "events") {
    const { held: next, applied, gap } = advance(held, message.events);
    const before = held;
    held = next;
    log.add(applied);
    if (applied.length) {
      pin(applied);
      show(before);
    }
    if (gap) live.again();
  }
}

function replace(snapshot) {
  if (!newer(held, snapshot)) return;
  const before = held;
  held = snapshot;
  show(before);
  log.fill(held.seq).then(() => pin(log.events)).catch(() => {});
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
show(null);
live.start();
setInterval(() => {
  if (!isActive(held.status)) return;
  tiles.tick(held);
  head.tick(root, held);
  rail.paint(root, held);
  speak(null);
}, 1_000);

// For the console: what the page holds, to be read and not written.
window.lockgate = Object.freeze({
  get snapshot() {
    return held;
  },
  get state() {
    return live.state;
  },
});
