// What a canary or blue/green deployment is at, and what comes, in words: the same as
// dashboard/stages.py says for the first view. Pure: nothing here touches the page.
import { duration, now } from "./time.js";

export const WAITS = new Set(["bake", "approve"]);
export const ENDING_WISHES = new Set(["stop", "roll_back", "rollback"]);
const PROMOTING_WISHES = new Set(["promote", "promote_all"]);
const OTHER_SLOT = { blue: "green", green: "blue" };

export const percent = (share) => `${Math.floor(share * 10 + 0.5) / 10} %`;
export const plural = (count, noun) => (count === 1 ? `${count} ${noun}` : `${count} ${noun}s`);

const followed = (held) => held.way_back ?? held.steps;
const stepNow = (held) => followed(held)[held.step] ?? null;

// The slot that is deployed to and the other one; "" where there are no slots.
export function slots(held) {
  const mine = held.targets[0]?.slot ?? "";
  return held.strategy === "blue_green" ? [mine, OTHER_SLOT[mine] ?? ""] : ["", ""];
}

export function strategyWords(summary) {
  const name = summary.strategy.replace("_", "/");
  const moves = ["in_progress", "paused"].includes(summary.status) && summary.strategy !== "rolling";
  const share = summary.traffic.shares?.[summary.version] ?? 0;
  const same = summary.version === summary.previous_version;
  if (!moves || same) return name;
  // As weights are whole numbers a share of 5 % may be set to 4.94 %.
  return `${name} at ${percent(share < 0.01 ? 100 * share : Math.floor(100 * share + 0.5))}`;
}

// Whether the wait under way ends with the beginning of a batch.
export function leadsToBatch(held) {
  const step = stepNow(held);
  if (step?.kind === "pause") return true;
  return step?.kind === "bake" && followed(held)[held.step + 1]?.kind === "change";
}

// --- the traffic

// The share that the new side was given last, in percent; null where none holds.
export function given(held) {
  for (const step of followed(held).slice(0, held.step).reverse()) {
    if (step.kind === "restore") return null;
    if (step.kind === "shift") return step.share;
  }
  return held.way_back === null ? null : 100 * (held.traffic.shares?.[held.version] ?? 0);
}

const shareWords = (held) => percent(given(held) ?? 0);

// Whether a healthy instance on the new version takes traffic, as far as weights were set.
export function takesTraffic(held) {
  const share = held.strategy === "rolling" ? null : given(held);
  if (share === null || share > 0) return true;
  // An instance of a canary enters with its part of the share that comes next.
  const begun = held.way_back === null ? held.steps.slice(0, held.step + 1) : [];
  return begun.some((step) => step.kind === "change" && step.share);
}

// Whether it goes on only when a person promotes it.
export const asksApproval = ({ status, step, approvals, wish }) =>
  status === "in_progress" &&
  approvals.includes(step) &&
  !ENDING_WISHES.has(wish) &&
  !PROMOTING_WISHES.has(wish);

// What a person has to decide, in a sentence or two; "" where nothing.
export function decision(held, at = now()) {
  const where = `${held.version} has ${shareWords(held)} of the traffic.`;
  if (asksApproval(held)) {
    const left = held.waiting_until ? duration((Date.parse(held.waiting_until) - at) / 1000) : "";
    const until = left ? ` Without an answer it goes back in ${left}.` : "";
    return `Approval is needed: ${where} Promote it, or stop.${until}`;
  }
  if (!lacksTraffic(held, at)) return "";
  return `The bake is over without a verdict: ${held.analysis.words}. ${where} Promote it, stop, or wait.`;
}

function lacksTraffic(held, at) {
  const step = stepNow(held);
  const asked = held.policy?.analysis?.too_little === "ask";
  const baked = step?.kind === "bake" && !step.keep;
  const free = held.status === "in_progress" && !held.wish;
  const over = held.waiting_until !== null && Date.parse(held.waiting_until) <= at;
  return asked && baked && free && held.analysis?.verdict === "too_little" && over;
}

// --- what a person may ask

// What the link to a promotion says; "" where nothing is waited for. What it would do is told by
// the server, which draws the dialogs.
export function promoting(held) {
  const step = stepNow(held);
  if (!WAITS.has(step?.kind) || held.way_back !== null || held.status !== "in_progress") return "";
  if (step.keep && ["", "promote_all"].includes(held.wish)) return `Let ${slots(held)[1]} go…`;
  if (held.wish) return "";
  return held.strategy === "rolling" ? "End the bake…" : "Promote…";
}

// Whether it can be paused, and was not asked to be.
export const mayPause = ({ status, wish }) =>
  ["pending", "in_progress"].includes(status) && (!wish || PROMOTING_WISHES.has(wish));

// Whether the traffic was shifted to another slot, from where it can be shifted back.
export function maySendBack(held) {
  const begun = held.way_back === null ? held.steps.slice(0, held.step + 1) : [];
  const shifted = begun.some((step) => step.kind === "shift" && step.old.length && step.share);
  const open = ["in_progress", "paused"].includes(held.status) && !ENDING_WISHES.has(held.wish);
  return held.strategy === "blue_green" && shifted && open;
}
