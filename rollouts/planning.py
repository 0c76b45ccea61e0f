"""Pure: service, instances and policy to steps; also the way back from any point.

A plan is made once and stored. It says who is changed together and in which order; how many
of a batch may be out at any instant is decided by `admit` each time, on what is out by then.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rollouts import cautions, strategies, weights
from rollouts.cautions import names as names
from rollouts.facts import (
    Approve,
    Bake,
    BalancerReport,
    Change,
    Pause,
    Prepare,
    Restore,
    Retire,
    Rollout,
    Shift,
    Step,
    Target,
)
from rollouts.policy import Policy
from rollouts.states import IN_FLIGHT, DeploymentStatus, TargetStatus
from rollouts.strategies import SLOTS, Observed, limit_of, size_of, zone_of


@dataclass(frozen=True)
class Plan:
    """What a deployment will do: its steps, and which batch each instance is in."""

    steps: tuple[Step, ...]
    batches: tuple[tuple[Observed, ...], ...]
    fleet: int  # instances of which these are in rotation at any instant:
    least: int
    limit: int  # most instances out at once
    warnings: tuple[str, ...]
    same_version: bool  # every instance to be changed runs the version already
    previous: str  # the version that has the traffic
    in_service: tuple[int, ...]  # instances in rotation while each batch is changed, at least

    @property
    def total(self) -> int:
        """Return the number of instances to be changed."""
        return sum(len(batch) for batch in self.batches)


class Refused(ValueError):
    """No plan can be made; `errors` maps each key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


def plan(
    version: str,
    observed: Sequence[Observed],
    policy: Policy,
    live_slot: str = "",
    only: Collection[str] | None = None,
) -> Plan:
    """Return what the policy's strategy does: in each zone what is out or unhealthy first.

    `observed` is the whole fleet, of which `only` the instances of these names are changed.
    `live_slot` is the slot that has the traffic, or "" to go by what was observed. Raises
    Refused for no instance, for a single one that serves and without `allow_downtime`, for
    unknown zones, and for slots that can't be told apart.
    """
    if not observed:
        raise Refused(
            {"instances": "the service has no active instance; add or activate one first"}
        )
    _refuse_zones(observed, policy)
    if only is not None:
        return _plan_only(version, observed, policy, only)
    if policy.strategy == "blue_green":
        live = live_of(observed, live_slot)
        course = strategies.blue_green(observed, policy, live)
        return _made(version, observed, policy, course, cautions.of_slots(observed, live))
    _refuse_downtime(observed, policy)
    if policy.strategy == "canary":
        course = strategies.canary(observed, policy)
        return _made(version, observed, policy, course, cautions.of_canary(observed, policy))
    course = strategies.rolling(observed, policy, len(observed))
    return _made(version, observed, policy, course, ())


def _plan_only(
    version: str, observed: Sequence[Observed], policy: Policy, only: Collection[str]
) -> Plan:
    """Return how some of the fleet are changed, the rest being counted; raise Refused."""
    if policy.strategy != "rolling":
        raise Refused(
            {
                "instances": f"a {policy.strategy.replace('_', '/')} deployment changes the fleet "
                "as a whole; set strategy to rolling to change some instances of it"
            }
        )
    known = {one.instance.name for one in observed}
    if unknown := [name for name in only if name not in known]:
        raise Refused({"instances": f"not among the active instances: {names(unknown)}"})
    if not only:
        raise Refused({"instances": "name one at least, or leave it out to change all"})
    _refuse_downtime(observed, policy)
    changed = [one for one in observed if one.instance.name in only]
    course = strategies.rolling(changed, policy, len(observed))
    return _made(version, observed, policy, course, ())


def _refuse_downtime(observed: Sequence[Observed], policy: Policy) -> None:
    down = observed[0].serving is False
    if len(observed) == 1 and not down and not policy.allow_downtime:
        raise Refused(
            {
                "allow_downtime": "the service has a single instance and would be down during the "
                "update; set allow_downtime to true, or add an instance"
            }
        )


def _refuse_zones(observed: Sequence[Observed], policy: Policy) -> None:
    zones = {one.instance.zone for one in observed}
    if unknown := [zone for zone in policy.zone_order if policy.by_zone and zone not in zones]:
        there = names(sorted(zones - {""})) or "none"
        raise Refused(
            {"zone_order": f"no active instance is in {names(unknown)}; zones are: {there}"}
        )


def swap(observed: Sequence[Observed], policy: Policy, live_slot: str = "") -> tuple[str, Plan]:
    """Return the version of the idle slot, and how the traffic moves to it; raise Refused."""
    live = live_of(observed, live_slot)
    course = strategies.swap(observed, live)
    versions = {one.version for one in course.batches[0]}
    if len(versions) > 1 or "" in versions:
        told = names(sorted(one or "an unknown version" for one in versions))
        raise Refused({"slots": f"the idle slot runs {told}; deploy one version to it first"})
    [version] = versions
    return version, _made(version, observed, policy, course, cautions.of_slots(observed, live))


