// A deployment as data. Pure: nothing here touches the page, the clock or the network.
//
// What it holds after every event was applied is what GET /api/v1/deployments/{id} answers.

// How one patch applies: each field is replaced, but targets are matched by instance. The
// patch of the first event is the whole snapshot.
export function patched(held, event) {
  const result = { ...held, ...event.patch };
  const { targets } = event.patch;
  if (targets && held.targets) {
    const changed = new Map(targets.map((target) => [target.instance, target]));
    result.targets = held.targets.map((target) => ({ ...target, ...changed.get(target.instance) }));
  }
  return result;
}

// Apply the events that come next, in order and each once. A gap ends it: the caller has to
// ask for what lies between.
export function advance(held, events) {
  let next = held;
  const applied = [];
  for (const event of [...events].sort((one, other) => one.seq - other.seq)) {
    if (event.seq <= next.seq) continue;
    if (event.seq !== next.seq + 1) return { held: next, applied, gap: true };
    next = { ...patched(next, event), seq: event.seq };
    applied.push(event);
  }
  return { held: next, applied, gap: false };
}

// A snapshot replaces all, unless it is older than what is held.
export const newer = (held, snapshot) => !held || snapshot.seq >= held.seq;

// The instances whose shown fields differ between two states of one deployment.
export function touched(before, after) {
  if (!before || before.status !== after.status) return after.targets.map((one) => one.instance);
  const old = new Map(before.targets.map((target) => [target.instance, target]));
  return after.targets
    .filter((target) => old.get(target.instance) !== target && !same(old.get(target.instance), target))
    .map((target) => target.instance);
}

const same = (one, other) => one !== undefined && JSON.stringify(one) === JSON.stringify(other);

export function firstFailure(events) {
  return events.find(
    (event) =>
      event.kind === "target" &&
      (event.patch.targets ?? []).some((target) => target.status === "failed"),
  );
}
