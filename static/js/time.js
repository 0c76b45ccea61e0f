// The server's clock, and times in words. A browser's clock may be wrong by minutes.

let ahead = 0; // milliseconds that the server's clock is ahead of ours

export function heard(iso) {
  const server = Date.parse(iso);
  if (!Number.isNaN(server)) ahead = server - Date.now();
}

let shown = null; // the moment that a replay shows, which is its now

export const setClock = (time) => (shown = time);

export const now = () => shown ?? Date.now() + ahead;

export const secondsSince = (iso) => Math.max(0, (now() - Date.parse(iso)) / 1000);

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) {
    const rest = whole % 60;
    return rest ? `${Math.floor(whole / 60)} min ${rest} s` : `${Math.floor(whole / 60)} min`;
  }
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const two = (number) => String(number).padStart(2, "0");

export function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "";
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

const inFull = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

// Times come from the server in UTC; people read their own clock, and its zone on hover.
export function localise(root) {
  for (const node of root.querySelectorAll("time[datetime]")) {
    const at = new Date(node.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const today = at.toDateString() === new Date(now()).toDateString();
    const day = at.toLocaleDateString(undefined, { day: "numeric", month: "short" });
    const text = today ? clock(at) : `${day} ${clock(at).slice(0, 5)}`;
    if (node.textContent !== text) node.textContent = text;
    node.title = inFull.format(at);
  }
}
