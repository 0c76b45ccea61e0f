// The plan beside the form, drawn by the server's planner as one types. What was typed is kept
// until the deployment has started: a lost session or a reload takes nothing away.
import { make, say } from "./dom.js";
import { loginUrl } from "./freshness.js";
import { localise } from "./time.js";

const PAUSE = 300; // milliseconds without a keystroke
const TOLD = 600; // and so long a plan may take before it is said that it is being drawn
const PATIENCE = 30_000;
const form = document.getElementById("deploy");
const plan = document.getElementById("plan");
const planning = document.getElementById("planning");
const seen = document.getElementById("id_previewed");
const version = document.getElementById("id_version");
const start = document.getElementById("start");
const unsent = document.getElementById("unsent");
const kept = `lockgate:deploy:${form.dataset.service}`;
let timer = 0;
let told = 0;
let asking = null;
let outcome = ""; // of the last plan, said where something is to be mended

// Secrets are none of them: the version, the note and the keys of the policy.
const fields = [...form.elements].filter((one) => one.name && !["hidden", "submit"].includes(one.type));
const strategy = () => form.elements.strategy.value;

function keep() {
  const typed = fields.map((one) => [
    one.type === "radio" ? `${one.name}=${one.value}` : one.name,
    "checked" in one && one.type !== "text" ? one.checked : one.value,
  ]);
  try {
    sessionStorage.setItem(kept, JSON.stringify(Object.fromEntries(typed)));
  } catch {
    // Forbidden or full: then it is only not kept.
  }
}

function forget() {
  try {
    sessionStorage.removeItem(kept);
  } catch {
    // Nothing was kept.
  }
}

// Put back what was typed before; return whether anything differs from a fresh form.
function restore() {
  let held = null;
  try {
    held = JSON.parse(sessionStorage.getItem(kept) ?? "null");
  } catch {
    return false;
  }
  let changed = false;
  for (const one of held ? fields : []) {
    const value = held[one.type === "radio" ? `${one.name}=${one.value}` : one.name];
    const property = typeof value === "boolean" ? "checked" : "value";
    if (value === undefined || one[property] === value) continue;
    one[property] = value;
    changed = true;
    if (value) one.closest("details")?.setAttribute("open", "");
  }
  return changed;
}

function label() {
  say(start, "version", version.value.trim());
  say(start, "where", strategy() === "blue_green" ? start.dataset.slot : start.dataset.fleet);
}

// The keys of the strategy that is chosen, and no others.
function reveal() {
  for (const group of form.querySelectorAll("[data-strategy]"))
    group.hidden = group.dataset.strategy !== strategy();
}

function busy(yes) {
  plan.setAttribute("aria-busy", String(yes));
  clearTimeout(told);
  if (yes) told = setTimeout(() => (planning.textContent = "Drawing the plan…"), TOLD);
  else planning.textContent = outcome;
}

async function redraw(all = false) {
  asking?.abort();
  asking = new AbortController();
  busy(true);
  const data = new FormData(form);
  data.delete("previewed");
  if (all) data.set("preview", "all");
  try {
    const answer = await fetch(form.dataset.plan, {
      method: "POST",
      body: data,
      signal: AbortSignal.any([asking.signal, AbortSignal.timeout(PATIENCE)]),
    });
    if (answer.redirected || answer.status === 403) throw new Error("signed out");
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    show(await answer.text());
    unsent.replaceChildren();
  } catch (error) {
    if (error.name === "AbortError") return;
    seen.value = "";
    if (error.message === "signed out") tell("The plan can't be drawn: you are signed out.", true);
    else tell("The plan can't be drawn: the server does not answer. It is tried again as you type.");
  }
  busy(false);
}

// Said beside the button that it concerns; what was typed stays, over the login too.
function tell(text, out = false) {
  const words = make("p", { class: "notice warn" }, make("span", { "aria-hidden": "true" }, "!"), ` ${text} `);
  if (out) words.append(make("a", { href: loginUrl() }, "Log in"), ": what you typed is kept.");
  unsent.replaceChildren(words);
}

function show(text) {
  // Parsed, never run: our own page, in which everything from outside was escaped.
  const piece = new DOMParser().parseFromString(text, "text/html");
  seen.value = piece.getElementById("seen")?.value ?? "";
  const where = piece.getElementById("where")?.value;
  if (where) say(start, "where", where);
  mark(piece);
  localise(piece);
  say(form, "gist", piece.getElementById("gist")?.value ?? "");
  plan.replaceChildren(...piece.body.childNodes);
  const refused = plan.querySelectorAll("[data-refused]").length;
  outcome = refused ? `${refused} to mend` : "";
}

const describedBy = (input) => (input.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);

// What the planner refused is shown at its field too.
function mark(piece) {
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    const others = describedBy(input).filter((id) => !id.endsWith("_refused"));
    input.setAttribute("aria-describedby", others.join(" "));
  }
  for (const old of form.querySelectorAll(".errorlist")) old.remove();
  for (const refusal of piece.querySelectorAll("[data-refused]")) {
    const key = refusal.dataset.refused;
    const input = document.getElementById(`id_${key}`);
    if (!input) continue;
    const why = refusal.querySelector("[data-part=why]").textContent;
    const id = `id_${key}_refused`;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", [...describedBy(input), id].join(" "));
    input.closest(".field").append(make("ul", { class: "errorlist", id }, make("li", {}, why)));
    input.closest("details")?.setAttribute("open", "");
    input.closest("[data-strategy]")?.removeAttribute("hidden");
  }
}

function soon() {
  label();
  clearTimeout(timer);
  asking?.abort();
  seen.value = ""; // what was drawn before is not what would be started now
  if (!version.value.trim()) return busy(false);
  plan.setAttribute("aria-busy", "true");
  timer = setTimeout(redraw, PAUSE);
}

async function send() {
  start.setAttribute("aria-disabled", "true");
  const words = [...start.childNodes];
  start.replaceChildren("Starting…");
  const again = () => {
    start.removeAttribute("aria-disabled");
    start.replaceChildren(...words);
  };
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.status === 201) {
      forget();
      location.assign((await answer.json()).url);
      return;
    }
    if (answer.redirected || answer.status === 403) {
      again();
      return tell("Nothing was started: you are signed out.", true);
    }
    // Refused, or the fleet changed: the server's own page says what, with all that was typed.
    form.submit();
  } catch {
    again();
    tell("The server does not answer. Deploy again: it is started once, however often you press.");
  }
}

localise(document);
document.getElementById("preview").hidden = true;
form.addEventListener("input", () => {
  reveal();
  keep();
  soon();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.hasAttribute("data-all")) redraw(true);
  else if (!start.getAttribute("aria-disabled")) send();
});
document.getElementById("afresh").addEventListener("click", () => {
  forget();
  location.assign(location.pathname);
});
// Back from the next page: the form is as it was, and can be sent again.
addEventListener("pageshow", (event) => event.persisted && location.reload());
for (const pick of document.querySelectorAll(".pick"))
  pick.addEventListener("click", (event) => {
    event.preventDefault();
    version.value = pick.dataset.version;
    keep();
    soon();
    version.focus();
  });
if ("fresh" in form.dataset && restore()) {
  document.getElementById("restored").hidden = false;
  reveal();
  soon();
} else if (version.value && !seen.value && !form.querySelector(".errorlist")) soon();
