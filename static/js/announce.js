// What is said aloud. Progress speaks at most every few seconds, the newest wins;
// alerts are for failures, ends, decisions and the connection alone.
import { make } from "./dom.js";

const QUIET = 5_000;
let spoken = 0;
let waiting = null;
let timer = 0;

export function status(text) {
  waiting = text;
  if (timer) return;
  timer = setTimeout(
    () => {
      timer = 0;
      spoken = Date.now();
      document.getElementById("status").textContent = waiting;
    },
    Math.max(0, spoken + QUIET - Date.now()),
  );
}

// What the screen shows in its own place already is only said. It never takes the place of an
// answer to a click, which stays until the next one.
export function tell(text) {
  document.getElementById("told").textContent = text;
}

export function alert(text, ...more) {
  const box = document.getElementById("alert");
  box.replaceChildren(make("p", { class: "notice fail" }, `✕ ${text}`, ...more));
}

export const clearAlert = () => document.getElementById("alert").replaceChildren();
