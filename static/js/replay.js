// A deployment as it was: the page of the live one, over the stored events.
import * as announce from "./announce.js";
import { pageData, part, say } from "./dom.js";
import { loginUrl } from "./freshness.js";
import { Log } from "./log.js";
import { Panel } from "./panel.js";
import { learn } from "./states.js";
import { Timeline } from "./timeline.js";
import { clock, duration, localise, setClock } from "./time.js";
import { View } from "./view.js";

const LINES = 200;
const EVENTS = 1_000; // asked for at once
const FRAME = 50; // milliseconds
const SETTLED = 250; // after which the address follows

const data = pageData();
const root = document.getElementById("deployment");
const player = document.getElementById("player");
const seek = document.getElementById("seek");
const play = part(player, "play");
const loading = document.getElementById("loading");
const { id } = data.snapshot;
const timeline = new Timeline();
const begun = () => Date.parse(held.started_at ?? held.created_at);

let held = data.snapshot;
let time = Date.parse(part(player, "clock").dateTime);
let timer = 0;
let settling = 0;

setClock(time);
learn(data.vocabulary);
localise(document);

const view = new View(root, { stops: data.stops, painted });
const log = new Log(async (wanted) => lines(wanted), held.seq);
const panel = new Panel((name) => drawn(name));

function painted(before, shown) {
  document.title = `↺ ${clock(time)} ${shown.service} ${shown.version}`;
  if (!before) return;
  panel.paint(shown);
  const [from, to] = [before.seq, shown.seq];
  if (from < to && to - from <= LINES) log.add(timeline.lines({ after: from }, LINES).filter(({ seq }) => seq <= to));
  else log.show(to);
}

// Until all events are here the server is asked.
async function lines(wanted) {
  if (timeline.last >= data.last) return timeline.lines(wanted, LINES);
  return (await fetched(`/deployments/${id}/log/?${new URLSearchParams(wanted)}`)).json().then(({ items }) => items);
}

async function drawn(name) {
  const asked = new URLSearchParams({ instance: name, at: held.seq });
  return (await fetched(`/deployments/${id}/panel/?${asked}`)).text();
}

async function fetched(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  if (answer.redirected || answer.status === 401) location.assign(loginUrl());
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return answer;
}

async function load() {
  loading.hidden = data.last <= EVENTS;
  for (let after = 0; after < data.last; after = timeline.last) {
    const answer = await fetched(`/api/v1/deployments/${id}/events?after=${after}&limit=${EVENTS}`);
    const { items } = await answer.json();
    timeline.add(items.filter(({ seq }) => seq <= data.last));
    loading.value = timeline.last;
  }
  loading.hidden = true;
}

// Show the moment after an event, at its time or at a later one before the next.
function show(seq, at = timeline.time(seq)) {
  const moved = seq !== held.seq;
  const ticks = Math.floor(at / 1000) !== Math.floor(time / 1000);
  time = at;
  setClock(time);
  if (moved) {
    held = timeline.at(seq);
    view.pin(data.failure && data.failure.seq <= seq ? data.failure : null);
    view.show(held);
    seek.value = seq;
    settle();
  }
  if (!moved && !ticks) return;
  view.tick();
  words();
}

function words() {
  const told = timeline.toldAt(held.seq)?.message ?? "";
  const at = clock(time);
  say(player, "clock", dated(at));
  part(player, "clock").dateTime = new Date(time).toISOString();
  say(player, "since", duration((time - begun()) / 1000));
  say(player, "words", told);
  say(player, "seq", String(held.seq));
  say(document, "badge", at);
  seek.setAttribute("aria-valuetext", `${at}, batch ${held.progress.batch}, event ${held.seq} of ${data.last}: ${told}`);
  link("before", timeline.toldBefore(held.seq));
  link("after", timeline.toldAfter(held.seq));
}

function dated(at) {
  const day = new Date(time);
  if (day.toDateString() === new Date().toDateString()) return at;
  return `${day.toLocaleDateString(undefined, { day: "numeric", month: "short" })} ${at}`;
}

function link(name, event) {
  const node = part(player, name);
  if (event) node.removeAttribute("aria-disabled");
  else node.setAttribute("aria-disabled", "true");
  if (event) node.setAttribute("href", `?at=${event.seq}`);
  else node.removeAttribute("href");
  node.dataset.seq = event?.seq ?? "";
}

// The address of a moment can be given away; it follows once one stays there.
function settle() {
  clearTimeout(settling);
  settling = setTimeout(() => {
    const asked = new URLSearchParams(location.search);
    asked.set("at", held.seq);
    history.replaceState(null, "", `?${asked}`);
  }, SETTLED);
}

function jump(seq) {
  stop();
  show(seq);
  announce.status(seek.getAttribute("aria-valuetext"));
}

function start() {
  if (held.seq >= timeline.last) show(1);
  let before = performance.now();
  play.textContent = "Pause";
  timer = setInterval(() => {
    const at = performance.now();
    const { time: next, skipped } = timeline.play(time, at - before, speed());
    before = at;
    if (skipped) say(player, "note", `Skipped ${duration(skipped / 1000)} in which nothing was said`);
    show(timeline.seqAt(next), next);
    if (held.seq >= timeline.last) stop();
  }, FRAME);
}

function stop() {
  clearInterval(timer);
  timer = 0;
  play.textContent = "Play";
  say(player, "note", "");
}

const speed = () => Number(player.querySelector("[name=speed]:checked").value);

function ready() {
  part(player, "show").hidden = true;
  for (const name of ["play", "speeds"]) part(player, name).hidden = false;
  seek.disabled = false;
  play.addEventListener("click", () => (timer ? stop() : start()));
  seek.addEventListener("input", () => {
    stop();
    show(Number(seek.value));
  });
  player.addEventListener("submit", (event) => event.preventDefault());
  root.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    // A line of the log is a moment, too.
    const [moment, line] = ["[data-seq]", "#log-rows [data-part=link]"].map((one) => event.target.closest(one));
    const seq = Number(moment?.dataset.seq ?? line?.hash.slice(3));
    if (!seq) return;
    event.preventDefault();
    jump(seq);
  });
  document.addEventListener("keydown", (event) => {
    const free = !event.target.closest("a, button, input:not([type=range]), select, textarea, summary, [tabindex='0']");
    if (event.key !== " " || !free || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    play.click();
  });
  words();
}

view.pin(data.failure && data.failure.seq <= held.seq ? data.failure : null);
view.show(held);
seek.disabled = true;
load().then(ready, () => announce.alert("The events can't be loaded. The links of the player still lead from one to the next."));

// For the console: what the page holds, to be read and not written.
window.lockgate = Object.freeze({
  get snapshot() {
    return held;
  },
});
