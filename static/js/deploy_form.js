// The plan beside the form, drawn by the server's planner as one types.
import { localise } from "./time.js";

const PAUSE = 350; // milliseconds without a keystroke
const form = document.getElementById("deploy");
const plan = document.getElementById("plan");
const seen = document.getElementById("id_previewed");
const version = document.getElementById("id_version");
const start = document.getElementById("start");
const strategy = document.getElementById("id_strategy");
let timer = 0;
let asking = null;

localise(document);
document.getElementById("preview").hidden = true;

function label() {
  start.querySelector("[data-part=version]").textContent = version.value.trim();
  const slot = strategy.value === "blue_green";
  start.querySelector("[data-part=where]").textContent = slot ? start.dataset.slot : start.dataset.fleet;
}

// The keys of the strategy that is chosen, and no others.
function reveal() {
  for (const group of form.querySelectorAll("[data-strategy]"))
    group.hidden = group.dataset.strategy !== strategy.value;
}

async function redraw() {
  asking?.abort();
  asking = new AbortController();
  plan.setAttribute("aria-busy", "true");
  const data = new FormData(form);
  data.delete("previewed");
  try {
    const answer = await fetch(form.dataset.plan, {
      method: "POST",
      body: data,
      signal: asking.signal,
    });
    if (answer.redirected || !answer.ok) throw new Error(`answered ${answer.status}`);
    show(await answer.text());
  } catch (error) {
    if (error.name === "AbortError") return;
    plan.replaceChildren(note("The plan can't be drawn: the server does not answer, or you are signed out."));
    seen.value = "";
  }
  plan.setAttribute("aria-busy", "false");
}

function note(text) {
  const node = document.createElement("p");
  node.className = "notice warn";
  node.textContent = text;
  return node;
}

function show(text) {
  // Parsed, never run: our own page, in which everything from outside was escaped.
  const piece = new DOMParser().parseFromString(text, "text/html");
  seen.value = piece.getElementById("seen")?.value ?? "";
  mark(piece);
  plan.replaceChildren(...piece.body.childNodes);
}

// What the planner refused is shown at its field too.
function mark(piece) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const refusal of piece.querySelectorAll("[data-refused]")) {
    const input = document.getElementById(`id_${refusal.dataset.refused}`);
    if (!input) continue;
    input.setAttribute("aria-invalid", "true");
    input.closest("details")?.setAttribute("open", "");
    input.closest("[data-strategy]")?.removeAttribute("hidden");
  }
}

function soon() {
  label();
  clearTimeout(timer);
  asking?.abort();
  seen.value = ""; // what was drawn before is not what would be started now
  if (version.value.trim()) timer = setTimeout(redraw, PAUSE);
}

form.addEventListener("input", soon);
strategy.addEventListener("change", () => {
  reveal();
  soon();
});
form.addEventListener("submit", (event) => {
  if (start.getAttribute("aria-disabled")) event.preventDefault();
  start.setAttribute("aria-disabled", "true");
  start.textContent = "Starting…";
});
// Back from the next page: the form is as it was, and can be sent again.
addEventListener("pageshow", (event) => event.persisted && location.reload());
for (const pick of document.querySelectorAll(".pick"))
  pick.addEventListener("click", (event) => {
    event.preventDefault();
    version.value = pick.dataset.version;
    soon();
    version.focus();
  });
if (version.value && !seen.value && !form.querySelector(".errorlist")) soon();
