"""Pure: a share of the traffic to the balancer's weights, for any mix of instance weights.

A side is what runs one version: of a canary the instances that were changed and those that were
not, of blue/green the two slots. All weights of a deployment that shifts traffic are on one
scale, so that a server that enters or is told again fits to the others.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rollouts.facts import Change, Restore, Rollout, Shift, Target
from rollouts.states import IN_FLIGHT, SERVING, TargetStatus

T = TargetStatus
MOST = 256  # the largest weight that HAProxy takes
FINE = 100  # the largest weight of a fleet has to be this at least, or shares can't be set

Weights = dict[str, int]


def scale_of(full: Iterable[int]) -> int:
    """Return what to multiply the weights of a fleet by, so that small shares can be set."""
    largest = max(full, default=FINE)
    return max(1, min(MOST // largest, -(-FINE // largest)))


def split(new: Mapping[str, int], old: Mapping[str, int], share: float, scale: int) -> Weights:
    """Return weights that give `new` a share of the traffic in percent, and `old` the rest.

    Both map servers to their weights in normal service. The side that has too much for its
    share is turned down, the other one keeps its weights.
    """
    if not new or not old:
        share = 100.0 if new else 0.0
    if share in (0, 100):
        quiet = new if share == 0 else old
        return {name: 0 if name in quiet else full * scale for name, full in {**old, **new}.items()}
    ratio = share / (100 - share) * sum(old.values()) / sum(new.values())
    return {
        **_turned_down(old, scale * min(1.0, 1 / ratio)),
        **_turned_down(new, scale * min(1.0, ratio)),
    }


def _turned_down(side: Mapping[str, int], factor: float) -> Weights:
    """Return the weights times `factor`, in whole numbers from 1 that add up as exactly as can be.

    By largest remainder: what rounding takes from one, another gets.
    """
    exact = {name: full * factor for name, full in side.items()}
    weights = {name: max(1, int(value)) for name, value in exact.items()}
    missing = round(sum(exact.values())) - sum(weights.values())
    for name in sorted(exact, key=lambda name: int(exact[name]) - exact[name])[: max(0, missing)]:
        weights[name] += 1
    return weights


@dataclass(frozen=True)
class Sides:
    """Who is on which side, as servers; `share` is what the new side was given last."""

    new: tuple[str, ...]
    old: tuple[str, ...]
    share: float


def last_shift(rollout: Rollout) -> Shift | None:
    """Return the shift that holds in the direction followed now, or None."""
    for step in reversed(rollout.steps[: rollout.cursor]):
        if isinstance(step, Shift):
            return step
        if isinstance(step, Restore):
            break
    return None


def sides_at(rollout: Rollout, shift: Shift) -> Sides:
    """Return the sides that `shift` parts the traffic between, as the targets are now."""
    if shift.old:
        new = [one for one in rollout.targets if one.status is not T.FAILED]
        return Sides(_servers(new), shift.old, shift.share)
    untouched = {T.PENDING, T.ROLLED_BACK}
    changing = _under_way(rollout)
    new = [one for one in rollout.targets if one.status is T.HEALTHY]
    old = [one for one in rollout.targets if one.status in untouched]
    if changing and not rollout.going_back:
        # At the shift before, who is being changed now was on the old side.
        names = set(changing.targets)
        new = [one for one in new if one.instance.name not in names]
        old = [one for one in rollout.targets if one in old or one.instance.name in names]
    elif rollout.going_back and not shift.share:
        # Who was about to enter may have traffic already, though that was not written down.
        new += [one for one in rollout.targets if one.status in IN_FLIGHT]
    return Sides(_servers(new), _servers(old), shift.share)


def of_shift(rollout: Rollout, shift: Shift, full: Mapping[str, int]) -> Weights:
    """Return the weights of all servers that `shift` steers, from their `full` ones."""
    sides = sides_at(rollout, shift)
    return split(
        {name: full[name] for name in sides.new if name in full},
        {name: full[name] for name in sides.old if name in full},
        sides.share,
        scale_of(full.values()),
    )


def entering(rollout: Rollout, step: Change, server: str, full: Mapping[str, int]) -> int:
    """Return the weight with which a target of `step` enters rotation.

    Never more than what its share will be once all of the step have entered.
    """
    if server not in full:
        return 0  # the balancer no longer knows it: whoever drains it is told so
    if not steered(rollout):
        return full[server]
    scale = scale_of(full.values())
    if step.share is None:
        return full[server] * scale
    if step.share == 0:
        return 0
    members = {rollout.target(name).instance.server for name in step.targets}
    new = {one.instance.server for one in rollout.targets if one.status is T.HEALTHY} | members
    old = {one.instance.server for one in rollout.targets if one.status is T.PENDING} - members
    parted = split(
        {name: full[name] for name in new if name in full},
        {name: full[name] for name in old if name in full},
        step.share,
        scale,
    )
    return min(parted[server], _room(rollout, step.share, server, members, full))


def _room(
    rollout: Rollout, share: float, server: str, members: Collection[str], full: Mapping[str, int]
) -> int:
    """Return the most that `server` may enter with next to what the last shift left to others.

    It may have turned the old side down, which gets its weights back only with the next one.
    """
    shift = last_shift(rollout)
    if shift is None or share >= 100:
        return MOST
    sides, held = sides_at(rollout, shift), of_shift(rollout, shift, full)
    rest, kept = (
        sum(held.get(name, 0) for name in side if name not in members)
        for side in (sides.old, sides.new)
    )
    room = share / (100 - share) * rest - kept
    return max(1, int(room * full[server] / sum(full.get(name, 0) for name in members)))


def wanted(rollout: Rollout, full: Mapping[str, int]) -> Weights:
    """Return the weights that the balancer should have by now, of the servers that are steered.

    Where no traffic is parted these are the ones that have entered, be it by a ramp.
    """
    if not steered(rollout):
        serving = [one for one in rollout.targets if one.status in SERVING]
        return {server: full[server] for server in _servers(serving) if server in full}
    if any(isinstance(step, Restore) for step in rollout.steps[: rollout.cursor]):
        return {server: full[server] for server in _servers(rollout.targets) if server in full}
    shift = last_shift(rollout)
    if shift is None:
        return {}
    weights = of_shift(rollout, shift, full)
    step = _under_way(rollout)
    if step is None:
        return weights
    for target in map(rollout.target, step.targets):
        server = target.instance.server
        arrived = target.status is (T.ROLLED_BACK if rollout.going_back else T.HEALTHY)
        if server in full and (arrived or (target.touched and target.status in IN_FLIGHT)):
            weights[server] = entering(rollout, step, server, full)
        elif target.status in IN_FLIGHT:
            weights.pop(server, None)  # it gets its weight when it enters
    return weights


def steered(rollout: Rollout) -> bool:
    """Whether the traffic of this deployment is parted by weights."""
    return any(isinstance(step, Shift) for step in rollout.plan)


def _under_way(rollout: Rollout) -> Change | None:
    return rollout.step if isinstance(rollout.step, Change) else None


def _servers(targets: Iterable[Target]) -> tuple[str, ...]:
    return tuple(target.instance.server for target in targets)
