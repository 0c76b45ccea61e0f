"""Pure: service, instances and policy to steps; also the way back from any point.

A plan is made once and stored. It says who is changed together and in which order; how many
of a batch may be out at any instant is decided by `admit` each time, on what is out by then.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rollouts import strategies, weights
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
from rollouts.policy import Policy, resolve
from rollouts.states import IN_FLIGHT, DeploymentStatus, TargetStatus
from rollouts.strategies import Observed, limit_of, size_of

SLOTS = ("blue", "green")
UNEQUAL = 0.1  # part by which the capacity of two slots may differ unmentioned


@dataclass(frozen=True)
class Plan:
    """What a deployment will do: its steps, and which batch each instance is in."""

    steps: tuple[Step, ...]
    batches: tuple[tuple[Observed, ...], ...]
    limit: int  # most instances out at once
    least: int  # instances with traffic at any instant, at least
    warnings: tuple[str, ...]
    same_version: bool  # every instance to be changed runs the version already
    previous: str  # the version that has the traffic

    @property
    def total(self) -> int:
        """Return the number of instances to be changed."""
        return sum(len(batch) for batch in self.batches)


class Refused(ValueError):
    """No plan can be made; `errors` maps each key to what would be right."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in errors.items()))
        self.errors = dict(errors)


def plan(version: str, observed: Sequence[Observed], policy: Policy, live_slot: str = "") -> Plan:
    """Return what the policy's strategy does: what is out or unhealthy first.

    `live_slot` is the slot that has the traffic, or "" to go by what was observed. Raises
    Refused for no instance, for a single one without `allow_downtime`, and for slots that
    can't be told apart.
    """
    if not observed:
        raise Refused(
            {"instances": "the service has no active instance; add or activate one first"}
        )
    if policy.strategy == "blue_green":
        live = live_of(observed, live_slot)
        course = strategies.blue_green(observed, policy, live)
        return _made(version, observed, policy, course, _slot_warnings(observed, live))
    if len(observed) == 1 and not policy.allow_downtime:
        raise Refused(
            {
                "allow_downtime": "the service has a single instance and would be down during the "
                "update; set allow_downtime to true, or add an instance"
            }
        )
    if policy.strategy == "canary":
        course = strategies.canary(observed, policy)
        return _made(version, observed, policy, course, _canary_warnings(observed, policy))
    return _made(version, observed, policy, strategies.rolling(observed, policy), ())


def swap(observed: Sequence[Observed], policy: Policy, live_slot: str = "") -> tuple[str, Plan]:
    """Return the version of the idle slot, and how the traffic moves to it; raise Refused."""
    live = live_of(observed, live_slot)
    course = strategies.swap(observed, live)
    versions = {one.version for one in course.batches[0]}
    if len(versions) > 1 or "" in versions:
        told = names(sorted(one or "an unknown version" for one in versions))
        raise Refused({"slots": f"the idle slot runs {told}; deploy one version to it first"})
    [version] = versions
    return version, _made(version, observed, policy, course, _slot_warnings(observed, live))


def _made(
    version: str,
    observed: Sequence[Observed],
    policy: Policy,
    course: strategies.Course,
    warnings: Sequence[str],
) -> Plan:
    changed = [one for batch in course.batches for one in batch]
    names_changed = {one.instance.name for one in changed}
    rest = [one for one in observed if one.instance.name not in names_changed]
    limit = limit_of(policy, len(changed))
    return Plan(
        course.steps,
        course.batches,
        limit,
        len(rest) or max(0, len(changed) - limit),
        (*warnings, *_warnings(version, changed, policy, slots=bool(rest))),
        all(one.version == version for one in changed),
        Counter(one.version for one in rest or changed).most_common(1)[0][0],
    )


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


