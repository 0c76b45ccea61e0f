// What a state looks like, the same as dashboard/screens.py says for the first view.

import { asksApproval } from "./stages.js";

let vocabulary; // of dashboard/screens.py
export const learn = (words) => (vocabulary = words);
export const sizes = () => vocabulary.sizes; // what is drawn by how many instances there are

const ACTIVE = new Set(["pending", "in_progress", "paused", "rolling_back"]);
const STEPS = { draining: "draining", updating: "updating", health_checking: "checking" };
const PLAIN = { pending: "waiting", healthy: "serving", rolled_back: "restored", ...STEPS };

export const isActive = (status) => ACTIVE.has(status);
const inFlight = (status) => status in STEPS;

// `traffic` is whether who is healthy on the new version is given any.
export function tileState(target, status, traffic = true) {
  if (target.status === "healthy" && !traffic) return "verified";
  const over = !isActive(status);
  if (target.status === "failed") return over ? "held_out" : "failed";
  if (target.status === "pending" && (over || status === "rolling_back")) return "untouched";
  if (inFlight(target.status) && status === "rolling_back") return "rolling_back";
  return PLAIN[target.status] ?? "unknown";
}

export const tileLook = (state) => vocabulary.tiles[state] ?? vocabulary.tiles.unknown;
export const deploymentLook = (status) => vocabulary.deployments[status];
// A person being asked for included.
export const lookOf = (summary) =>
  asksApproval(summary) ? vocabulary.asks : deploymentLook(summary.status);
export const stopLook = (state) => vocabulary.stops[state];
export const verdictLook = (verdict) => vocabulary.verdicts[verdict];
export const wishWords = (wish) => vocabulary.wishes[wish] ?? "";
export const waitingWords = ({ waiting_for: what, started_at: started }) =>
  vocabulary.waiting[what]?.[started ? 1 : 0] ?? "";

export function runs(target, status) {
  const before = target.old_version || "?";
  const back = status === "rolling_back";
  if (target.status === "updating") {
    const from = back && target.touched ? target.new_version : before;
    return `${from} → ${back ? before : target.new_version}`;
  }
  const restored = target.status === "rolled_back" || !target.touched;
  return restored || (back && target.status === "health_checking") ? before : target.new_version;
}

// What more there is to say: the step on the way back, the sessions still open.
export function detail(target, state) {
  if (state === "verified") return "no traffic";
  const step = state === "rolling_back" ? (STEPS[target.status] ?? "") : "";
  const draining = target.status === "draining" && target.sessions !== null;
  return [step, draining ? `${target.sessions} open` : ""].filter(Boolean).join(", ");
}

export function bars(checks) {
  const step = 4 * checks.length <= 60 ? 4 : 2;
  return checks.map((check, number) => {
    const good = !check.error && check.status >= 200 && check.status < 300;
    const share = good ? Math.sqrt(Math.min(1, (check.latency_ms ?? 0) / 300)) : 1;
    const height = Math.max(4, Math.round(share * 16));
    const x = 60 + (number - checks.length) * step;
    const kind = good ? "good" : check.status ? "bad" : "none";
    return { kind, x, y: 16 - height, width: step - 1, height };
  });
}

// How many instances have the new version; where none is changed, who is verified.
export const done = ({ updated, healthy }) => Math.max(updated, healthy);

// On the way back nobody counts as failed who failed on the way there: nothing is said of it then.
export function counts({ progress, status }) {
  const { total, updated, healthy, failed, rolled_back: restored, batch, batches } = progress;
  const returning = restored || ["rolling_back", "rolled_back"].includes(status);
  const lost = returning && !failed ? "" : `, ${failed} failed`;
  if (healthy > updated) return `${healthy}/${total} verified${lost}`;
  const back = restored ? `, ${restored} restored` : "";
  return `${updated}/${total} updated${lost}${back}, batch ${batch} of ${batches}`;
}

export function segments(progress) {
  const total = progress.total || 1;
  const settled = progress.healthy + progress.failed + progress.rolled_back;
  const parts = [
    ["ok", progress.healthy],
    ["warn", progress.rolled_back],
    ["fail", progress.failed],
    ["active", Math.max(0, progress.updated - settled)],
  ];
  let at = 0;
  return parts.map(([hue, count]) => {
    const width = (100 * count) / total;
    const drawn = { hue, x: `${at}%`, width: `${width}%` };
    at += width;
    return drawn;
  });
}

// How long it still takes at the pace so far; null while nobody can tell, as of what waits for the
// traffic or for a person on its way.
export function secondsLeft(held, took) {
  const { healthy, failed, total } = held.progress;
  if (held.strategy !== "rolling" || held.status !== "in_progress" || !healthy) return null;
  return (took * (total - healthy - failed)) / healthy;
}

export function laneState(targets, status) {
  const statuses = targets.map((target) => target.status);
  const ahead = isActive(status) && status !== "rolling_back";
  const failed = statuses.filter((one) => one === "failed").length;
  if (statuses.some(inFlight)) return ["active", "under way"];
  if (failed) return ["failed", `${failed} failed`];
  if (statuses.every((one) => one === "pending"))
    return ahead ? ["coming", "to come"] : ["left", "untouched"];
  if (statuses.every((one) => one === "healthy")) return ["done", "done"];
  if (statuses.every((one) => one === "rolled_back" || one === "pending"))
    return ["done", "restored"];
  return [isActive(status) ? "active" : "left", "partly done"];
}

// A batch as a bar: "40 serving, 2 failed", and the parts of each hue in percent.
export function laneBar(states) {
  const counts = new Map();
  for (const state of states) counts.set(state, (counts.get(state) ?? 0) + 1);
  const known = sizes().bar.filter((state) => counts.has(state));
  let at = 0;
  const parts = sizes().hues.map((name) => {
    const mine = known.filter((state) => tileLook(state).hue === name);
    const width = (100 * mine.reduce((sum, state) => sum + counts.get(state), 0)) / states.length;
    const drawn = { x: `${at}%`, width: `${width}%` };
    at += width;
    return drawn;
  });
  return { words: known.map((state) => `${counts.get(state)} ${tileLook(state).word}`).join(", "), parts };
}
