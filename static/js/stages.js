// What a canary or blue/green deployment is at, and what comes, in words: the same as
// dashboard/stages.py says for the first view. Pure: nothing here touches the page.
import { duration, now } from "./time.js";

const STRATEGIES = { rolling: "rolling", canary: "canary", blue_green: "blue/green" };
const MOVING = new Set(["change", "pause", "shift"]);
const WAITS = new Set(["bake", "approve"]);
export const ENDING_WISHES = new Set(["stop", "roll_back", "rollback"]);
export const PROMOTING_WISHES = new Set(["promote", "promote_all"]);
const OTHER_SLOT = { blue: "green", green: "blue" };

export const percent = (share) => `${Math.floor(share * 10 + 0.5) / 10} %`;
export const plural = (count, noun) => (count === 1 ? `${count} ${noun}` : `${count} ${noun}s`);
const capital = (words) => words.slice(0, 1).toUpperCase() + words.slice(1);

const followed = (held) => held.way_back ?? held.steps;
export const stepNow = (held) => followed(held)[held.step] ?? null;

// The slot that is deployed to and the other one; "" where there are no slots.
function slots(held) {
  const mine = held.targets[0]?.slot ?? "";
  return held.strategy === "blue_green" ? [mine, OTHER_SLOT[mine] ?? ""] : ["", ""];
}

export function strategyWords(summary) {
  const name = STRATEGIES[summary.strategy] ?? summary.strategy;
  const moves = ["in_progress", "paused"].includes(summary.status) && summary.strategy !== "rolling";
  const share = summary.traffic.shares?.[summary.version] ?? 0;
  const same = summary.version === summary.previous_version;
  if (!moves || same) return name;
  // As weights are whole numbers a share of 5 % may be set to 4.94 %.
  return `${name} at ${percent(share < 0.01 ? 100 * share : Math.floor(100 * share + 0.5))}`;
}

// --- the rail

// The steps that are followed, grouped by what they are for: {first, end, steps, names}.
export function stops(held) {
  const steps = followed(held);
  const wanted = new Set((held.policy?.canary_steps ?? []).map((step) => step.share));
  const back = held.way_back !== null;
  const starts = [];
  steps.forEach((_, number) => {
    if (number === 0 || !joins(steps, number, back, wanted)) starts.push(number);
  });
  return starts.map((first, place) => {
    const end = starts[place + 1] ?? steps.length;
    const mine = steps.slice(first, end);
    return { first, end, steps: mine, names: mine.flatMap((step) => step.targets ?? []) };
  });
}

// Whether a step belongs to what the one before it is for.
function joins(steps, number, back, wanted) {
  const [before, step] = [steps[number - 1], steps[number]];
  if (back) return step.kind === "change" && before.kind === "change";
  if (before.kind === "prepare") return step.kind === "shift" && step.share === 0;
  if (before.kind === "shift" && !before.share) return number === 1; // a swap begins with it
  if (!MOVING.has(step.kind) || !MOVING.has(before.kind)) return false;
  // Blue/green: the traffic moves once all are changed.
  if (step.kind === "shift" && step.old.length && step.share) return false;
  return before.kind !== "shift" || !reached(steps, number - 1, wanted);
}

// Whether the shift of that number leads to a share that was asked for, and is the first.
function reached(steps, number, wanted) {
  const { share, old } = steps[number];
  const earlier = steps.slice(0, number).some((step) => step.kind === "shift" && step.share === share);
  return share > 0 && !earlier && (wanted.has(share) || old.length > 0);
}

export function label(held, stop) {
  const [step] = stop.steps;
  const [mine, other] = slots(held);
  if (step.kind === "prepare") return "prepare";
  if (step.kind === "bake")
    return step.keep ? `keep ${other} ${duration(step.seconds)}` : `bake ${duration(step.seconds)}`;
  if (step.kind === "approve")
    return step.timeout ? `approve within ${duration(step.timeout)}` : "approve";
  if (step.kind === "retire") return `retire ${other}`;
  if (step.kind === "restore") return "restore weights";
  if (held.way_back !== null) return labelBack(held, stop, other);
  const share = percent(sharesOf(stop.steps).at(-1));
  if (!mine) return share;
  if (!stop.names.length) return `${share} to ${mine}`;
  return `${stop.steps.some((one) => one.update) ? "update" : "verify"} ${mine}`;
}

