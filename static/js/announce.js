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

// `seen`: the screen shows it in its own place already, so only say it.
export function alert(text, { seen = false } = {}) {
  const box = document.getElementById("alert");
  const classes = seen ? "spoken" : "notice fail";
  box.replaceChildren(make("p", { class: classes }, seen ? text : `✕ ${text}`));
}

export const clearAlert = () => document.getElementById("alert").replaceChildren();