def _slot_warnings(observed: Sequence[Observed], live: str) -> tuple[str, ...]:
    capacity = Counter(dict.fromkeys(SLOTS, 0))
    for one in observed:
        capacity[one.instance.slot] += one.weight
    idle = SLOTS[1 - SLOTS.index(live)]
    warnings: list[str] = []
    if abs(capacity[idle] - capacity[live]) > UNEQUAL * capacity[live]:
        counts = Counter(one.instance.slot for one in observed)
        warnings.append(
            f"The slots are unequal: {live} has {counts[live]} instances of weight "
            f"{capacity[live]} in all, {idle} {counts[idle]} of {capacity[idle]}."
        )
    if busy := [one for one in observed if one.instance.slot == idle and one.serving]:
        warnings.append(
            f"Both slots have traffic now: {idle} is taken off it first, and {live} "
            f"carries what {len(busy)} instances of {idle} carry."
        )
    return tuple(warnings)


def _canary_warnings(observed: Sequence[Observed], policy: Policy) -> tuple[str, ...]:
    ordered = sorted(observed, key=lambda one: not one.out)
    share = next(step["share"] for step in policy.canary_steps if "share" in step)
    warnings: list[str] = []
    if (count := strategies.needed(ordered, share, policy)) > 1:
        warnings.append(
            f"One instance can't carry the first share of {share:g} %: "
            f"{count} instances get the new version for it."
        )
    new = {one.instance.server: one.weight for one in ordered[:count]}
    old = {one.instance.server: one.weight for one in ordered[count:]}
    full = weights.scale_of(one.weight for one in ordered)
    set_to = weights.split(new, old, share, full)
    real = 100 * sum(set_to[name] for name in new) / sum(set_to.values())
    if abs(real - share) > 0.1 * share:
        warnings.append(
            f"A share of {share:g} % can't be set with weights from 1 to {weights.MOST} on so few "
            f"instances: it will be {real:.2g} %."
        )
    return tuple(warnings)


def _warnings(
    version: str, observed: Sequence[Observed], policy: Policy, *, slots: bool
) -> tuple[str, ...]:
    """Return what is to be known of the instances that are changed; with `slots` an idle one."""
    total = len(observed)
    warnings: list[str] = []
    out = [] if slots else [one.instance.name for one in observed if one.out]
    limit = limit_of(policy, total)
    if out:
        warnings.append(f"Out or unhealthy now, and changed first: {names(out)}.")
    if len(out) > limit:
        warnings.append(
            f"{len(out)} are out already, more than max_unavailable ({limit}): "
            "no healthy instance is touched until enough of them are back."
        )
    if limit < resolve(policy.max_unavailable, total):
        warnings.append(
            f"max_unavailable would allow all {total} to be out: at most {limit} at once will be."
        )
    if all(one.version == version for one in observed):
        warnings.append(
            f"Every instance runs {version} already: "
            + (
                "they are restarted with it."
                if policy.allow_same_version
                else "allow_same_version must be true to deploy it again."
            )
        )
    if unknown := [one.instance.name for one in observed if not one.version]:
        warnings.append(f"No known old version, so no way back: {names(unknown)}.")
    if not policy.auto_rollback:
        warnings.append("Rollback is switched off: a bad version stays where it failed.")
    return tuple(warnings)


def names(items: Sequence[str], most: int = 5) -> str:
    """Return the first `most` items for a sentence, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


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
    """Return the names of the targets that serve nobody at this instant.

    These are those that the balancer sends no requests to, and those that were found unhealthy
    and were not cured since (`unhealthy`).
    """
    down = set(unhealthy)
    for target in rollout.targets:
        server = report.servers.get(target.instance.server)
        if server is None or not server.serving:
            down.add(target.instance.name)
    return frozenset(down)


def out_now(rollout: Rollout, down: Collection[str]) -> frozenset[str]:
    """Return the names of the targets that count as out: `down`, being changed, or held out."""
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
    more need no batches.
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
    together = (Change(1, tuple(one.instance.name for one in back)),) if back else ()
    return (Shift(0), *together, Restore())


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
    well = [one.instance.name for one in back if one.status is TargetStatus.HEALTHY]
    broken = [one.instance.name for one in back if one.status is not TargetStatus.HEALTHY]
    size = size_of(rollout.policy, len(rollout.targets))
    groups = [broken, *(well[first : first + size] for first in range(0, len(well), size))]
    return tuple(
        Change(number, tuple(group), share)
        for number, group in enumerate((group for group in groups if group), 1)
    )


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
