// The badge that says how old the page is, and the poll while the socket is away.
import { make } from "./dom.js";
import { clock, now } from "./time.js";

const POLL = 3_000;
const GLYPHS = { live: "●", connecting: "○", reconnecting: "◌", offline: "✕", "signed-out": "✕" };

// Where one logs in and comes back to the same place.
export const loginUrl = () =>
  `/login/?next=${encodeURIComponent(location.pathname + location.search + location.hash)}`;

// Who logs in again in another tab has another token: a form is sent with the one that counts.
addEventListener(
  "submit",
  ({ target }) => {
    const token = document.cookie.match(/(?:^|; )csrftoken=(\w+)/)?.[1];
    const field = target.querySelector("[name=csrfmiddlewaretoken]");
    if (token && field) field.value = token;
  },
  true,
);

export function badge(live) {
  const node = document.getElementById("freshness");
  const glyph = node.querySelector(".fresh-glyph");
  const words = node.querySelector(".fresh-words");
  const troubles = document.getElementById("troubles"); // none where the page itself tells of them
  let late = 0;
  let told = "";
  const show = () => {
    const asOf = `as of ${clock(live.lastHeard + (now() - Date.now()))}`;
    node.dataset.state = late && live.state === "live" ? "late" : live.state;
    glyph.textContent = GLYPHS[live.state];
    document.documentElement.toggleAttribute("data-stale", live.stale);
    if (live.state === "signed-out") {
      words.replaceChildren(`Signed out, ${asOf}. `, make("a", { href: loginUrl() }, "Log in"));
      return;
    }
    const text = {
      live: late ? `Live, up to ${late} s late` : "Live",
      connecting: `Connecting, ${asOf}`,
      reconnecting: `Reconnecting (${live.attempt}), ${asOf}`,
      offline: `Offline, ${asOf}`,
    }[live.state];
    if (words.textContent !== text) words.textContent = text;
  };
  live.addEventListener("state", show);
  live.addEventListener("message", ({ detail }) => {
    if (detail.type !== "heartbeat") return;
    late = detail.late;
    show();
    const found = detail.troubles.join();
    if (!troubles || found === told) return;
    told = found;
    troubles.replaceChildren(...detail.troubles.map(trouble));
  });
  show();
}

const trouble = (text) =>
  make("p", { class: "notice fail" }, make("span", { "aria-hidden": "true" }, "✕"), ` ${text}`);

// While the page is stale, ask `look` again and again; it returns whether it learned something.
export function pollWhileStale(live, look) {
  const turn = async () => {
    if (!live.stale || live.state === "signed-out") return;
    try {
      if (await look()) live.refreshed();
    } catch {
      // Out of reach: the badge says so already.
    }
    setTimeout(turn, POLL);
  };
  live.addEventListener("stale", turn);
}

// Fetch JSON of our own; null where it is not to be had. Says so when the session is over.
export async function fetchJson(url, live) {
  const answer = await fetch(url, {
    headers: { Accept: "application/json" },
    signal: AbortSignal.timeout(8_000),
  });
  if (answer.status === 401 || answer.redirected) {
    live.signedOut();
    return null;
  }
  return answer.ok ? answer.json() : null;
}
