// Notifications of the browser: by opt-in, only while the page is hidden, and only when the
// deployment has ended or somebody has to decide. Loaded once somebody asks for them.
import { decision } from "./stages.js";
import { isActive, lookOf } from "./states.js";

const KEY = "notify";
const button = document.getElementById("notify");
let told = null; // what was told of last, or seen on the page

// The permission may be taken back at any time.
const wanted = () => localStorage.getItem(KEY) === "on" && Notification.permission === "granted";

function draw() {
  const on = wanted();
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "✓ Notifying" : "Notify me";
  const denied = Notification.permission === "denied";
  button.title = denied ? "The browser forbids this site to notify; its settings say where to allow it." : "";
}

// Permission is asked for on a click, and never otherwise.
export async function toggle() {
  const on = !wanted() && (await Notification.requestPermission()) === "granted";
  localStorage.setItem(KEY, on ? "on" : "off");
  draw();
}

export function watch(held) {
  const ended = !isActive(held.status);
  const words = ended ? held.reason : decision(held);
  const what = ended ? "ended" : words && `asked ${held.step}`;
  const news = what && what !== told && told !== null;
  told = what;
  if (!news || !document.hidden || !wanted()) return;
  const title = `${held.service} ${held.version}: ${lookOf(held).word}`;
  const icon = document.getElementById("favicon").href;
  const shown = new Notification(title, { body: words, tag: held.id, icon });
  shown.onclick = () => {
    window.focus();
    shown.close();
  };
}

draw();