def _made(
    version: str,
    observed: Sequence[Observed],
    policy: Policy,
    course: strategies.Course,
    warnings: Iterable[str],
) -> Plan:
    changed = [one for batch in course.batches for one in batch]
    names_changed = {one.instance.name for one in changed}
    rest = [one for one in observed if one.instance.name not in names_changed]
    slots = policy.strategy == "blue_green"
    serving = rest if slots else changed
    fleet = len(changed) if slots else len(observed)
    limit = limit_of(policy, fleet)
    told = [*warnings, *cautions.of_zones(changed, rest, policy, limit)]
    if not slots:
        told += cautions.of_who_is_out(changed, rest, policy, limit)
    return Plan(
        course.steps,
        course.batches,
        fleet,
        len(rest) if slots else _least(changed, rest, policy),
        limit,
        (*told, *cautions.of_versions(version, changed, policy)),
        all(one.version == version for one in changed),
        Counter(one.version for one in serving or changed).most_common(1)[0][0],
        (len(rest),) * len(course.batches) if slots else _in_service(course.batches, rest, limit),
    )


def _in_service(
    batches: Sequence[strategies.Batch], rest: Sequence[Observed], limit: int
) -> tuple[int, ...]:
    """Return how many of a fleet are in rotation at least, while each of the batches is changed.

    Whoever is out stays so until its own batch; of a batch only so many go out at once as
    `limit` leaves room for.
    """
    total = len(rest) + sum(len(batch) for batch in batches)
    waiting = sum(one.serving is False for batch in batches for one in batch)
    others = sum(one.serving is False for one in rest)
    found: list[int] = []
    for batch in batches:
        down = sum(one.serving is False for one in batch)
        room = max(0, limit - others - waiting)
        found.append(total - others - waiting - min(room, len(batch) - down))
        waiting -= down
    return tuple(found)


def _least(changed: Sequence[Observed], rest: Sequence[Observed], policy: Policy) -> int:
    """Return how many of a fleet are in rotation at any instant, at least."""
    total = len(changed) + len(rest)
    already = sum(one.serving is False for one in (*changed, *rest))
    may_be = already + sum(one.serving is not False for one in changed)
    return total - max(already, min(limit_of(policy, total), may_be))


def live_of(observed: Sequence[Observed], live_slot: str) -> str:
    """Return the slot that has the traffic; raise Refused where there are no two slots."""
    without = [one.instance.name for one in observed if one.instance.slot not in SLOTS]
    if without:
        raise Refused(
            {
                "strategy": "blue_green needs every active instance in slot blue or green; "
                f"without a slot: {names(without)}"
            }
        )
    for slot in SLOTS:
        if not any(one.instance.slot == slot for one in observed):
            raise Refused(
                {"strategy": f"blue_green needs instances in both slots; {slot} is empty"}
            )
    if live_slot:
        return live_slot
    serving = Counter(one.instance.slot for one in observed if one.serving)
    return max(SLOTS, key=lambda slot: serving[slot])  # blue, where both have as many


def expected_seconds(plan: Plan, policy: Policy, per_batch: float) -> float:
    """Return about how long `plan` takes, at `per_batch` seconds for one batch."""
    changes = sum(isinstance(step, Change) for step in plan.steps)
    each = per_batch + policy.min_healthy_time + policy.slow_start
    return changes * each + waits(plan.steps)


def waits(steps: Iterable[Step]) -> float:
    """Return the seconds that are only waited in `steps`, what a person takes left out."""
    return sum(step.seconds for step in steps if isinstance(step, Pause | Bake))


def down_now(
    rollout: Rollout, report: BalancerReport, unhealthy: Collection[str]
) -> frozenset[str]:
    """Return the names of the instances of the fleet that serve nobody at this instant.

    These are those that the balancer sends no requests to, and those that were found unhealthy
    and were not cured since (`unhealthy`).
    """
    down = set(unhealthy)
    for instance in (*(target.instance for target in rollout.targets), *rollout.others):
        server = report.servers.get(instance.server)
        if server is None or not server.serving:
            down.add(instance.name)
    return frozenset(down)


def out_now(rollout: Rollout, down: Collection[str]) -> frozenset[str]:
    """Return the names of the instances that count as out: `down`, being changed, or held out."""
    changing = {
        target.instance.name
        for target in rollout.targets
        if target.status in IN_FLIGHT or target.status is TargetStatus.FAILED
    }
    return frozenset(changing | set(down))


def admit(
    waiting: Iterable[str], out: Collection[str], down: Collection[str], limit: int
) -> tuple[str, ...]:
    """Return which of `waiting` may be taken out now (S1).

    What is `down` may always be changed; of the rest as many as keep the number of those that
    count as `out` at or below `limit`. One that counts as out may serve all the same, where
    whoever began to change it died, or the balancer forgot.
    """
    counted = set(out)
    admitted: list[str] = []
    for name in waiting:
        if name in down:
            admitted.append(name)
        elif len(counted | {name}) <= limit:
            counted.add(name)
            admitted.append(name)
    return tuple(admitted)


