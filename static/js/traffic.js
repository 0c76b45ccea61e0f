// The traffic: its split as set and as observed, both sides' figures and the evidence. The words
// are those of dashboard/traffic.py, which draws the first view.
import { draw, hue, make, part, say } from "./dom.js";
import { isActive, verdictLook } from "./states.js";

const figures = new Intl.NumberFormat("en");
const TOO_LITTLE = "Too little traffic for a verdict";
const VAGUE = 100; // ms; what is less certain than that, and than itself, is no time

// The bars of the traffic by version. What was observed in a rolling deployment is of all its
// shares so far, and not comparable.
export function split(held) {
  const { shares, observed = {} } = held.traffic;
  const exact = held.strategy !== "rolling";
  const bars = [{ name: "set", parts: parts(shares ?? {}, held.version, exact) }];
  if (exact && Object.keys(observed).length)
    bars.push({ name: "observed", parts: parts(observed, held.version, exact) });
  return bars;
}

function parts(shares, version, exact) {
  const known = Object.entries(shares);
  known.sort(([one], [other]) => byVersion(version)(one, other));
  let at = 0;
  return known.map(([name, share]) => {
    const width = 100 * share;
    const percent = `${rounded(width, exact ? 1 : 0)} %`;
    const drawn = { version: name, new: name === version, x: at, width, percent };
    at += width;
    return drawn;
  });
}

// `value` with so many decimals, a half rounded up.
function rounded(value, digits) {
  const scale = 10 ** digits;
  return (Math.floor(value * scale + 0.5) / scale).toFixed(digits);
}

export function splitWords(held) {
  const [set, observed] = split(held).map(
    ({ parts: drawn }) => new Map(drawn.map(({ version, percent }) => [version, percent])),
  );
  const versions = [...new Set([...set.keys(), ...(observed?.keys() ?? [])])].sort(byVersion(held.version));
  const of = (bar, version) => bar.get(version) ?? "0.0 %";
  return versions.map((version) => ({
    version,
    new: version === held.version,
    words: observed
      ? `set ${of(set, version)}, observed ${of(observed, version)}`
      : of(set, version),
  }));
}

// The new version last.
const byVersion = (version) => (one, other) =>
  (one === version) - (other === version) || (one < other ? -1 : 1);

function rate({ errors, answers }) {
  const share = answers ? (100 * errors) / answers : 0;
  const digits = share >= 10 || !share ? 0 : share >= 1 ? 1 : 2;
  return `${figures.format(errors)} (${rounded(share, digits)} %)`;
}

export function sides(held) {
  const found = held.analysis;
  if (!found) return [];
  const versions = { old: held.previous_version || "old versions", new: held.version };
  return ["old", "new"].map((side) => ({
    side,
    version: versions[side],
    answers: figures.format(found[side].answers),
    errors: rate(found[side]),
    time: time(found[side]),
  }));
}

function time({ response_ms: mean, response_pm: error }) {
  if (mean === null || (error ?? 0) > Math.max(VAGUE, mean)) return "–";
  return `${rounded(mean, 1)} ± ${rounded(error ?? 0, 1)}`;
}

export function evidence(held) {
  const found = held.analysis;
  if (!found) return null;
  const { evidence: value, against_at: needed, verdict } = found;
  // Evidence multiplies: 10 is half the way to 100.
  const reached = value > 1 ? Math.log(value) / Math.log(needed) : 0;
  return {
    words: `evidence ${figure(value)} of ${figure(needed)} against ${held.version}`,
    width: `${rounded(100 * Math.min(1, reached), 1)}%`,
    verdict,
    verdict_words: verdictWords(held),
    unseen: found.unseen,
    ...verdictLook(verdict),
  };
}

function verdictWords({ analysis: { verdict, words }, completed_at: ended }) {
  if (verdict !== "too_little") return words;
  return ended ? TOO_LITTLE : `${TOO_LITTLE}: ${words}`;
}

function figure(value) {
  if (value >= 10) return figures.format(Math.floor(value + 0.5));
  return rounded(value, value >= 1 ? 1 : 2);
}

export function paint(root, held) {
  paintBars(root, split(held));
  paintWords(part(root, "share-words"), splitWords(held));
  const { requests, failed_requests: failed } = held.traffic;
  say(root, "requests", figures.format(requests ?? 0));
  say(root, "failed-requests", figures.format(failed ?? 0));
  part(root, "failed-requests").classList.toggle("hue-fail", failed > 0);
  say(root, "receipt-words", isActive(held.status) ? "since the start" : "from start to end, by the balancer's count");
  paintSides(part(root, "sides"), sides(held));
  paintEvidence(part(root, "evidence"), evidence(held));
}

function paintBars(root, bars) {
  for (const name of ["set", "observed"]) {
    const drawn = bars.find((bar) => bar.name === name);
    part(root, `bar-${name}`).hidden = !drawn;
    part(root, `shares-${name}`).replaceChildren(
      ...(drawn?.parts ?? []).map(({ new: isNew, x, width }) =>
        draw("rect", { x: `${x}%`, width: `${width}%`, height: 10, class: isNew ? "new" : "old" }),
      ),
    );
  }
}

function paintWords(node, words) {
  if (!words.length) return;
  node.replaceChildren(
    ...words.map(({ version, new: isNew, words: said }) =>
      make(
        "span",
        {},
        make("span", { class: `swatch ${isNew ? "new" : "old"}`, "aria-hidden": "true" }),
        " ",
        make("span", { class: "version" }, version),
        ` ${said}`,
      ),
    ),
  );
}

function paintSides(node, rows) {
  node.hidden = !rows.length;
  for (const row of rows)
    for (const key of ["version", "answers", "errors", "time"]) say(node, `${row.side}-${key}`, row[key]);
}

function paintEvidence(node, found) {
  node.hidden = !found;
  if (!found) return;
  part(node, "evidence-bar").setAttribute("width", found.width);
  say(node, "evidence-words", found.words);
  hue(part(node, "verdict"), found.hue);
  say(node, "verdict-glyph", found.glyph);
  say(node, "verdict-words", found.verdict_words);
  say(node, "unseen", found.unseen);
}