function labelBack(held, stop, other) {
  const [step] = stop.steps;
  if (step.kind === "change") return `bring back ${plural(stop.names.length, "instance")}`;
  if (step.share) return `${percent(step.share)} as before`;
  return `all to ${other || held.previous_version || "the old version"}`;
}

function sharesOf(steps) {
  const found = steps.filter((step) => "share" in step).map((step) => step.share ?? 0);
  return found.length ? found : [0];
}

// The stops of a canary or of blue/green, each with its state; none for rolling.
export function rail(held, at = now()) {
  if (held.strategy === "rolling") return [];
  return stops(held).map((stop) => {
    const state = stateOf(held, stop);
    const current = ["now", "asks", "paused"].includes(state);
    return { label: label(held, stop), detail: detailOf(held, stop, state, at), state, current };
  });
}

function stateOf(held, stop) {
  if (stop.end <= held.step) return "done";
  if (held.completed_at) return "left";
  if (stop.first > held.step || held.status === "pending") return "coming";
  if (held.status === "paused") return "paused";
  return asksApproval(held) ? "asks" : "now";
}

function detailOf(held, stop, state, at) {
  const [{ kind }] = stop.steps;
  if (WAITS.has(kind)) {
    if (!["now", "asks"].includes(state) || !held.waiting_until) return "";
    const left = (Date.parse(held.waiting_until) - at) / 1000;
    if (left > 0) return `${duration(left)} left`;
    return held.analysis?.verdict === "too_little" ? "waits for more traffic" : "its time is over";
  }
  if (held.way_back !== null || !MOVING.has(kind)) return "";
  const count = stop.names.length;
  if (!count) return held.strategy === "canary" ? "no more instances" : "";
  return plural(count, "instance");
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

// What a promotion would do, in words; null where nothing is waited for.
export function promotion(held) {
  const step = stepNow(held);
  const kept = Boolean(step?.keep);
  if (!step || !WAITS.has(step.kind) || held.way_back !== null) return null;
  const free = !held.wish || (kept && held.wish === "promote_all");
  if (held.status !== "in_progress" || !free) return null;
  if (kept) return lettingGo(held);
  const coming = held.steps.slice(held.step + 1);
  const next = coming.findIndex((one) => WAITS.has(one.kind));
  const stretch = next < 0 ? coming : coming.slice(0, next);
  const rest = coming.slice(stretch.length);
  const further = rest.some((one) => WAITS.has(one.kind) && !one.keep);
  const before = given(held) ?? 0;
  const share = Math.max(before, ...sharesOf(stretch));
  let words;
  if (held.strategy === "rolling") words = nextZone(held, stretch);
  else if (share <= before) words = shortened(held, step, rest);
  else
    words = {
      title: `Promote ${held.version}?`,
      facts: moved(held, before, share, stretch),
      next: `Promote to ${percent(share)}`,
    };
  const end = further ? "Promote to the end" : "";
  return { open: "Promote…", ...words, end, end_facts: further ? moved(held, before, 100, coming) : "" };
}

// Where a bake between two zones is cut short.
function nextZone(held, stretch) {
  const coming = new Set(stretch.flatMap((step) => step.targets ?? []));
  const first = held.targets.find((target) => coming.has(target.instance));
  const where = first ? zoneWords(first.zone) : "the rest";
  const facts = `${held.version} is watched no longer; ${plural(coming.size, "instance")} (${where}) come next.`;
  return { open: "End the bake…", title: "End the bake?", facts, next: "Go on" };
}

const zoneWords = (zone) => (zone ? `zone ${zone}` : "without a zone");

// What a promotion moves: "From 5 % to 25 %: 4 more instances get v42."
function moved(held, before, share, steps) {
  const [mine] = slots(held);
  const count = steps.flatMap((step) => step.targets ?? []).length;
  const { version } = held;
  if (held.strategy === "rolling")
    return `Without a bake between: ${plural(count, "more instance")} get ${version}.`;
  const course = `From ${percent(before)} to ${percent(share)}`;
  if (mine) return `${course} of the traffic for ${version} on ${mine}; no instance is changed.`;
  const what = count
    ? `${count} more ${count === 1 ? "instance gets" : "instances get"} ${version}`
    : `no more instances get ${version}, those that run it get more traffic`;
  return `${course}: ${what}.`;
}

function shortened(held, step, rest) {
  const word = step.kind === "bake" ? "End the bake" : "Approve";
  const then = { approve: "then it waits for approval", bake: "then a bake begins" };
  const after = rest.length ? then[rest[0].kind] : "then the deployment ends";
  const facts = `${held.version} keeps its ${shareWords(held)} of the traffic; ${after}.`;
  return { title: `${word} of ${held.version}?`, facts, next: word };
}

function lettingGo(held) {
  const [mine, other] = slots(held);
  const retired = held.steps.some((step) => step.kind === "retire");
  const after = retired ? "is taken out of rotation" : "stays as it is, without traffic";
  const facts =
    `The deployment ends at once, with all traffic on ${mine}; ${other} ${after}. ` +
    "Only a swap of the slots, or another deployment, leads back from there.";
  const title = `Keep ${other} no longer?`;
  const next = `Let ${other} go`;
  return { open: `${next}…`, title, facts, next, end: "", end_facts: "" };
}

// Whether it can be paused, and was not asked to be.
export const mayPause = ({ status, wish }) =>
  ["pending", "in_progress"].includes(status) && (!wish || PROMOTING_WISHES.has(wish));

// What shifting back would do; "" where no traffic was shifted to another slot.
export function shiftBack(held) {
  const [mine, other] = slots(held);
  const begun = held.way_back === null ? held.steps.slice(0, held.step + 1) : [];
  const shifted = begun.some((step) => step.kind === "shift" && step.old.length && step.share);
  const open = ["in_progress", "paused"].includes(held.status) && !ENDING_WISHES.has(held.wish);
  if (!mine || !shifted || !open) return "";
  const there = [...new Set(held.targets.map((one) => one.old_version || "?"))].sort().join(" and ");
  const changed = held.steps.some((step) => step.update);
  const after = changed ? `; ${mine} is then brought back to ${there} off traffic` : "";
  return `All traffic goes back to ${held.previous_version} on ${other} at once${after}.`;
}

// What each way of stopping leads to: facts, `here`, `back` and the word for it.
export function stopping(held) {
  const { version } = held;
  const { updated, total } = held.progress;
  let facts = updated
    ? `${updated} of ${total} instances were given ${version} so far, ${total - updated} were not.`
    : `No instance was given ${version} yet.`;
  if (!held.steps.some((step) => step.update)) facts = "It changes no instance.";
  const safe = "What is under way is brought to a safe end first; no request is dropped.";
  const target = held.previous_version || "their old versions";
  const canary = held.strategy === "canary";
  return {
    facts: `${facts} ${safe}`,
    here: stoppingHere(held),
    word: canary ? `Abort canary, back to ${target}` : `Roll back to ${target}`,
    back: goingBack(held),
  };
}

function stoppingHere(held) {
  const [mine, other] = slots(held);
  const { updated, total } = held.progress;
  if (mine)
    return `The traffic stays as it is, ${shareWords(held)} of it on ${mine}; ${other} is left alone.`;
  const mixed = 0 < updated && updated < total;
  const parts = held.strategy === "canary" && mixed;
  const share = parts ? `, with ${shareWords(held)} of the traffic` : "";
  return `${updated} of ${total} stay on ${held.version}${share}${mixed ? ": a mixed fleet" : ""}.`;
}

function goingBack(held) {
  const [mine] = slots(held);
  const plain = "All go back to the version that they had, as carefully as they came.";
  if (mine) return shiftBack(held) || `${capital(mine)} goes back to what it ran, off traffic.`;
  if (held.strategy !== "canary") return plain;
  const { total, healthy, failed } = held.progress;
  if (2 * (total - healthy - failed) >= total)
    return "Its share goes to 0 first; then the instances that have it go back, off traffic.";
  return `Too few are left on the old version to take all at once. ${plain}`;
}