def to_bring_back(rollout: Rollout, everything: bool) -> tuple[Target, ...]:
    """Return the targets that have to go back to their old versions, out of rotation first.

    With `everything` those that were given the new version and are well on it too.
    """
    broken = [
        target
        for target in rollout.targets
        if target.status in IN_FLIGHT or target.status is TargetStatus.FAILED
    ]
    well = [one for one in rollout.targets if one.status is TargetStatus.HEALTHY and one.touched]
    return (*broken, *(well if everything else ()))


def way_back(rollout: Rollout, *, everything: bool) -> tuple[Step, ...]:
    """Return the steps back: what is out of rotation first, then the rest in batches.

    Where traffic was shifted the new side loses all of it first, and those that get none any
    more need no batches. Zones that are kept apart stay so: the one that was begun last comes
    first, and what is out of rotation in any of them before all that is well.
    """
    shift = _begun_shift(rollout)
    back = to_bring_back(rollout, everything)
    if shift is None:
        return _changes(rollout, back)
    if not everything:
        held = weights.last_shift(rollout) or shift
        return (held, *_changes(rollout, back, 0 if shift.old else None), held) if back else ()
    if shift.old:
        return (Shift(0, shift.old), *_changes(rollout, back, 0))
    if not _old_side_carries_all(rollout):
        return (*_changes(rollout, back), Restore())
    together = _by_zone(rollout, back)
    changes = (Change(number, zone) for number, zone in enumerate(together, 1))
    return (Shift(0), *changes, Restore())


def retired(rollout: Rollout) -> tuple[str, ...]:
    """Return the servers of the old slot, once they were taken out of rotation for good."""
    done = () if rollout.going_back else rollout.plan[: rollout.cursor]
    return tuple(name for step in done if isinstance(step, Retire) for name in step.old)


def _begun_shift(rollout: Rollout) -> Shift | None:
    """Return the last shift that was done, or may have been; None where none was begun."""
    begun = rollout.plan[: rollout.cursor + 1]
    return next((step for step in reversed(begun) if isinstance(step, Shift)), None)


def _old_side_carries_all(rollout: Rollout) -> bool:
    """Whether the new side may lose its traffic at once: each of the old side then gets twice
    its usual part at most, for as long as the way back takes.
    """
    old = sum(target.status is TargetStatus.PENDING for target in rollout.targets)
    return 2 * old >= len(rollout.targets)


def _changes(
    rollout: Rollout, back: Sequence[Target], share: float | None = None
) -> tuple[Change, ...]:
    """Return the steps that bring `back` to their old versions, those out of rotation first."""
    well = [one for one in back if one.status is TargetStatus.HEALTHY]
    broken = [one for one in back if one.status is not TargetStatus.HEALTHY]
    size = size_of(rollout.policy, rollout.size)
    groups = _by_zone(rollout, broken)
    for zone in _by_zone(rollout, well):
        groups += [zone[first : first + size] for first in range(0, len(zone), size)]
    return tuple(Change(number, group, share) for number, group in enumerate(groups, 1))


def _by_zone(rollout: Rollout, targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """Return the names of `targets`, zone by zone where they are kept apart, the last one first."""
    names_in: dict[str, list[str]] = {}
    for zone in reversed(dict.fromkeys(_zone(rollout, one) for one in rollout.targets)):
        names_in[zone] = [one.instance.name for one in targets if _zone(rollout, one) == zone]
    return [tuple(held) for held in names_in.values() if held]


def _zone(rollout: Rollout, target: Target) -> str:
    return zone_of(target.instance, rollout.policy)


def ending(cancelled: bool) -> DeploymentStatus:
    """Return what the way back leads to if it succeeds."""
    return DeploymentStatus.CANCELLED if cancelled else DeploymentStatus.ROLLED_BACK


KINDS: dict[str, Callable[..., Step]] = {
    "prepare": Prepare,
    "change": Change,
    "pause": Pause,
    "shift": Shift,
    "bake": Bake,
    "approve": Approve,
    "retire": Retire,
    "restore": Restore,
}


def steps_to_json(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return `steps` as they are stored."""
    return [{"kind": type(step).__name__.lower(), **_listed(asdict(step))} for step in steps]


def _listed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(it) if isinstance(it, tuple) else it for key, it in fields.items()}


def steps_from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return the steps that `steps_to_json` stored; raise KeyError for an unknown kind."""
    return tuple(
        KINDS[step["kind"]](
            **{
                key: tuple(it) if isinstance(it, list) else it
                for key, it in step.items()
                if key != "kind"
            }
        )
        for step in stored
    )
