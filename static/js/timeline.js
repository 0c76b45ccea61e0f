// A deployment in time: its events, and the state after any of them. Pure: nothing here touches
// the page, the clock or the network.
import { advance } from "./snapshot.js";

const EVERY = 256; // events between two states that are kept
const PATIENCE = 5_000; // milliseconds on the screen in which nothing is said, until it is skipped
const NOTICE = 1_000; // of them, before and after what is skipped

export class Timeline {
  #events = [];
  #times = []; // of the events, never going back: workers' clocks may differ
  #told = []; // the numbers of the events that say something
  #kept = [{ seq: 0 }];
  #latest = { seq: 0 }; // the state that was asked for last

  // The next events, in order from the first.
  add(events) {
    for (const event of events) {
      this.#events.push(event);
      this.#times.push(Math.max(Date.parse(event.at), this.#times.at(-1) ?? 0));
      if (event.message) this.#told.push(event.seq);
    }
  }

  get last() {
    return this.#events.length;
  }

  time(seq) {
    return this.#times[seq - 1];
  }

  // The state after the event of that number. States share what no event between them changed.
  at(seq) {
    const whole = Math.floor(seq / EVERY);
    while (this.#kept.length <= whole) {
      const from = (this.#kept.length - 1) * EVERY;
      this.#kept.push(advance(this.#kept.at(-1), this.#events.slice(from, from + EVERY)).held);
    }
    const kept = this.#kept[whole];
    const from = this.#latest.seq > kept.seq && this.#latest.seq <= seq ? this.#latest : kept;
    this.#latest = advance(from, this.#events.slice(from.seq, seq)).held;
    return this.#latest;
  }

  // The last event that had come at a time.
  seqAt(time) {
    return Math.max(1, above(this.#times, time));
  }

  // The last event up to `seq` that says something; null where none does.
  toldAt(seq) {
    return this.#event(above(this.#told, seq) - 1);
  }

  toldBefore(seq) {
    return this.#event(above(this.#told, seq - 1) - 1);
  }

  toldAfter(seq) {
    return this.#event(above(this.#told, seq));
  }

  #event(place) {
    return this.#events[this.#told[place] - 1] ?? null;
  }

  // The lines of the log: the next ones after an event, or the last ones before another.
  lines({ after, before, "log-kind": kind, "log-instance": instance }, count) {
    const wanted = (seq) => {
      const event = this.#events[seq - 1];
      return (!kind || event.kind === kind) && (!instance || event.target === instance);
    };
    const found = [];
    if (after !== undefined) {
      for (let place = above(this.#told, after); place < this.#told.length && found.length < count; place += 1)
        if (wanted(this.#told[place])) found.push(this.#event(place));
      return found;
    }
    for (let place = above(this.#told, before - 1) - 1; place >= 0 && found.length < count; place -= 1)
      if (wanted(this.#told[place])) found.push(this.#event(place));
    return found.reverse();
  }

  // Where the replay is after so many milliseconds at a speed, and how much it skipped.
  play(time, elapsed, speed) {
    const end = this.#times.at(-1);
    const next = Math.min(end, time + elapsed * speed);
    const seq = this.seqAt(time);
    const told = this.toldAfter(seq);
    if (!told) return { time: end, skipped: 0 };
    const before = this.time(this.toldAt(seq)?.seq ?? 1);
    const coming = this.time(told.seq);
    const silent = coming - before > PATIENCE * speed;
    const until = coming - NOTICE * speed;
    if (!silent || next - before < NOTICE * speed || next >= until) return { time: next, skipped: 0 };
    return { time: until, skipped: until - next };
  }
}

// How many of the ascending numbers are not above the limit.
function above(numbers, limit) {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
