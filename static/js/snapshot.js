// A deployment as data. Pure: nothing here touches the page, the clock or the network.
//
// What it holds after every event was applied is what GET /api/v1/deployments/{id} answers.
// No snapshot is ever changed; a new one shares with the old one all that no event touched, so
// two of them are compared by identity, and many may be kept.

// Where each instance stands among the targets. The order never changes, so every list of
// targets that comes from another shares the other's.
const places = new WeakMap();

function placesOf(targets) {
  let found = places.get(targets);
  if (!found) {
    found = new Map(targets.map((target, place) => [target.instance, place]));
    places.set(targets, found);
  }
  return found;
}

export const placeOf = ({ targets }, instance) => placesOf(targets).get(instance);

// Apply the events that come next, in order and each once. A gap ends it: the caller has to
// ask for what lies between. In a patch each field is replaced, but targets are matched by
// instance; the patch of the first event is the whole snapshot.
export function advance(held, events) {
  const next = { ...held };
  const applied = [];
  let gap = false;
  for (const event of inOrder(events)) {
    if (event.seq <= next.seq) continue;
    gap = event.seq !== next.seq + 1;
    if (gap) break;
    const { targets, ...fields } = event.patch;
    Object.assign(next, fields, { seq: event.seq });
    if (targets) merge(held, next, targets);
    applied.push(event);
  }
  return { held: applied.length ? next : held, applied, gap };
}

const inOrder = (events) => [...events].sort((one, other) => one.seq - other.seq);

// The list is copied once for all events, and of the targets only those that are patched.
function merge(held, next, patched) {
  if (!next.targets?.length) {
    next.targets = [...patched]; // the event keeps its own
    return;
  }
  const known = placesOf(next.targets);
  if (next.targets === held.targets) {
    next.targets = [...held.targets];
    places.set(next.targets, known);
  }
  for (const patch of patched) {
    const place = known.get(patch.instance);
    if (place !== undefined) next.targets[place] = { ...next.targets[place], ...patch };
  }
}

// A snapshot replaces all, unless it is older than what is held.
export const newer = (held, snapshot) => !held || snapshot.seq >= held.seq;

// What differs between two states of one deployment: names of fields, and targets as they are in
// the later one.
export function changes(before, after) {
  const fields = new Set(Object.keys(after).filter((name) => before?.[name] !== after[name]));
  if (!fields.has("targets")) return { fields, targets: [] };
  const old = before?.targets ?? [];
  return { fields, targets: after.targets.filter((target, place) => target !== old[place]) };
}

export function firstFailure(events) {
  return events.find(
    (event) =>
      event.kind === "target" &&
      (event.patch.targets ?? []).some((target) => target.status === "failed"),
  );
}
