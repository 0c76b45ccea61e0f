// A socket that comes back. Its state is what the freshness badge says.
//
// Whatever closes it, it opens again with back-off and jitter; one that says nothing for
// SILENCE is as good as closed. The page decides what to ask for: `url` is called each time.

const SILENCE = 12_000; // milliseconds without a word, after which the page is stale
const FIRST_DELAY = 250;
const LONGEST_DELAY = 5_000;
const SIGNED_OUT = 4401;

export class Live extends EventTarget {
  state = "connecting"; // then: live, reconnecting, offline, signed-out
  attempt = 0;
  stale = false;
  lastHeard = Date.now(); // the page itself was fresh when it came
  #url;
  #socket = null;
  #timer = 0;
  #opened = 0;

  constructor(url) {
    super();
    this.#url = url;
  }

  start() {
    this.#connect();
    setInterval(() => this.#check(), 1_000);
    addEventListener("online", () => this.again());
    addEventListener("offline", () => this.#tell("offline"));
    document.addEventListener("visibilitychange", () => {
      this.#check();
      this.#wake();
    });
    addEventListener("focus", () => this.#wake());
  }

  // Drop the connection and open another, as after a gap.
  again() {
    this.#forget();
    this.#later();
  }

  // Something else than the socket brought news: the page is as fresh as that.
  refreshed() {
    this.lastHeard = Date.now();
    this.#changed();
  }

  signedOut() {
    if (this.state === "signed-out") return;
    this.#forget();
    clearTimeout(this.#timer);
    this.#tell("signed-out");
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#opened = Date.now();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${this.#url()}`);
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#heard();
      this.dispatchEvent(new CustomEvent("message", { detail: JSON.parse(data) }));
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      if (code === SIGNED_OUT) this.signedOut();
      else if (this.state !== "signed-out") this.#later();
    };
  }

  // Who comes back to the page may have logged in again in another tab.
  #wake() {
    if (this.state === "signed-out" && !this.#socket && !document.hidden) this.#connect();
  }

  #heard() {
    this.lastHeard = Date.now();
    this.attempt = 0;
    if (this.state !== "live" || this.stale) {
      const back = this.stale;
      this.stale = false;
      this.#tell("live");
      if (back) this.dispatchEvent(new Event("back"));
    }
  }

  #later() {
    this.attempt += 1;
    this.#tell(navigator.onLine ? "reconnecting" : "offline");
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (this.attempt - 1));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), longest * (0.5 + Math.random() / 2));
  }

  #check() {
    const silent = Date.now() - Math.max(this.lastHeard, this.#opened) > SILENCE;
    if (this.#socket && silent && this.state !== "signed-out") this.again();
    const live = this.state === "live";
    if (!live && !this.stale && Date.now() - this.lastHeard > SILENCE) {
      this.stale = true;
      this.#changed();
      this.dispatchEvent(new Event("stale"));
    }
  }

  #forget() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #tell(state) {
    this.state = state;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("state"));
  }
}
